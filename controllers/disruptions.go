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
	// disruptionKnown is after how long the status of a PodDisruptionBudget has learnt of a pod that an update made unavailable, besides the time
	// that a kubelet gives each old container to end.
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
	// settled are the budgets of which all workloads were looked at once: what comes later takes nothing before it is.
	settled map[types.UID]bool
}

// disrupted are budgets, and until when each pod counts that they may not know of.
type disrupted struct {
	budgets map[types.UID]bool
	until   []time.Time
}

func newDisruptions() *disruptions {
	return &disruptions{byWorkload: map[types.NamespacedName]disrupted{}, takenFrom: map[types.UID]time.Time{}, settled: map[types.UID]bool{}}
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

// next decides which pods of a workload are updated next, with what others have taken of the budgets that it shares with them, and notes what it
// takes itself. sharers names the workloads that share a budget.
func (d *disruptions) next(workload types.NamespacedName, update rollout.PodUpdate, sharers func(budget types.UID) []types.NamespacedName) rollout.PodStep {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	var ofTeams []rollout.DisruptionBudget // from which nothing is taken by us
	for i := range update.DisruptionBudgets {
		budget := &update.DisruptionBudgets[i]
		isShared := budget.Expected > update.Desired
		if isShared && !d.isSettled(budget.UID, sharers) {
			budget.Others = math.MaxInt32 / 2 // room for its own
		} else {
			budget.Others = d.ofOthers(workload, budget.UID, update.Now)
		}
		if !isShared || (budget.Others == 0 && update.Now.Sub(d.takenFrom[budget.UID]) >= disruptionOver) {
			ofTeams = append(ofTeams, *budget)
		}
	}
	step := rollout.NextPods(update)
	if step.BlockedByDisruptionBudget && len(ofTeams) < len(update.DisruptionBudgets) {
		// It may wait for our own doing, and keeps its place in the wave then. Of what others give back no event tells.
		withoutOurs := update
		withoutOurs.DisruptionBudgets = ofTeams
		step.BlockedByDisruptionBudget = rollout.NextPods(withoutOurs).BlockedByDisruptionBudget
		step.Recheck = soonest(step.Recheck, disruptionEnds)
	}
	d.set(workload, &update, step.Updates)
	return step
}

// isSettled is true when all workloads that share a budget were looked at. The mutex is held.
func (d *disruptions) isSettled(budget types.UID, sharers func(budget types.UID) []types.NamespacedName) bool {
	if !d.settled[budget] {
		isUnknown := func(sharer types.NamespacedName) bool { _, ok := d.byWorkload[sharer]; return !ok }
		d.settled[budget] = !slices.ContainsFunc(sharers(budget), isUnknown)
	}
	return d.settled[budget]
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
		known.until = append(known.until, pod.Update.StartedAt.Add(disruptionKnown+time.Duration(len(pod.Update.Containers))*update.GracePeriod))
	}
	for i := range begun {
		known.until = append(known.until, update.Now.Add(disruptionKnown+time.Duration(len(begun[i].Images()))*update.GracePeriod))
	}
	counts := slices.ContainsFunc(slices.Concat(known.until, d.byWorkload[workload].until), update.Now.Before)
	for i := range update.DisruptionBudgets {
		uid := update.DisruptionBudgets[i].UID
		if known.budgets[uid] = true; counts {
			d.takenFrom[uid] = update.Now
		}
	}
	maps.DeleteFunc(d.takenFrom, func(_ types.UID, at time.Time) bool { return update.Now.Sub(at) >= disruptionOver })
	d.byWorkload[workload] = known
}
