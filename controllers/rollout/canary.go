// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

// canaries counts the canaries of a set, and those of them that have not come to rest with the update revision yet.
func canaries(set *Set, workloads []Workload) (all, pending int32) {
	for i := range workloads {
		workload := &workloads[i]
		if !workload.Canary || !workload.Selected {
			continue
		}
		all++
		if workload.Slip != set.UpdateRevision || !workload.isAtRest(set) {
			pending++
		}
	}
	return all, pending
}

// waitsForCanaries is true while other workloads have to leave the update revision to the canaries. A revision that all workloads have had is
// no news to anybody.
func waitsForCanaries(set *Set, workloads []Workload) bool {
	_, pending := canaries(set, workloads)
	return pending > 0 && set.brings()
}
