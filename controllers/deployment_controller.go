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
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

const (
	// slipSettles is how old an order slip has to be before it is acted upon, so that sets that are created together make one
	// template change. Managed fields tell the time of a write in whole seconds, so this waits for one second at least. An update in place of
	// a workload's only set does not wait.
	slipSettles = 2 * time.Second
	// slipObserved is how long at most the Deployment controller is given to see the slip: what it then writes would have ours refused. A revision
	// that comes into the cache after the slip that names it is given the same time.
	slipObserved = 5 * time.Second
	// tryAgain is after how long a template that the API server refused is sent once more, if nothing happens before.
	tryAgain = time.Minute
)

// deploymentReconciler brings the template of a Deployment to its order slip. It is the only writer of templates.
type deploymentReconciler struct {
	observer  *observer
	writer    *writer
	renderer  *injection.Renderer
	refusals  *refusals
	unseen    *unseen
	summaries *summaries
	sightings *sightings
	recorder  events.EventRecorder
	now       func() time.Time
	podSlots  *podSlots

	disruptions *disruptions
	promotions  *promotions
	renderings  *renderings
	preflights  preflights
}

// Reconcile renders all sets on a Deployment's slip at once, and reports what it saw of each.
func (r *deploymentReconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	observed, err := r.observer.deployment(ctx, request.NamespacedName)
	if err != nil {
		r.reportUnread(observed, err)
		r.disruptions.know(request.NamespacedName)
		return quietly(err)
	}
	if observed == nil {
		r.summaries.put(request.NamespacedName, nil)
		r.refusals.forget(request.NamespacedName)
		r.sightings.forget(request.NamespacedName)
		r.unseen.forget(request.NamespacedName)
		r.disruptions.forget(request.NamespacedName)
		r.preflights.forget(request.NamespacedName)
		r.promotions.end(request.NamespacedName, r.now())
		return quietly(r.deletePullsOf(ctx, request.NamespacedName))
	}
	r.promotions.see(request.NamespacedName, observed.intent, r.now())
	r.seeDisruptions(observed)
	if done, wait, err := r.settle(ctx, observed); done || err != nil {
		if err == nil {
			return reconcile.Result{RequeueAfter: wait}, nil
		}
		return quietly(err)
	}
	r.assess(observed)
	outcome, err := r.advance(ctx, observed)
	if err == nil && !outcome.keepsPulls {
		err = r.deletePulls(ctx, observed.deployment.Namespace, observed.pulls)
	}
	recheck := r.report(observed, outcome)
	if err != nil {
		return quietly(err)
	}
	return reconcile.Result{RequeueAfter: soonest(outcome.recheck, recheck)}, nil
}

// seeDisruptions takes in the pods that updates made unavailable, when the cache shows all updates.
func (r *deploymentReconciler) seeDisruptions(observed *workloadObservation) {
	name, now := client.ObjectKeyFromObject(observed.deployment), r.now()
	if r.unseen.wait(name, observed.pods, now) == 0 {
		r.disruptions.see(name, &rollout.PodUpdate{
			Pods: observed.pods, DisruptionBudgets: observed.disruptionBudgets, GracePeriod: observed.gracePeriod(), Now: now,
		})
	}
}

// outcome is what became of a workload's sets in a reconcile.
type outcome struct {
	// problems and phases are those of single sets, by key.
	problems map[string]rollout.Problem
	phases   map[string]rollout.Phase
	// keepsPulls is true when the pods are being updated, which decides on pre-pull pods, or may not be looked at yet; else there are to be none.
	keepsPulls bool
	// recheck is after how long to come again without any event; zero when events suffice.
	recheck time.Duration
}

func newOutcome(problems map[string]injection.Problem) *outcome {
	result := &outcome{problems: map[string]rollout.Problem{}, phases: map[string]rollout.Phase{}}
	result.addProblems(problems)
	return result
}

// failed is the outcome for all sets of a workload whose template can not be dealt with.
func failed(observed *workloadObservation, err error) *outcome {
	result := newOutcome(nil)
	for i := range observed.assigned {
		result.problems[observed.assigned[i].Key] = rollout.Problem{Reason: v1alpha1.ReasonPreflightFailed, Message: err.Error()}
	}
	return result
}

// addProblems adds problems that only people can solve. What they change may come without an event.
func (o *outcome) addProblems(problems map[string]injection.Problem) {
	for key, problem := range problems {
		o.problems[key] = rollout.Problem{Reason: problem.Reason, Message: problem.Message}
		o.recheck = soonest(o.recheck, tryAgain)
	}
}

// addRefused adds what a preflight refused.
func (o *outcome) addRefused(refused verdict) {
	o.addProblems(refused.problems)
	o.recheck = soonest(o.recheck, refused.retry)
}

// advance takes a workload one step further: a promotion goes on, or what is to be changed passes its preflight and is carried out. It returns
// what became of it also when it failed underway.
func (r *deploymentReconciler) advance(ctx context.Context, observed *workloadObservation) (*outcome, error) {
	if observed.intent != nil {
		return r.promote(ctx, observed)
	}
	plan, err := r.render(observed)
	if err != nil {
		return failed(observed, err), err
	}
	rest, withheld := plan, []string(nil)
	if !observed.goesInPlace(plan) {
		if rest, withheld, err = r.withhold(observed, plan); err != nil {
			return failed(observed, err), err
		}
	}
	result, err := r.pursue(ctx, observed, rest)
	result.tellWithheld(withheld)
	result.addProblems(plan.Problems) // also what collides and is withheld
	return result, err
}

// pursue takes a workload one step further to a plan.
func (r *deploymentReconciler) pursue(ctx context.Context, observed *workloadObservation, plan *injection.Plan) (*outcome, error) {
	result, way := newOutcome(plan.Problems), byNewPods
	if observed.goesInPlace(plan) {
		way = inRunningPods
		observed.eachNew(plan, func(key string) { result.phases[key] = rollout.UpdatingPods })
	}
	if wait := r.tooYoung(observed, plan); wait > 0 {
		result.recheck = soonest(result.recheck, wait)
		return result, nil
	}
	accepted, refused, err := r.preflight(ctx, observed, plan, way)
	if err != nil {
		return result, err
	}
	result, err = r.carryOut(ctx, observed, accepted)
	result.addRefused(refused)
	return result, err
}

// carryOut takes a workload to a plan, in one of two ways: a change that pods can not take goes through the template, any other to the pods.
func (r *deploymentReconciler) carryOut(ctx context.Context, observed *workloadObservation, plan *injection.Plan) (*outcome, error) {
	result := newOutcome(plan.Problems)
	observed.tellMissing(result)
	switch {
	case plan.Changed && !observed.goesInPlace(plan):
		return r.applyStructurally(ctx, observed, plan)
	case observed.isRollingOut():
		return r.waitForRollout(ctx, observed, plan, result)
	}
	return r.updatePods(ctx, observed, plan, result)
}

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
		settles := slipSettles
		if len(observed.assigned) == 1 && observed.goesInPlace(plan) {
			settles = 0 // no other set has a part in the template that could change at the same moment.
		}
		return r.untilSettled(observed, settles)
	}
	return 0
}

// untilSettled is how long a slip that settles after some time has to be left alone. A clock that differs from the API server's makes it shorter,
// never longer.
func (r *deploymentReconciler) untilSettled(observed *workloadObservation, settles time.Duration) time.Duration {
	wait := r.untilSlipIsOld(observed, settles)
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
	for i := range deployment.ManagedFields {
		entry := &deployment.ManagedFields[i]
		if !injection.IsOurs(entry) || entry.Time == nil {
			continue
		}
		if age := r.now().Sub(entry.Time.Time); age >= 0 && age < slipSettles {
			return slipSettles - age
		}
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

// report keeps a summary for each set on the slip, and for those that have a problem with leaving. It returns after how long a pod becomes available without any event.
func (r *deploymentReconciler) report(observed *workloadObservation, outcome *outcome) (recheck time.Duration) {
	marks := marksOf(observed.workload.Template)
	summaries := map[string]rollout.Summary{}
	for i := range observed.assigned {
		set := &observed.assigned[i]
		summary := set.summary
		summary.Rendered, summary.Phase = marks[set.Key], outcome.phases[set.Key]
		summary.Problem = observed.problemOf(set, summary, outcome, r.now())
		if set.standing == leaving && summary.Problem == nil {
			continue
		}
		summaries[set.Key] = summary
		recheck = soonest(recheck, set.recheck)
	}
	r.summaries.put(client.ObjectKeyFromObject(observed.deployment), summaries)
	return recheck
}

// reportUnread keeps a summary for each set on the slip of a Deployment that can not be read: their status must not wait for it.
func (r *deploymentReconciler) reportUnread(observed *workloadObservation, err error) {
	if observed == nil || isStale(err) {
		return
	}
	summaries := map[string]rollout.Summary{}
	for key, revision := range observed.slip {
		summaries[key] = rollout.Summary{Target: revision, Problem: &rollout.Problem{Reason: v1alpha1.ReasonPreflightFailed, Message: err.Error()}}
	}
	r.summaries.put(client.ObjectKeyFromObject(observed.deployment), summaries)
}

// each visits the sets of these keys.
func (o *workloadObservation) each(keys []string, visit func(set *assignedSet)) {
	for i := range o.assigned {
		if set := &o.assigned[i]; slices.Contains(keys, set.Key) {
			visit(set)
		}
	}
}

// sets are those that the template is to have.
func (o *workloadObservation) sets() []injection.Set {
	var sets []injection.Set
	for i := range o.assigned {
		switch set := &o.assigned[i]; {
		case set.standing == leaving:
		case set.kept:
			sets = append(sets, o.templated(set))
		default:
			sets = append(sets, set.Set)
		}
	}
	return sets
}

// soonest returns the shortest of the durations that are not zero.
func soonest(durations ...time.Duration) time.Duration {
	var result time.Duration
	for _, duration := range durations {
		if duration > 0 && (result == 0 || duration < result) {
			result = duration
		}
	}
	return result
}
