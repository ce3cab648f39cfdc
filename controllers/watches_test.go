// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

func TestWhatIsHeardOfReplicaSets(t *testing.T) {
	withPods := appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Generation: 1}, Status: appsv1.ReplicaSetStatus{Replicas: 2, ReadyReplicas: 2}}
	empty := appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Generation: 1}}
	getsIntent := func(rs *appsv1.ReplicaSet) {
		rs.Annotations = map[string]string{v1alpha1.PromotionAnnotation: "intent"}
	}
	for name, test := range map[string]struct {
		before appsv1.ReplicaSet
		change func(*appsv1.ReplicaSet)
		want   bool
	}{
		"its spec changes":                           {withPods, func(rs *appsv1.ReplicaSet) { rs.Generation = 2 }, true},
		"it counts another pod":                      {withPods, func(rs *appsv1.ReplicaSet) { rs.Status.Replicas = 0 }, true},
		"a pod is not ready":                         {withPods, func(rs *appsv1.ReplicaSet) { rs.Status.ReadyReplicas = 1 }, false},
		"its controller has seen it":                 {withPods, func(rs *appsv1.ReplicaSet) { rs.Status.ObservedGeneration = 1 }, false},
		"nothing (a resync) is the same":             {withPods, func(*appsv1.ReplicaSet) {}, false},
		"it is recognised, and its pods are counted": {withPods, getsIntent, false},
		"it is recognised, without any pods":         {empty, getsIntent, true},
	} {
		t.Run(name, func(t *testing.T) {
			before := &test.before
			after := before.DeepCopy()
			test.change(after)
			if got := replicaSetChanged.Update(event.UpdateEvent{ObjectOld: before.DeepCopy(), ObjectNew: after}); got != test.want {
				t.Errorf("let through: %v", got)
			}
		})
	}
}
