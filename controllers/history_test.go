// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
)

func setting(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	value, set := os.LookupEnv(name)
	if !set {
		return otherwise
	}
	number, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return number
}

// TestHistories drives the operator through random histories and looks at I1 to I8 at every step:
//
//	go test -tags histories -run TestHistories ./controllers
//
// It is not part of "make test" yet, because it still finds what is not solved: a pod that is updated once more in the moment in which
// the kubelet restarts one of its containers can be taken for available too early (I2), and a sidecar that starts and never gets ready keeps
// a rollout waiting, and the correction with it, until the Deployment's progressDeadlineSeconds are over (convergence).
func TestHistories(t *testing.T) {
	seed, count := setting(t, "HISTORY_SEED", rand.Uint64()>>1), setting(t, "HISTORY_COUNT", 1000)
	t.Logf("HISTORY_SEED=%d HISTORY_COUNT=%d", seed, count)
	laboratory := newLaboratory(t)
	const workers = 2
	for worker := range uint64(workers) {
		t.Run(fmt.Sprintf("worker %d", worker), func(t *testing.T) {
			t.Parallel()
			for i, failed := worker, 0; i < count && failed < 5; i += workers {
				h := newHistory(log.IntoContext(t.Context(), klog.Logger{}), laboratory, seed+i)
				problem := h.live()
				if problem == "" {
					continue
				}
				failed++
				t.Errorf("history %d: %s\n(its story: HISTORY_SEED=%d HISTORY_COUNT=1)", i+1, problem, seed+i)
				if count == 1 {
					t.Log("\n" + h.story())
				}
			}
		})
	}
}

func newLaboratory(t *testing.T) *laboratory {
	t.Helper()
	fields, err := newFieldManager()
	if err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return &laboratory{fields: fields, renderer: injection.NewRenderer(), scheme: scheme}
}
