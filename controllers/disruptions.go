// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sidecarset/sidecarset/controllers/rollout"
)

const (
	// disruptionKnown is after how long the status of a PodDisruptionBudget has learnt of a pod that an update made unavailable: a kubelet first gives
	// the old container its time to end.
	disruptionKnown = 5 * time.Minute
	// disruptionOver is for how long the status of a PodDisruptionBudget may not know that pods are ready again.
	disruptionOver = 10 * time.Second
	// disruptionEnds is after how long a workload looks again whose pods wait for those of another.
	disruptionEnds = time.Second
)

// disruptions are the pods of each workload that updates have made unavailable, and the PodDisruptionBudgets that cover them: the status of one that
// covers several workloads learns of that seconds later, and two workloads must not take the same place meanwhile. A process that starts
// counts anew, from the pods, and takes nothing of a budget before it has looked at all that share it.
type disruptions struct {
	mutex sync.Mutex
	// byWorkload has those that were looked at.
	byWorkload map[types.NamespacedName]disrupted
	// takenFrom is when a budget was last known to have something taken from it.
	takenFrom map[types.UID]time.Time
}

// disrupted are budgets, and until when each pod counts that they may not know of.
type disrupted struct {
	budgets map[types.UID]bool
	until   []time.Time
}

func newDisruptions() *disruptions {
	return &disruptions{byWorkload: map[types.NamespacedName]disrupted{}, takenFrom: map[types.UID]time.Time{}}
}

// know takes a workload for looked at that can not be read.
func (d *disruptions) know(workload types.NamespacedName) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if _, ok := d.byWorkload[workload]; !ok {
		d.byWorkload[workload] = disrupted{}
	}
}

// forget drops a workload that is gone.
func (d *disruptions) forget(workload types.NamespacedName) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	delete(d.byWorkload, workload)
}

// see takes in which pods of a workload updates have made unavailable, as the cache shows them.
func (d *disruptions) see(workload types.NamespacedName, update *rollout.PodUpdate) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.set(workload, update, nil)
}

// next decides which pods of a workload are updated next, with what those have taken that it shares budgets with, and notes what it takes itself.
func (d *disruptions) next(workload types.NamespacedName, update rollout.PodUpdate, sharers []types.NamespacedName) rollout.PodStep {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	isKnown := !slices.ContainsFunc(sharers, func(sharer types.NamespacedName) bool { _, ok := d.byWorkload[sharer]; return !ok })
	taken := false
	for i := range update.DisruptionBudgets {
		budget := &update.DisruptionBudgets[i]
		if budget.Others = d.ofOthers(workload, budget.UID, update.Now); !isKnown {
			budget.Others = math.MaxInt32 / 2 // room for its own
		}
		taken = taken || budget.Others > 0 || update.Now.Sub(d.takenFrom[budget.UID]) < disruptionOver
	}
	step := rollout.NextPods(update)
	if len(sharers) > 0 && taken && step.BlockedByDisruptionBudget {
		// It waits for our own doing, and keeps its place in the wave. Of what others give back no event tells.
		step.BlockedByDisruptionBudget, step.Recheck = false, soonest(step.Recheck, disruptionEnds)
	}
	d.set(workload, &update, step.Updates)
	return step
}

// ofOthers is what the other workloads have taken of a budget. The mutex is held.
func (d *disruptions) ofOthers(workload types.NamespacedName, budget types.UID, now time.Time) (count int32) {
	for other, taken := range d.byWorkload {
		if other == workload || !taken.budgets[budget] {
			continue
		}
		for _, until := range taken.until {
			if now.Before(until) {
				count++
			}
		}
	}
	return count
}

// set replaces what is known of a workload, some of whose pods are about to be updated. The mutex is held.
func (d *disruptions) set(workload types.NamespacedName, update *rollout.PodUpdate, begun []rollout.PodPatch) {
	known := disrupted{budgets: make(map[types.UID]bool, len(update.DisruptionBudgets))}
	for _, pod := range update.Disrupted() {
		known.until = append(known.until, pod.Update.StartedAt.Add(disruptionKnown))
	}
	for range begun {
		known.until = append(known.until, update.Now.Add(disruptionKnown))
	}
	for i := range update.DisruptionBudgets {
		uid := update.DisruptionBudgets[i].UID
		if known.budgets[uid] = true; len(known.until) > 0 {
			d.takenFrom[uid] = update.Now
		}
	}
	maps.DeleteFunc(d.takenFrom, func(_ types.UID, at time.Time) bool { return update.Now.Sub(at) >= disruptionOver })
	d.byWorkload[workload] = known
}
