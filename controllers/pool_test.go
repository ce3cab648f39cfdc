// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestEqualPodsShareWhatTheyHaveInCommon(t *testing.T) {
	stripper := newPodStripper()
	strip := func(image string) *corev1.Pod {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:1"}, {Name: "agent", Image: image}}}}
		if _, err := stripper.strip(pod); err != nil {
			t.Fatal(err)
		}
		return pod
	}
	first, equal, other := strip("agent:1"), strip("agent:1"), strip("agent:2")
	if &first.Spec.Containers[0] != &equal.Spec.Containers[0] {
		t.Error("equal containers are there twice")
	}
	if got := other.Spec.Containers[1].Image; got != "agent:2" {
		t.Errorf("other containers have the image %q", got)
	}
}

func TestPoolTellsTypesApartAndHasALimit(t *testing.T) {
	type name string
	p := &pool{}
	if share(p, "a") != "a" || share(p, name("a")) != "a" {
		t.Error("another value came back")
	}
	for i := range 2 * poolLimit {
		if value := fmt.Sprint(i); share(p, value) != value {
			t.Fatalf("another value than %s came back", value)
		}
	}
	if len(p.values) > poolLimit {
		t.Errorf("it remembers %d values", len(p.values))
	}
}
