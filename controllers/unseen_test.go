// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sidecarset/sidecarset/controllers/rollout"
)

func TestUpdatesThatTheCacheLacksAreWaitedFor(t *testing.T) {
	workload, now := types.NamespacedName{Namespace: "shop", Name: "web"}, time.Unix(10000, 0)
	record := rollout.InPlaceUpdate{StartedAt: now, Revisions: map[string]string{"logs": "logs-2"}, Containers: map[string]rollout.StartedContainer{"logs": {ID: "1"}}}
	earlier := rollout.InPlaceUpdate{StartedAt: now.Add(-time.Hour), Revisions: map[string]string{"logs": "logs-1"}}
	for name, test := range map[string]struct {
		pods   []rollout.Pod
		forget bool
		later  time.Duration
		want   time.Duration
	}{
		"the cache shows none":           {pods: []rollout.Pod{{UID: "a"}, {UID: "b"}}, want: seenWithin},
		"the cache shows an earlier one": {pods: []rollout.Pod{{UID: "a", Update: &earlier}}, want: seenWithin},
		"the cache shows it":             {pods: []rollout.Pod{{UID: "a", Update: &record}}},
		"the pod is gone":                {pods: []rollout.Pod{{UID: "b"}}},
		"a while later":                  {pods: []rollout.Pod{{UID: "a"}}, later: time.Second, want: seenWithin - time.Second},
		"not for ever":                   {pods: []rollout.Pod{{UID: "a"}}, later: seenWithin},
		"it was refused":                 {pods: []rollout.Pod{{UID: "a"}}, forget: true},
	} {
		t.Run(name, func(t *testing.T) {
			updates := newUnseen()
			updates.remember(workload, "a", record, now)
			if test.forget {
				updates.forget(workload, "a")
			}
			if wait := updates.wait(workload, test.pods, now.Add(test.later)); wait != test.want {
				t.Errorf("waits for %v, want %v", wait, test.want)
			}
			if test.want == 0 && len(updates.byWorkload[workload]) > 0 {
				t.Errorf("remembers %v", updates.byWorkload)
			}
		})
	}
}
