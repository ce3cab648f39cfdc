// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// Slip is what has to be written on a workload's order slip.
type Slip struct {
	Namespace, Name string
	// Revision is empty when the set is to be taken off the slip.
	Revision string
}

// Assign returns the slips that have to change now, in the order of the waves, and the workloads whose turn it is to go on after the partition was
// lowered. What makes a workload busy takes one of the free places; there are as many as maxConcurrentWorkloads. A workload whose slip can not be
// changed takes none.
func Assign(set Set, workloads []Workload) (slips []Slip, called []types.NamespacedName) {
	if set.waits() {
		return nil, nil
	}
	free := freePlaces(&set, workloads)
	stopped := firstFailed(&set, workloads) != nil || set.isHalted() && !Known(workloads)
	waits := mayNotHave(&set, workloads)
	afterCanaries := waitsForCanaries(&set, workloads)
	for _, workload := range inOrder(&set, workloads) {
		goal, atOnce := set.goal(&workload, stopped, waits(&workload))
		hasIt := goal == workload.Slip
		if goesOn := workload.awaitsTurn(&set) && !stopped && (!afterCanaries || workload.Canary); hasIt && !goesOn {
			continue
		}
		takes, fits := workload.takesPlace(&set, atOnce, free)
		if !fits || !hasIt && workload.isRefused() {
			continue
		}
		if takes {
			free--
		}
		if hasIt {
			called = append(called, types.NamespacedName{Namespace: workload.Namespace, Name: workload.Name})
		} else {
			slips = append(slips, Slip{Namespace: workload.Namespace, Name: workload.Name, Revision: goal})
		}
	}
	return slips, called
}

// takesPlace tells whether a change takes a workload another place, and whether it may be made while so many are free.
func (w *Workload) takesPlace(set *Set, atOnce bool, free int32) (takes, fits bool) {
	busy := w.isBusy(set)
	switch {
	case atOnce:
		return false, true
	case w.Slip != "" && w.Summary == nil:
		return false, false // It was not looked at yet, as after a restart, and may only seem busy.
	case busy && (w.Slip == "" || w.Slip != set.Status.CurrentRevision): // which is being changed already
		return false, true
	case busy:
		return false, free >= 0
	}
	return true, free > 0
}

// mayNotHave tells which workloads may not have the update revision yet: those that canaries go before, those in which a partition keeps what they
// do not have yet, and all that have something, while a partition withholds it from others.
func mayNotHave(set *Set, workloads []Workload) func(*Workload) bool {
	afterCanaries, withheld := waitsForCanaries(set, workloads), isWithheld(set, workloads)
	return func(workload *Workload) bool {
		// One in which a revision failed that this one corrects is put right, though it can not have the correction.
		isKept := withheld && workload.Slip != "" && !workload.current().Problem.IsFailure()
		return afterCanaries && !workload.Canary || isKept || set.keepsOld(workload)
	}
}

// isWithheld is true while a partition withholds the update revision from workloads that it was assigned to. One that has a problem of its own is
// no measure for others; but all that wait so go on at once when the partition is lifted.
func isWithheld(set *Set, workloads []Workload) bool {
	var troubled int32
	for i := range workloads {
		workload := &workloads[i]
		if workload.Slip != set.UpdateRevision || workload.current().Phase != Withheld {
			continue
		}
		if !workload.problem().degrades() {
			return true
		}
		troubled++
	}
	return troubled >= MaxConcurrentWorkloads(set.MaxConcurrentWorkloads, int32(len(workloads)))
}

// goal is the revision that a workload is to have next, of those that are possible now. stopped is true when the update revision has failed
// somewhere, and waits when others go first. atOnce is true of a change that needs no place in a wave, because nothing is at rest that it
// could disturb.
func (s *Set) goal(workload *Workload, stopped, waits bool) (revision string, atOnce bool) {
	current := s.Status.CurrentRevision
	newcomer := workload.Slip == "" && !workload.Carried
	switch {
	case s.Deleting && s.Retain:
		// The workload's controller takes the set off the slip in the write that hands its content over.
		return workload.Slip, false
	case s.Deleting || !workload.Selected:
		// One that its owner took away when the set had failed in it would else wait for those that its failure stops.
		return "", !workload.Carried || (!s.Deleting && workload.current().Problem.IsFailure())
	case newcomer && current != "":
		// It gets what has proven itself, and at once when it is starting anyway.
		return current, !workload.Complete && (workload.Observed || workload.New)
	case s.failed():
		return current, false
	case stopped || waits:
		return workload.Slip, false
	}
	return s.UpdateRevision, false
}

// keepsOld is true of a workload whose pods a partition is to keep at what has proven itself, and whose template does not have that yet. One that
// can not have it gets the update revision, which may be the correction.
func (s *Set) keepsOld(workload *Workload) bool {
	current := s.Status.CurrentRevision
	return s.Partitioned && workload.Slip != "" && workload.Slip == current && workload.current().Rendered != current && !workload.problem().degrades()
}

// Released is true when no workload has anything of the set left.
func Released(workloads []Workload) bool {
	return !slices.ContainsFunc(workloads, func(workload Workload) bool { return workload.Slip != "" || workload.Carried })
}
