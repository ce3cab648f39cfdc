// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// announce records an event for each condition of a set that went over to another status or reason.
func announce(recorder events.EventRecorder, set *v1alpha1.SidecarSet, before, after []metav1.Condition) {
	for i := range after {
		condition := &after[i]
		old := meta.FindStatusCondition(before, condition.Type)
		if !isTransition(old, condition) {
			continue
		}
		eventType := corev1.EventTypeNormal
		if condition.Type == v1alpha1.ConditionDegraded && condition.Status == metav1.ConditionTrue {
			eventType = corev1.EventTypeWarning
		}
		recorder.Eventf(set, nil, eventType, condition.Reason, "Reconcile", "%s", condition.Message)
	}
}

// isTransition is true when a condition tells something new. What two conditions tell is announced once: Ready being False by the
// condition that prevents it, the end of all work by Ready.
func isTransition(old, condition *metav1.Condition) bool {
	switch {
	case condition.Type == v1alpha1.ConditionReady && condition.Status == metav1.ConditionFalse:
		return false
	case condition.Reason == v1alpha1.ReasonComplete:
		return false
	case old == nil:
		return condition.Reason != v1alpha1.ReasonAsExpected
	}
	return old.Status != condition.Status || old.Reason != condition.Reason
}
