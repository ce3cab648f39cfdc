// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// stoppedInterval is how often a workload looks whether a failure elsewhere is over, of which no event comes here.
const stoppedInterval = 5 * time.Second

// outdatedInterval is how often a workload looks whether the sets' controller has dealt with a new spec.
const outdatedInterval = time.Second

// assess counts what became of each set in the pods, and stops the sets whose revision has failed, here or in another workload: they are held
// as they are until the sets' controller takes the revision back, or the pods that failed recover.
func (r *deploymentReconciler) assess(observed *workloadObservation) {
	now := r.now()
	name := client.ObjectKeyFromObject(observed.deployment)
	for i := range observed.pods {
		if pod := &observed.pods[i]; r.unseen.has(name, pod.UID, now) {
			pod.Resized = nil // what marks it is under way
		}
	}
	r.sightings.date(name, observed.pods, r.failingSince(observed, now))
	for i := range observed.assigned {
		set := &observed.assigned[i]
		update := set.update()
		set.summary, set.recheck = rollout.Summarize(update, observed.pods, now)
		if set.standing == leaving {
			continue
		}
		set.awaitsTurn = r.awaitsTurn(observed, set)
		failure, recheck := update.Failure(observed.pods, rolloutOf(observed.deployment), now)
		set.failure, set.recheck = failure, soonest(set.recheck, recheck)
		if set.outdated {
			// The new spec may want something else of the pods, and its partition is not meant for this revision.
			set.Held = true
			set.recheck = soonest(set.recheck, outdatedInterval)
		}
		if set.judged && (failure != nil || r.hasFailedElsewhere(name, set)) {
			set.Held, set.stopped = true, true
			set.recheck = soonest(set.recheck, stoppedInterval)
		}
	}
}

// hasFailedElsewhere is true of a set whose revision has failed in another workload, or did before the pods there went back, or the operator restarted.
func (r *deploymentReconciler) hasFailedElsewhere(name types.NamespacedName, set *assignedSet) bool {
	return set.degraded == v1alpha1.ReasonRolledBack || r.wasHalted(name, set) || r.summaries.hasFailed(name, set.Key, set.Revision)
}

// wasHalted is true of a set of which pods failed before this process looked at a workload of it. They may be there, or where it has not looked yet.
func (r *deploymentReconciler) wasHalted(name types.NamespacedName, set *assignedSet) bool {
	return set.degraded == v1alpha1.ReasonPodsFailing && r.summaries.get(name, set.Key) == nil
}

// failingSince is since when containers are taken for failing that were not seen to fail before. What had a set halted has failed: it is not waited
// for once more.
func (r *deploymentReconciler) failingSince(observed *workloadObservation, now time.Time) time.Time {
	name := client.ObjectKeyFromObject(observed.deployment)
	if slices.ContainsFunc(observed.assigned, func(set assignedSet) bool { return r.wasHalted(name, &set) }) {
		return now.Add(-rollout.StaleFor)
	}
	return now
}

// isJudged is true when a plan brings a revision that may fail.
func (o *workloadObservation) isJudged(plan *injection.Plan) bool {
	judged := false
	o.eachNew(plan, func(key string) {
		judged = judged || slices.ContainsFunc(o.assigned, func(set assignedSet) bool { return set.Key == key && set.judged })
	})
	return judged
}

// problemOf is what is most worth telling of a set in a workload: that its revision failed, what came of it in this reconcile, what its
// Deployment's own rollout makes of it, or that something else in the pods holds it up, which may be what has used up a PodDisruptionBudget.
func (o *workloadObservation) problemOf(set *assignedSet, summary rollout.Summary, outcome *outcome, now time.Time) *rollout.Problem {
	if set.failure != nil {
		return set.failure
	}
	told, isTold := outcome.problems[set.Key]
	if isTold && told.Reason != v1alpha1.ReasonDisruptionBudget {
		return &told
	}
	if summary.Phase.Rests() && summary.Phase != rollout.AwaitingTurn {
		if problem := o.failureAsKept(set, now); problem != nil {
			return problem
		}
	}
	if o.intent == nil {
		if problem := rollout.DeploymentProblem(rolloutOf(o.deployment), summary); problem != nil {
			return problem
		}
	}
	if !summary.Phase.Rests() && !outcome.updatesPods {
		if problem := o.stuckProblem(set, &summary, now); problem != nil {
			return problem
		}
	}
	if isTold {
		return &told
	}
	return nil
}

// stuckProblem is why a workload waits for what is not the set's. From when it has come to its end, or the set has, what becomes of its pods is its
// owner's business. The set is looked at again when time may change that.
func (o *workloadObservation) stuckProblem(set *assignedSet, summary *rollout.Summary, now time.Time) *rollout.Problem {
	deployment := rolloutOf(o.deployment)
	isThere := summary.Rendered == summary.Target && summary.Updated == summary.Injected
	ended := summary.CameToEnd || deployment.Complete && !deployment.Empty && (!set.judged || summary.Available >= deployment.Replicas)
	if set.standing == leaving || isThere && ended {
		return nil
	}
	update := set.update()
	problem, recheck := update.StuckProblem(o.updates(), o.pods, deployment, now)
	set.recheck = soonest(set.recheck, recheck)
	return problem
}

// updates are the parts of all sets.
func (o *workloadObservation) updates() []rollout.SetUpdate {
	updates := make([]rollout.SetUpdate, 0, len(o.assigned))
	for i := range o.assigned {
		updates = append(updates, o.assigned[i].update())
	}
	return updates
}
