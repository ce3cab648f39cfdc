// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

// Package controllers brings Deployments to what SidecarSets declare. Read this first.
//
//	SidecarSet ──► sidecarset_controller ──► order slip on the ──► deployment_controller ──► template ──► pods
//	    ▲          which workload goes       Deployment            what the template holds,     │
//	    │          to which revision                               all of its sets at once      │
//	    └─ status ◄──────────────────── summaries ◄─────────────────────────────────────────────┘
//
// The data goes one way. The controller of sets writes revisions, order slips (the annotation target-revisions) and the sets' status; it
// never touches a template. The controller of Deployments reads the slip and is the only writer of templates; since one reconcile runs per
// Deployment, nothing writes the same template at the same time.
//
// Each reconcile observes (observe.go, all reads, from the cache), decides (the pure packages injection, rollout and promotion), acts (apply.go,
// all writes) and reports. What a reconcile of a Deployment saw is a summary for each of its sets (summaries.go); a set's status is the sum
// of its summaries, so that no event costs more than the pods of one workload or the workloads of one set.
//
// A Deployment goes to its slip in one of two ways. What running pods can take (deployment_inplace.go) is patched into them, a few at a
// time, and when all have it, the template follows by a promotion (deployment_promotion.go). Everything else (deployment_template.go)
// is written into the template at once, and the Deployment's own rollout does the rest. Before either, the API server judges a dry
// run of it, or has judged one of the same new images in another workload (preflight.go). A slip is acted upon when it is old enough
// (deployment_slip.go), and as far as no partition keeps what is there (deployment_partition.go).
//
// A revision that fails in one workload is held in all others (deployment_failure.go) until the controller of sets takes it back.
//
// In memory are only the summaries, what the API server refused lately (refusals.go) and judged in dry runs (preflight.go), since when
// containers can not be started (sightings.go), the updates of pods that the cache does not show yet (unseen.go), which pods updates
// have made unavailable (disruptions.go), which promotions are under way (promotions.go), which workloads are called to go on after a partition
// was lowered (turns.go), and what workloads were rendered to last (renderings.go). All are made anew from the cluster after a start.
//
// Every write to a workload is guarded by the version of the object that the decision was made from, or by tests of what it relies on. A
// refusal for that reason means that the cache is behind: the reconcile ends quietly and comes again.
package controllers
