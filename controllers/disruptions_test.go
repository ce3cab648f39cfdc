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
	look := func(workload types.NamespacedName, update rollout.PodUpdate) { d.see(workload, &update) }
	expect := func(workload types.NamespacedName, want int, state string) {
		t.Helper()
		budget, sharers := shared, []types.NamespacedName{web, api}
		if workload == alone {
			budget, sharers = rollout.DisruptionBudget{UID: "another", Healthy: 1, Expected: 1}, nil
		}
		step := d.next(workload, update(budget), sharers)
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
	look(api, update(shared))

	shared.Allowed = 0
	expect(web, 0, "waits for us") // the budget has not noticed that all are ready again.
	now = now.Add(disruptionOver)
	expect(web, 0, "waits for its team")
	shared.Allowed = 1

	down.Pods[0].Update.StartedAt = now.Add(-disruptionKnown)
	look(web, down)
	expect(api, 1, "") // the budget knows of that one by now.
	expect(web, 0, "waits for us")
	d.forget(api)
	look(web, update(shared))
	expect(web, 0, "waits for us") // it may have come back.
}
