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
	type list []string
	p := &pool{}
	if got := share(p, []string{"a"}); got[0] != "a" {
		t.Errorf("got %v", got)
	}
	if got := share(p, list{"a"}); got[0] != "a" {
		t.Errorf("got %v", got)
	}
	for i := range 2 * poolLimit {
		text := fmt.Sprint(i)
		if got := shareText(p, text); got != text {
			t.Fatalf("got %s instead of %s", got, text)
		}
		if got := share(p, []int{i}); got[0] != i {
			t.Fatalf("got %v instead of %d", got, i)
		}
	}
	if len(p.texts) > poolLimit || len(p.values) > poolLimit {
		t.Errorf("it remembers %d texts and %d values", len(p.texts), len(p.values))
	}
}
