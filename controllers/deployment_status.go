// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"math"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// rolloutOf reads what its controller says of a Deployment's own rollout.
func rolloutOf(deployment *appsv1.Deployment) rollout.Deployment {
	status := &deployment.Status
	result := rollout.Deployment{
		Observed:      status.ObservedGeneration >= deployment.Generation,
		New:           status.ObservedGeneration == 0,
		Paused:        deployment.Spec.Paused,
		Replicas:      status.Replicas,
		ReadyReplicas: status.ReadyReplicas,
	}
	desired := ptr.Deref(deployment.Spec.Replicas, 1)
	result.Empty = desired > 0 && status.Replicas == 0 && !result.Paused
	// The largest deadline is none, and without one there is no condition Progressing (HasProgressDeadline in deployment/util).
	if result.Endless = ptr.Deref(deployment.Spec.ProgressDeadlineSeconds, 0) == math.MaxInt32; result.Endless {
		result.Complete = result.Observed && status.UpdatedReplicas == desired && status.Replicas == desired && status.AvailableReplicas == desired
	}
	if progressing := conditionOf(status, appsv1.DeploymentProgressing); progressing != nil {
		// The Deployment controller keeps this reason from the end of a rollout until the template changes (deployment/progress.go).
		result.Complete = result.Observed && progressing.Reason == "NewReplicaSetAvailable" && status.UpdatedReplicas == status.Replicas
		result.Stuck = result.Observed && progressing.Reason == "ProgressDeadlineExceeded"
	}
	result.Rolling = isRolling(&result, status, desired)
	if status.Replicas < desired {
		result.Stalled = stallOf(deployment, &result)
	}
	return result
}

// stallOf is why a Deployment has fewer pods than it is to have.
func stallOf(deployment *appsv1.Deployment, state *rollout.Deployment) rollout.Stall {
	// While a Deployment is paused, nobody takes this condition back (deployment/sync.go).
	if failure := conditionOf(&deployment.Status, appsv1.DeploymentReplicaFailure); failure != nil && failure.Status == corev1.ConditionTrue {
		return rollout.Stall{Message: "pods can not be created: " + failure.Message, Since: failure.LastTransitionTime.Time}
	}
	if available := conditionOf(&deployment.Status, appsv1.DeploymentAvailable); state.Empty && available != nil && available.Status == corev1.ConditionFalse {
		since := available.LastTransitionTime.Time
		if applied := appliedAt(deployment); applied.After(since) {
			since = applied
		}
		return rollout.Stall{Message: "it has no pod, perhaps because old ones do not end", Since: since.Add(gracePeriodOf(deployment))}
	}
	return rollout.Stall{}
}

func conditionOf(status *appsv1.DeploymentStatus, conditionType appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range status.Conditions {
		if status.Conditions[i].Type == conditionType {
			return &status.Conditions[i]
		}
	}
	return nil
}

// gracePeriodOf is what the containers of a Deployment's pods have to end.
func gracePeriodOf(deployment *appsv1.Deployment) time.Duration {
	return time.Duration(ptr.Deref(deployment.Spec.Template.Spec.TerminationGracePeriodSeconds, corev1.DefaultTerminationGracePeriodSeconds)) * time.Second
}

func isRolling(deployment *rollout.Deployment, status *appsv1.DeploymentStatus, desired int32) bool {
	if !deployment.Observed || deployment.Complete || deployment.Stuck || deployment.Paused {
		return false
	}
	return status.UpdatedReplicas != status.Replicas || status.Replicas != desired
}

// appliedAt is when we wrote a Deployment last.
func appliedAt(deployment *appsv1.Deployment) (at time.Time) {
	for i := range deployment.ManagedFields {
		if entry := &deployment.ManagedFields[i]; injection.IsOurs(entry) && entry.Time != nil && entry.Time.After(at) {
			at = entry.Time.Time
		}
	}
	return at
}
