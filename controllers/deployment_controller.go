// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"slices"
	"time"

	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// tryAgain is after how long a template that the API server refused is sent once more, if nothing happens before.
const tryAgain = time.Minute

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
	turns       *turns
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
		if !r.summaries.has(request.NamespacedName) {
			r.reportUnread(observed, err)
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
			Pods: observed.pods, DisruptionBudgets: observed.disruptionBudgets, GracePeriod: gracePeriodOf(observed.deployment), Now: now,
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
	// updatesPods is true when pods were updated, which the cache can not show yet, or when what they need first is on its way.
	updatesPods bool
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
	r.recallRefused(observed)
	plan, err := r.render(observed)
	if err != nil {
		return failed(observed, err), err
	}
	rest, withheld, err := r.withhold(observed, plan)
	if err != nil {
		return failed(observed, err), err
	}
	result, err := r.pursue(ctx, observed, rest)
	result.tellWithheld(withheld)
	result.addProblems(plan.Problems) // also what collides and is withheld
	result.tellRefused(observed)
	return result, err
}

// pursue takes a workload one step further to a plan.
func (r *deploymentReconciler) pursue(ctx context.Context, observed *workloadObservation, plan *injection.Plan) (*outcome, error) {
	result, way := newOutcome(plan.Problems), byNewPods
	if observed.goesInPlace(plan) {
		way = inRunningPods
		observed.eachNew(plan, func(key string) { result.phases[key] = observed.firstPhase(key) })
	}
	if wait := r.tooYoung(observed, plan); wait > 0 {
		result.recheck = soonest(result.recheck, wait)
		return result, nil
	}
	accepted, refused, err := r.preflight(ctx, observed, plan, way)
	if err != nil {
		return result, err
	}
	if len(observed.refused.pods) > 0 && observed.bringsRevision(plan) {
		if !observed.bringsRevision(accepted) {
			result.keepsPulls = true // what was pulled for the pods still is, when they are tried again
			result.addRefused(refused)
			return result, nil
		}
		r.announceRollout(ctx, observed)
	}
	result, err = r.carryOut(ctx, observed, accepted)
	result.addRefused(refused)
	return result, err
}

// firstPhase is the phase of a set until it is decided which pods are updated.
func (o *workloadObservation) firstPhase(key string) rollout.Phase {
	if slices.ContainsFunc(o.assigned, func(set assignedSet) bool { return set.Key == key && set.awaitsTurn }) {
		return rollout.AwaitingTurn
	}
	return rollout.UpdatingPods
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

// report keeps a summary for each set on the slip, and for those that have a problem with leaving. It returns after how long a pod becomes available without any event.
func (r *deploymentReconciler) report(observed *workloadObservation, outcome *outcome) (recheck time.Duration) {
	name, marks := client.ObjectKeyFromObject(observed.deployment), marksOf(observed.workload.Template)
	summaries := map[string]rollout.Summary{}
	for i := range observed.assigned {
		set := &observed.assigned[i]
		summary := set.summary
		summary.Rendered, summary.Phase = marks[set.Key], outcome.phases[set.Key]
		last := r.summaries.get(name, set.Key)
		summary.RememberEnd(last, rolloutOf(observed.deployment), set.failure != nil)
		summary.RememberRest(last, set.strategy.Partition.String(), set.awaitsTurn)
		if set.Held {
			summary.StayAtRest(last, set.awaitsTurn) // so that it goes back, or on, when it is its turn
		}
		summary.Problem = observed.problemOf(set, summary, outcome, r.now())
		if set.standing == leaving && summary.Problem == nil {
			continue
		}
		summaries[set.Key] = summary
		recheck = soonest(recheck, set.recheck)
	}
	r.summaries.put(name, summaries)
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
