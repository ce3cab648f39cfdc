// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// disruptionEnds is after how long a workload looks again whose pods wait for those of another.
const disruptionEnds = time.Second

// disruptions are how many pods of each workload updates have made unavailable, by the PodDisruptionBudgets that cover them: the status of one that
// covers several workloads learns of that seconds later, and two workloads must not take the same place meanwhile. A process that starts
// counts anew, from the pods.
type disruptions struct {
	mutex      sync.Mutex
	byWorkload map[types.NamespacedName]map[types.UID]int32
}

func newDisruptions() *disruptions {
	return &disruptions{byWorkload: map[types.NamespacedName]map[types.UID]int32{}}
}

// see takes in how many pods of a workload are disrupted by updates, as the cache shows them.
func (d *disruptions) see(workload types.NamespacedName, budgets []rollout.DisruptionBudget, disrupted int32) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.set(workload, budgets, disrupted)
}

// next decides which pods of a workload are updated next, with what the others have taken, and notes what it takes itself.
func (d *disruptions) next(workload types.NamespacedName, update rollout.PodUpdate) rollout.PodStep {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	shared := false
	for i := range update.DisruptionBudgets {
		budget := &update.DisruptionBudgets[i]
		budget.Others = d.ofOthers(workload, budget.UID)
		shared = shared || budget.Others > 0
	}
	step := rollout.NextPods(update)
	if shared && step.BlockedByDisruptionBudget {
		step.Recheck = soonest(step.Recheck, disruptionEnds) // of what others give back no event tells.
	}
	d.set(workload, update.DisruptionBudgets, update.Disrupted()+int32(len(step.Updates)))
	return step
}

// ofOthers is what the other workloads have taken of a budget. The mutex is held.
func (d *disruptions) ofOthers(workload types.NamespacedName, budget types.UID) (count int32) {
	for other, taken := range d.byWorkload {
		if other != workload {
			count += taken[budget]
		}
	}
	return count
}

// set replaces what is known of a workload. The mutex is held.
func (d *disruptions) set(workload types.NamespacedName, budgets []rollout.DisruptionBudget, disrupted int32) {
	delete(d.byWorkload, workload)
	if disrupted == 0 || len(budgets) == 0 {
		return
	}
	d.byWorkload[workload] = map[types.UID]int32{}
	for i := range budgets {
		d.byWorkload[workload][budgets[i].UID] = disrupted
	}
}
