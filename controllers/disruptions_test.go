// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sidecarset/sidecarset/controllers/rollout"
)

func TestWorkloadsShareADisruptionBudget(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	web, api, alone := types.NamespacedName{Name: "web"}, types.NamespacedName{Name: "api"}, types.NamespacedName{Name: "alone"}
	shared := rollout.DisruptionBudget{UID: "shared", Allowed: 1, Healthy: 4, Expected: 4}
	update := func(budget rollout.DisruptionBudget) rollout.PodUpdate {
		pod := rollout.Pod{
			UID: "1", Name: "pod", Observed: true, ReadySince: now.Add(-time.Hour), Revisions: map[string]string{"agent": "agent-1"},
			Containers: map[string]rollout.Container{"agent": {Image: "agent:1", ID: "1", RunningSince: now.Add(-time.Hour), AvailableSince: now.Add(-time.Hour)}},
		}
		return rollout.PodUpdate{
			Desired: 1, Now: now, Pods: []rollout.Pod{pod}, DisruptionBudgets: []rollout.DisruptionBudget{budget},
			Sets: []rollout.SetUpdate{{Key: "agent", Revision: "agent-2", Sidecars: []corev1.Container{{Name: "agent", Image: "agent:2"}}}},
		}
	}
	d := newDisruptions()
	expect := func(workload types.NamespacedName, budget rollout.DisruptionBudget, want int, recheck time.Duration) {
		t.Helper()
		step := d.next(workload, update(budget))
		if len(step.Updates) != want || step.Recheck != recheck {
			t.Errorf("%s updates %d pods and looks again after %s, want %d and %s", workload.Name, len(step.Updates), step.Recheck, want, recheck)
		}
	}
	expect(web, shared, 1, 0)
	expect(api, shared, 0, disruptionEnds)
	expect(alone, rollout.DisruptionBudget{UID: "another", Allowed: 1, Healthy: 1, Expected: 1}, 1, 0)
	expect(web, shared, 1, 0) // what it has taken itself is in its pods.

	d.see(web, []rollout.DisruptionBudget{shared}, 1)
	expect(api, shared, 0, disruptionEnds)
	d.see(web, []rollout.DisruptionBudget{shared}, 0)
	expect(api, shared, 1, 0)
	expect(web, shared, 0, disruptionEnds)
	d.see(api, nil, 0) // it is gone.
	expect(web, shared, 1, 0)
}
