// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

// Package rollout decides, for one set, which workload gets which revision, and what its status says. It is pure: functions over
// snapshots that hold what the decisions need, and the time.
//
// # Vocabulary
//
//   - slip: what the set assigned to a workload, a revision or nothing. The workload's controller acts on it.
//   - summary: what the workload's controller saw of one set in one workload: template, pods, problem.
//   - settled: the template holds the assigned revision and every pod was born with it, available at least once.
//
// # Algorithm
//
//  1. The spec's content names the update revision; equal content reuses its revision.
//  2. Every selected workload is assigned the update revision; one that is not selected any more is assigned nothing. A paused set
//     assigns nothing new, and a set that is being deleted takes back everything.
//  3. When every workload has settled at the update revision, that is the current revision.
//  4. Revisions that nothing refers to are pruned beyond the history limit, the oldest first.
//  5. The status is computed whole from the summaries; its texts depend on nothing but what they tell.
package rollout
