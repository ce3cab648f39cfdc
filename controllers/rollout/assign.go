// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import "slices"

// Slip is what has to be written on a workload's order slip.
type Slip struct {
	Namespace, Name string
	// Revision is empty when the set is to be taken off the slip.
	Revision string
}

// Assign returns the slips that have to change, in the order of their workloads.
func Assign(set Set, workloads []Workload) []Slip {
	if set.waits() {
		return nil
	}
	var slips []Slip
	for i := range workloads {
		workload := &workloads[i]
		target := ""
		if workload.Selected && !set.Deleting {
			target = set.UpdateRevision
		}
		if set.Deleting && set.Retain {
			// The workload's controller takes the set off the slip in the write that hands its content over.
			target = workload.Slip
		}
		if target != workload.Slip {
			slips = append(slips, Slip{Namespace: workload.Namespace, Name: workload.Name, Revision: target})
		}
	}
	slices.SortFunc(slips, func(a, b Slip) int { return compareNames(a.Namespace, a.Name, b.Namespace, b.Name) })
	return slips
}

// Released is true when no workload has anything of the set left.
func Released(workloads []Workload) bool {
	return !slices.ContainsFunc(workloads, func(workload Workload) bool { return workload.Slip != "" || workload.Carried })
}
