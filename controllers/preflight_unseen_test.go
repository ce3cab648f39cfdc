// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// TestAnUnseenWorkloadKeepsItsPlace: one that waits for its owner gives its place in a wave to another, one that waits for the Deployment
// controller does not.
func TestAnUnseenWorkloadKeepsItsPlace(t *testing.T) {
	for name, test := range map[string]struct {
		seen     int64
		rollsOut bool
		want     string
	}{
		"its controller has not seen it":                 {1, false, ""},
		"it is rolling out":                              {2, true, v1alpha1.ReasonWorkloadRollingOut},
		"it is rolling out and its controller is behind": {1, true, v1alpha1.ReasonWorkloadRollingOut},
	} {
		t.Run(name, func(t *testing.T) {
			observed := unseenWorkload(test.seen, test.rollsOut)
			plan := &injection.Plan{Changed: true, Revisions: map[string]string{"agent": "agent-2"}}
			result, err := (&deploymentReconciler{now: time.Now}).waitForRollout(t.Context(), observed, plan, newOutcome(nil))
			if err != nil {
				t.Fatal(err)
			}
			if got := result.problems["agent"].Reason; got != test.want || result.phases["agent"] != rollout.UpdatingPods {
				t.Errorf("it is %v with problem %q, want %q", result.phases["agent"], got, test.want)
			}
		})
	}
}

// unseenWorkload is one of generation 2, of which the Deployment controller has seen another, perhaps with pods of another template.
func unseenWorkload(seen int64, rollsOut bool) *workloadObservation {
	observed := &workloadObservation{
		deployment: &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Generation: 2},
			Spec:       appsv1.DeploymentSpec{Replicas: new(int32(1))},
			Status:     appsv1.DeploymentStatus{ObservedGeneration: seen},
		},
		workload: injection.Workload{Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{
			Annotations: map[string]string{v1alpha1.RevisionsAnnotation: `{"agent":"agent-1"}`},
		}}},
		assigned: []assignedSet{{Set: injection.Set{Key: "agent", Revision: "agent-2", Content: &injection.Content{}}, judged: true}},
	}
	if rollsOut {
		observed.replicaSets = []appsv1.ReplicaSet{{
			ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{templateIdentity: "another"}},
			Spec:       appsv1.ReplicaSetSpec{Replicas: new(int32(1))},
		}}
	}
	return observed
}

// TestPreflightWaitsForTheDeploymentController asks the API server about a change of running pods only when they may be updated.
func TestPreflightWaitsForTheDeploymentController(t *testing.T) {
	for name, test := range map[string]struct {
		seen int64
		// rollsOut is true when there are pods of another template.
		rollsOut bool
		way      way
		asks     bool
	}{
		"a Deployment that its controller has seen":     {2, false, inRunningPods, true},
		"one that it has not":                           {1, false, inRunningPods, false},
		"one that it has not, and that gets other pods": {1, false, byNewPods, true},
		"one that is rolling out":                       {2, true, inRunningPods, true},
		"one that is rolling out and it has not seen":   {1, true, inRunningPods, true},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			r := &deploymentReconciler{now: time.Now, writer: &writer{client: interceptor.NewClient(nil, interceptor.Funcs{
				Apply: func(context.Context, client.WithWatch, runtime.ApplyConfiguration, ...client.ApplyOption) error {
					asked++
					return nil
				},
				Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error { return nil },
			})}}
			observed := unseenWorkload(test.seen, test.rollsOut)
			plan := &injection.Plan{Revisions: map[string]string{"agent": "agent-2"}}
			if _, _, err := r.preflight(t.Context(), observed, plan, test.way); err != nil {
				t.Fatal(err)
			}
			if got := asked > 0; got != test.asks {
				t.Errorf("the API server is asked: %t, want %t", got, test.asks)
			}
		})
	}
}
