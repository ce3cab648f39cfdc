// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

// Package rollout decides, for one set, which workload gets which revision, and what its status says; and for one workload, which of its pods
// are updated in place next. It is pure: functions over snapshots that hold what the decisions need, and the time.
//
// # Vocabulary
//
//   - slip: what the set assigned to a workload, a revision or nothing. The workload's controller acts on it.
//   - summary: what the workload's controller saw of one set in one workload: template, pods, problem.
//   - settled: the template and every pod have the assigned revision, and the sidecars were available with it.
//   - restarting: a pod from its in-place update on until each container whose image changed is another one.
//   - unproven: a revision that has not reached every workload yet. In each it has to be available in one pod for a while before it goes on.
//   - busy: a workload from the change of its slip until it has settled, has failed, or waits for its owner.
//   - failed: a revision of which a sidecar can not be started or is not available in time (failure.go).
//
// # Algorithm
//
//  1. The spec's content names the update revision; equal content reuses its revision.
//  2. Every selected workload is assigned the update revision, canaries first (canary.go), in a stable order, while no more than
//     maxConcurrentWorkloads are busy (waves.go); one that is not selected any more is assigned nothing. A new workload is assigned the current
//     revision. A paused set assigns nothing new, and a set that is being deleted takes back everything (assign.go).
//  3. In a workload, pods that are behind are updated: unavailable ones at once, then the youngest, while no more than maxUnavailable are
//     unavailable for whatever cause and no PodDisruptionBudget is exceeded (budget.go), and partition leaves some alone (inplace.go). When it is lowered,
//     workloads go on in the order and the number of step 2. If the set says so, their nodes have the new images first (prepull.go).
//  4. When the update revision fails somewhere, no further pod is touched. The status says so first, and that is the memory of it until the
//     spec changes; then every workload is assigned the current revision again, or nothing (rollback.go).
//  5. When every workload has settled at the update revision, that is the current revision.
//  6. Revisions that nothing refers to are pruned beyond the history limit, the oldest first.
//  7. The status is computed whole from the summaries; its texts depend on nothing but what they tell.
package rollout
