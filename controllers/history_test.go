// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
)

// TestHistories drives the operator through random histories of a cluster and looks at I1 to I8 at every step. History n of a run has the
// seed HISTORY_SEED+n-1. The seed of the default run is fixed, so that a change is judged by itself and not by luck. To explore:
//
//	HISTORY_SEED=random HISTORY_COUNT=5000 go test -run TestHistories ./controllers -timeout 1h
//
// and to be told the story of one history: HISTORY_SEED=<its seed> HISTORY_COUNT=1.
func TestHistories(t *testing.T) {
	const enough = 3 // failures of a worker are enough to look at
	seed, count := setting(t, "HISTORY_SEED", 1), setting(t, "HISTORY_COUNT", 1000)
	t.Logf("HISTORY_SEED=%d HISTORY_COUNT=%d", seed, count)
	t.Cleanup(collectLessGarbage())
	laboratory := newLaboratory(t)
	workers := min(uint64(runtime.GOMAXPROCS(0)), count)
	for worker := range workers {
		t.Run(fmt.Sprintf("worker %d", worker), func(t *testing.T) {
			t.Parallel()
			for i, failures := worker, 0; i < count && failures < enough; i += workers {
				h := newHistory(log.IntoContext(t.Context(), klog.Logger{}), laboratory, seed+i)
				problem := h.live()
				if problem == "" {
					continue
				}
				failures++
				t.Errorf("history %d: %s\nits story: HISTORY_SEED=%d HISTORY_COUNT=1 go test -run TestHistories ./controllers", i+1, problem, seed+i)
				if count == 1 {
					t.Log("\n" + h.story())
				}
			}
		})
	}
}

// Histories of an operator that has a bug have to tell. The bugs are made by what it is shown, as if it did not look.
func TestHistoriesFindBugs(t *testing.T) {
	const enough = 3000 // histories, of which some have to tell
	laboratory := newLaboratory(t)
	for name, test := range map[string]struct {
		deceive   func(object client.Object)
		violation string
	}{
		"it ends a promotion before step 4": {func(object client.Object) {
			if deployment, ok := object.(*appsv1.Deployment); ok {
				deployment.Status.UpdatedReplicas = deployment.Status.Replicas
			}
		}, "I4"},
		"it ignores that pods are not available": {func(object client.Object) {
			if pod, ok := object.(*corev1.Pod); ok {
				pod.Status.Conditions = []corev1.PodCondition{
					{Type: corev1.PodReady, Status: corev1.ConditionTrue}, {Type: corev1.ContainersReady, Status: corev1.ConditionTrue},
				}
			}
		}, "I2"},
		"it does not hear of the copy of the intent": {func(object client.Object) {
			if rs, ok := object.(*appsv1.ReplicaSet); ok {
				delete(rs.Annotations, v1alpha1.PromotionAnnotation)
			}
		}, "nobody tells"},
		"it does not see that it resized a pod for nothing": {func(object client.Object) {
			if pod, ok := object.(*corev1.Pod); ok {
				pod.ManagedFields = nil
			}
		}, "with other resources"},
		"it changes all workloads at a time": {func(object client.Object) {
			if set, ok := object.(*v1alpha1.SidecarSet); ok {
				set.Spec.UpdateStrategy.MaxConcurrentWorkloads = new(intstr.FromString("100%"))
			}
		}, "maxConcurrentWorkloads is"},
		"it ignores partitions": {func(object client.Object) {
			if set, ok := object.(*v1alpha1.SidecarSet); ok {
				set.Spec.UpdateStrategy.Partition = nil
			}
		}, "partition is"},
		"it ignores PodDisruptionBudgets": {func(object client.Object) {
			if budget, ok := object.(*policyv1.PodDisruptionBudget); ok {
				budget.Status.DisruptionsAllowed = budget.Status.ExpectedPods
			}
		}, "the PodDisruptionBudget "},
		"it ignores what others take of a PodDisruptionBudget that they share": {func(object client.Object) {
			if budget, ok := object.(*policyv1.PodDisruptionBudget); ok {
				budget.Status.CurrentHealthy, budget.Status.ExpectedPods = 0, 0
			}
		}, "the PodDisruptionBudget shop "},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(enough) {
				problem := newHistoryOf(log.IntoContext(t.Context(), klog.Logger{}), laboratory, seed, test.deceive).live()
				if strings.Contains(problem, test.violation) {
					t.Logf("history %d: %s", seed+1, problem)
					return
				}
			}
			t.Errorf("%d histories, and none tells of %q", enough, test.violation)
		})
	}
}

// A history that fails has to come again to be understood.
func TestHistoriesComeAgain(t *testing.T) {
	laboratory := newLaboratory(t)
	for seed := range uint64(5) {
		var stories [2][]string
		for i := range stories {
			h := newHistory(log.IntoContext(t.Context(), klog.Logger{}), laboratory, seed)
			h.live()
			stories[i] = h.lines
		}
		if !slices.Equal(stories[0], stories[1]) {
			t.Errorf("the history of seed %d goes another way the second time", seed)
		}
	}
}

// setting is a number that the environment may set, or "random".
func setting(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	value, set := os.LookupEnv(name)
	switch {
	case !set:
		return otherwise
	case value == "random":
		return rand.Uint64N(1 << 40)
	}
	number, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		t.Fatalf("%s is neither a number nor random: %v", name, err)
	}
	return number
}

// collectLessGarbage saves a third of the time: histories are small and short. It returns what undoes it.
func collectLessGarbage() (undo func()) {
	percent := debug.SetGCPercent(800)
	return func() { debug.SetGCPercent(percent) }
}

func newLaboratory(t *testing.T) *laboratory {
	t.Helper()
	fields, err := newFieldManager()
	if err != nil {
		t.Fatal(err)
	}
	scheme := apiruntime.NewScheme()
	for _, add := range []func(*apiruntime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return &laboratory{fields: fields, renderer: injection.NewRenderer(), scheme: scheme}
}
