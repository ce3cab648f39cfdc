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
			Desired: 1, Now: now, GracePeriod: time.Minute, Pods: []rollout.Pod{pod}, DisruptionBudgets: []rollout.DisruptionBudget{budget},
			Sets: []rollout.SetUpdate{{Key: "agent", Revision: "agent-2", Sidecars: []corev1.Container{{Name: "agent", Image: "agent:2"}}}},
		}
	}
	d := newDisruptions()
	look := func(workload types.NamespacedName, update rollout.PodUpdate) { d.see(workload, &update) }
	expect := func(workload types.NamespacedName, want int, state string) {
		t.Helper()
		budget := shared
		if workload == alone {
			budget = rollout.DisruptionBudget{UID: "another", Healthy: 1, Expected: 1}
		}
		step := d.next(workload, update(budget), func(types.UID) []types.NamespacedName { return []types.NamespacedName{web, api} })
		got := ""
		switch {
		case step.BlockedByDisruptionBudget:
			got = "waits for its team"
		case step.Recheck == disruptionEnds:
			got = "waits for us"
		}
		if len(step.Updates) != want || got != state {
			t.Errorf("%s updates %d pods and %q, want %d and %q", workload.Name, len(step.Updates), got, want, state)
		}
	}
	look(web, update(shared))
	expect(web, 0, "waits for us") // what was taken before a start is not known yet.
	d.know(api)
	expect(web, 1, "")
	expect(api, 0, "waits for us")
	expect(alone, 0, "waits for its team")
	expect(web, 1, "") // what it has taken itself is in its pods.

	down := update(shared)
	down.Pods[0].ReadySince, down.Pods[0].Update = time.Time{}, &rollout.InPlaceUpdate{StartedAt: now}
	look(web, down)
	expect(api, 0, "waits for us")
	look(web, update(shared))
	expect(api, 1, "")
	now = now.Add(time.Minute)
	look(web, update(shared))
	look(api, update(shared))
	now = now.Add(time.Minute)
	shared.Allowed = 0
	expect(web, 0, "waits for its team")

	// A pod that comes back after long is not noticed at once either.
	down.Now, down.Pods[0].Update.StartedAt = now, now
	look(api, down)
	now = now.Add(time.Minute)
	look(api, update(shared))
	expect(web, 0, "waits for us")
	now = now.Add(disruptionOver)
	expect(web, 0, "waits for its team")

	// A budget knows of a pod that has been down for long.
	shared.Allowed = 1
	down.Now, down.Pods[0].Update.Containers = now, map[string]rollout.StartedContainer{"agent": {}, "proxy": {}}
	down.Pods[0].Update.StartedAt = now.Add(time.Second - disruptionKnown - 2*down.GracePeriod)
	look(api, down)
	expect(web, 0, "waits for us")
	now = now.Add(time.Second)
	expect(web, 1, "")
	look(web, update(shared))
	now = now.Add(disruptionOver)
	down.Now = now
	look(api, down)
	shared.Allowed = 0
	expect(web, 0, "waits for its team")
}
