// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

func TestADeploymentIsNewUntilItsControllerHasSeenIt(t *testing.T) {
	for seen, want := range map[int64]bool{0: true, 1: false, 2: false} {
		deployment := &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Generation: 2},
			Spec:       appsv1.DeploymentSpec{Replicas: new(int32(2))},
			Status:     appsv1.DeploymentStatus{ObservedGeneration: seen},
		}
		if got := rolloutOf(deployment); got.New != want || got.Observed != (seen == 2) {
			t.Errorf("generation %d was seen: new %t, observed %t", seen, got.New, got.Observed)
		}
	}
}

// Without a deadline, the Deployment controller keeps no condition that says that a rollout is over.
func TestARolloutWithoutDeadlineIsCompleteWhenAllPodsAreAvailable(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*appsv1.DeploymentStatus)
		want   bool
	}{
		"all are available": {func(*appsv1.DeploymentStatus) {}, true},
		"one is not":        {func(status *appsv1.DeploymentStatus) { status.AvailableReplicas = 1 }, false},
		"one is old":        {func(status *appsv1.DeploymentStatus) { status.UpdatedReplicas = 1 }, false},
		"one is left over":  {func(status *appsv1.DeploymentStatus) { status.Replicas = 3 }, false},
		"it was not seen":   {func(status *appsv1.DeploymentStatus) { status.ObservedGeneration = 1 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			deployment := &appsv1.Deployment{
				ObjectMeta: metav1.ObjectMeta{Generation: 2},
				Spec:       appsv1.DeploymentSpec{Replicas: new(int32(2)), ProgressDeadlineSeconds: new(int32(math.MaxInt32))},
				Status:     appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 2},
			}
			test.change(&deployment.Status)
			if got := rolloutOf(deployment); got.Complete != test.want || !got.Endless {
				t.Errorf("complete: %t, endless: %t", got.Complete, got.Endless)
			}
		})
	}
}

// In the middle of a rollout, a status that counts the old pods only looks like one that counts the new pods, and these only.
func TestADeploymentRollsOutUntilItsStatusCountsNewPodsOnly(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*appsv1.Deployment)
		want   bool
	}{
		"all are new":         {func(*appsv1.Deployment) {}, false},
		"all are old":         {func(d *appsv1.Deployment) { d.Status.UpdatedReplicas = 0 }, true},
		"one is old":          {func(d *appsv1.Deployment) { d.Status.UpdatedReplicas = 1 }, true},
		"one is left over":    {func(d *appsv1.Deployment) { d.Status.Replicas = 3 }, true},
		"none has been made":  {func(d *appsv1.Deployment) { d.Status.Replicas, d.Status.UpdatedReplicas = 0, 0 }, true},
		"none is to be there": {func(d *appsv1.Deployment) { *d.Spec.Replicas, d.Status.Replicas, d.Status.UpdatedReplicas = 0, 0, 0 }, false},
		"it can not have more": {func(d *appsv1.Deployment) {
			*d.Spec.Replicas, d.Status.Conditions = 3, progressing("NewReplicaSetAvailable")
		}, false},
		"its owner paused it": {func(d *appsv1.Deployment) { d.Status.UpdatedReplicas, d.Spec.Paused = 1, true }, false},
		"it has got no further for ten minutes": {func(d *appsv1.Deployment) {
			d.Status.UpdatedReplicas, d.Status.Conditions = 1, progressing("ProgressDeadlineExceeded")
		}, false},
		"it was not seen": {func(d *appsv1.Deployment) { d.Status.UpdatedReplicas, d.Status.ObservedGeneration = 1, 1 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			deployment := &appsv1.Deployment{
				ObjectMeta: metav1.ObjectMeta{Generation: 2},
				Spec:       appsv1.DeploymentSpec{Replicas: new(int32(2))},
				Status:     appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 2, UpdatedReplicas: 2},
			}
			test.change(deployment)
			if got := rolloutOf(deployment).Rolling; got != test.want {
				t.Errorf("rolling: %t", got)
			}
		})
	}
}

// While the pods of a Deployment of strategy Recreate terminate, its status says that its last rollout is complete, and counts none of them.
func TestADeploymentWithoutPodsIsEmpty(t *testing.T) {
	since := metav1.NewTime(time.Unix(100, 0))
	for name, test := range map[string]struct {
		change func(*appsv1.Deployment)
		want   bool
		stall  rollout.Stall
	}{
		"the old ones terminate": {func(*appsv1.Deployment) {}, true, rollout.Stall{Message: "it has no pod, perhaps because old ones do not end", Since: time.Unix(130, 0)}},
		"they have little time": {
			func(d *appsv1.Deployment) { d.Spec.Template.Spec.TerminationGracePeriodSeconds = new(int64(1)) }, true,
			rollout.Stall{Message: "it has no pod, perhaps because old ones do not end", Since: time.Unix(101, 0)},
		},
		"we brought them a template since": {
			func(d *appsv1.Deployment) {
				d.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: v1alpha1.FieldManager, Operation: metav1.ManagedFieldsOperationApply, Time: new(metav1.NewTime(time.Unix(200, 0)))}}
			}, true, rollout.Stall{Message: "it has no pod, perhaps because old ones do not end", Since: time.Unix(230, 0)},
		},
		"some may be missing":     {func(d *appsv1.Deployment) { d.Status.Conditions[1].Status = corev1.ConditionTrue }, true, rollout.Stall{}},
		"there is one":            {func(d *appsv1.Deployment) { d.Status.Replicas, d.Status.UpdatedReplicas = 1, 1 }, false, rollout.Stall{}},
		"there is to be none":     {func(d *appsv1.Deployment) { *d.Spec.Replicas = 0 }, false, rollout.Stall{}},
		"its owner wants no more": {func(d *appsv1.Deployment) { d.Spec.Paused = true }, false, rollout.Stall{}},
	} {
		t.Run(name, func(t *testing.T) {
			unavailable := appsv1.DeploymentCondition{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionFalse, LastTransitionTime: since}
			deployment := &appsv1.Deployment{
				Spec:   appsv1.DeploymentSpec{Replicas: new(int32(2))},
				Status: appsv1.DeploymentStatus{Conditions: append(progressing("NewReplicaSetAvailable"), unavailable)},
			}
			test.change(deployment)
			got := rolloutOf(deployment)
			if diff := cmp.Diff(test.stall, got.Stalled); diff != "" || got.Empty != test.want || !got.Complete {
				t.Errorf("empty: %t, complete: %t; stalled (-want +got):\n%s", got.Empty, got.Complete, diff)
			}
		})
	}
}

func TestADeploymentStallsWhenPodsCanNotBeCreated(t *testing.T) {
	since := metav1.NewTime(time.Unix(100, 0))
	stall := rollout.Stall{Message: "pods can not be created: exceeded quota", Since: since.Time}
	for name, test := range map[string]struct {
		status   corev1.ConditionStatus
		replicas int32
		want     rollout.Stall
	}{
		"one is missing":                   {corev1.ConditionTrue, 1, stall},
		"one is missing for the moment":    {corev1.ConditionFalse, 1, rollout.Stall{}},
		"none is missing any more, paused": {corev1.ConditionTrue, 2, rollout.Stall{}},
	} {
		failure := appsv1.DeploymentCondition{Type: appsv1.DeploymentReplicaFailure, Status: test.status, Message: "exceeded quota", LastTransitionTime: since}
		deployment := &appsv1.Deployment{
			Spec:   appsv1.DeploymentSpec{Replicas: new(int32(2))},
			Status: appsv1.DeploymentStatus{Replicas: test.replicas, UpdatedReplicas: test.replicas, Conditions: append(progressing("NewReplicaSetAvailable"), failure)},
		}
		got := rolloutOf(deployment)
		if diff := cmp.Diff(test.want, got.Stalled); diff != "" || !got.Complete || got != rolloutOf(deployment.DeepCopy()) {
			t.Errorf("%s: complete %t; -want +got:\n%s", name, got.Complete, diff)
		}
	}
}

func progressing(reason string) []appsv1.DeploymentCondition {
	return []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Reason: reason}}
}
