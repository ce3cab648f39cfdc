// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

const (
	// slipSettles is how old an order slip has to be before it is acted upon, so that sets that are created or changed together make one
	// change, also if one of them could go into the running pods by itself: those would be replaced for the other one anyway. Managed fields
	// tell the time of a write in whole seconds, so this waits for one second at least.
	slipSettles = 2 * time.Second
	// slipObserved is how long at most the Deployment controller is given to see the slip: what it then writes would have ours refused. A revision
	// that comes into the cache after the slip that names it is given the same time.
	slipObserved = 5 * time.Second
)

// settle settles the slip, and while the API server refuses that, tells the sets on it and lets everything be as it is.
func (r *deploymentReconciler) settle(ctx context.Context, observed *workloadObservation) (done bool, wait time.Duration, err error) {
	if observed.intent != nil { // the pause of a promotion is ours to take back first
		return false, 0, nil
	}
	name, attempt := client.ObjectKeyFromObject(observed.deployment), slipAttempt(observed)
	problems, wait := r.refusals.recall(name, attempt, r.now())
	if wait == 0 {
		done, err = r.settleSlip(ctx, observed)
		if !isRefusal(err) {
			return done, 0, err
		}
		log.FromContext(ctx).Info("The API server refuses to have the slip changed", "reason", serverWords(err))
		wait, problems = tryAgain, map[string]injection.Problem{}
		for key := range observed.slip {
			problems[key] = unchangeable(err)
		}
		r.refusals.remember(name, attempt, problems, r.now())
	}
	r.assess(observed)
	return true, soonest(wait, r.report(observed, newOutcome(problems))), nil
}

// slipAttempt identifies what is to be done about a slip.
func slipAttempt(observed *workloadObservation) uint64 {
	return hashOf("slip", observed.slip, observed.deployment.Generation)
}

// settleSlip takes sets off the slip that are gone, or that hand their content over to the Deployment's owner. done is true when it wrote:
// the Deployment is another one then.
func (r *deploymentReconciler) settleSlip(ctx context.Context, observed *workloadObservation) (done bool, err error) {
	slip := maps.Clone(observed.slip)
	if len(observed.gone) > 0 {
		for _, key := range observed.gone {
			delete(slip, key)
		}
		return true, changeSlip(ctx, r.observer, r.writer, observed.deployment, slip)
	}
	handed := slices.IndexFunc(observed.assigned, func(set assignedSet) bool { return set.standing == handedOver })
	if handed < 0 {
		return false, nil
	}
	key := observed.assigned[handed].Key
	delete(slip, key)
	keep, err := r.renderer.KeepWithout(observed.workload, key)
	if err != nil {
		return false, err
	}
	deployment, err := r.observer.withManagedFields(ctx, observed.deployment)
	if err != nil {
		return false, err
	}
	log.FromContext(ctx).Info("Handed content over", "set", key)
	return true, r.writer.handOver(ctx, deployment, keep, slip)
}

// tooYoung is how long to leave a workload alone because what was written last is too young to act upon; zero when there is nothing to do, or
// it is old enough.
func (r *deploymentReconciler) tooYoung(observed *workloadObservation, plan *injection.Plan) time.Duration {
	if observed.goesInPlace(plan) && observed.goesBack(plan) {
		return 0 // a revision that failed is taken back without delay.
	}
	if plan.Changed && plan.Holds() {
		if wait := r.untilComplete(observed.deployment); wait > 0 {
			return wait
		}
	}
	if plan.Changed || observed.misses() {
		return r.untilSettled(observed)
	}
	return 0
}

// untilSettled is how long a slip has to be left alone. A clock that differs from the API server's makes it shorter, never longer.
func (r *deploymentReconciler) untilSettled(observed *workloadObservation) time.Duration {
	wait := r.untilSlipIsOld(observed, slipSettles)
	if wait == 0 && (observed.misses() || !rolloutOf(observed.deployment).Observed) {
		return r.untilSlipIsOld(observed, slipObserved)
	}
	return wait
}

// untilSlipIsOld is how long a slip is young. One that others wrote came with a manifest that was copied, and may be what the sets' controller would
// write, which then writes nothing; or a rollback restored it, which the sets' controller puts right as soon as it may.
func (r *deploymentReconciler) untilSlipIsOld(observed *workloadObservation, old time.Duration) time.Duration {
	if len(observed.slip) == 0 {
		return 0
	}
	written, byUs := slipWritten(observed.deployment)
	if !byUs {
		if old = max(old, slipSettles); !observed.isOfToday() {
			return old
		}
	}
	if age := r.now().Sub(written); age >= 0 && age < old {
		return old - age
	}
	return 0
}

// untilComplete is how long an apply of ours is young: the write that hands claims back may not be in the cache yet.
func (r *deploymentReconciler) untilComplete(deployment *appsv1.Deployment) time.Duration {
	if age := r.now().Sub(appliedAt(deployment)); age >= 0 && age < slipSettles {
		return slipSettles - age
	}
	return 0
}

// isOfToday is true when the slip names only revisions that its sets assign today.
func (o *workloadObservation) isOfToday() bool {
	return !slices.ContainsFunc(o.assigned, func(set assignedSet) bool { return o.slip[set.Key] != "" && !set.today })
}

// misses is true when a revision on the slip is not there. That is so for a moment when the slip comes into the cache ahead of it.
func (o *workloadObservation) misses() bool {
	return slices.ContainsFunc(o.assigned, func(set assignedSet) bool { return set.standing == missing })
}

func (o *workloadObservation) tellMissing(result *outcome) {
	for i := range o.assigned {
		if set := &o.assigned[i]; set.standing == missing {
			result.problems[set.Key] = rollout.Problem{
				Reason:  v1alpha1.ReasonPreflightFailed,
				Message: fmt.Sprintf("the ControllerRevision %q that it was assigned is gone: change the set, or unpause it, to have it made again", set.Revision),
			}
			result.recheck = soonest(result.recheck, tryAgain)
		}
	}
}
