// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

const (
	// slipSettles is how old an order slip has to be before it is acted upon, so that sets that are created together make one
	// template change. Managed fields tell the time of a write in whole seconds, so this waits for one second at least.
	slipSettles = 2 * time.Second
	// tryAgain is after how long a template that the API server refused is sent once more, if nothing happens before.
	tryAgain = time.Minute
)

// deploymentReconciler brings the template of a Deployment to its order slip. It is the only writer of templates.
type deploymentReconciler struct {
	observer  *observer
	writer    *writer
	renderer  *injection.Renderer
	summaries *summaries
	now       func() time.Time
}

// Reconcile renders all sets on a Deployment's slip at once, and reports what it saw of each.
func (r *deploymentReconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	observed, err := r.observer.deployment(ctx, request.NamespacedName)
	if err != nil {
		return quietly(err)
	}
	if observed == nil {
		r.summaries.put(request.NamespacedName, nil)
		return reconcile.Result{}, nil
	}
	if done, err := r.settleSlip(ctx, observed); done || err != nil {
		return quietly(err)
	}
	plan, err := r.renderer.Render(observed.workload, observed.sets())
	if err != nil {
		return reconcile.Result{}, err
	}
	var wait time.Duration
	if plan.Changed {
		if wait = r.untilSettled(observed); wait <= 0 {
			plan, err = r.apply(ctx, observed, plan)
		}
	}
	recheck := r.report(observed, plan)
	if err != nil {
		return quietly(err)
	}
	return reconcile.Result{RequeueAfter: soonest(wait, recheck, retryAfter(plan))}, nil
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
	leaving := slices.IndexFunc(observed.assigned, func(set assignedSet) bool { return set.handOver })
	if leaving < 0 {
		return false, nil
	}
	key := observed.assigned[leaving].Key
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

// untilSettled is how long the slip has to be left alone. A clock that differs from the API server's makes it shorter, never longer.
func (r *deploymentReconciler) untilSettled(observed *workloadObservation) time.Duration {
	for i := range observed.deployment.ManagedFields {
		entry := &observed.deployment.ManagedFields[i]
		if entry.Operation != metav1.ManagedFieldsOperationUpdate || entry.Time == nil {
			continue
		}
		if age := r.now().Sub(entry.Time.Time); age >= 0 && age < slipSettles {
			return slipSettles - age
		}
	}
	return 0
}

// apply writes the template. When the API server refuses it, the sets that it refuses are held as they are, with its words as their
// problem, and the others are applied without them. It returns the plan that was carried out.
func (r *deploymentReconciler) apply(ctx context.Context, observed *workloadObservation, plan *injection.Plan) (*injection.Plan, error) {
	err := r.writer.applyTemplate(ctx, observed.deployment, plan)
	if isFieldConflict(err) {
		err = r.applyOverOwnPast(ctx, observed, plan, err)
	}
	if err == nil {
		log.FromContext(ctx).Info("Applied template", "revisions", plan.Revisions)
	}
	if !isRefusal(err) || len(observed.assigned) == 0 {
		return plan, err
	}
	accepted, err := r.narrow(ctx, observed, err)
	if err != nil || !accepted.Changed {
		return accepted, err
	}
	return accepted, r.writer.applyTemplate(ctx, observed.deployment, accepted)
}

// applyOverOwnPast resolves conflicts about fields that hold what we rendered ourselves at the revisions that the marks name. That is so
// after a "kubectl rollout undo", which puts an earlier template under its own name. Any other conflict is returned as it is.
func (r *deploymentReconciler) applyOverOwnPast(ctx context.Context, observed *workloadObservation, plan *injection.Plan, conflict error) error {
	past, err := r.renderer.HoldsMarked(observed.workload, observed.sets())
	if err != nil || !past {
		return conflict
	}
	deployment, err := r.observer.withManagedFields(ctx, observed.deployment)
	if err != nil {
		return err
	}
	if err := r.writer.takeBack(ctx, deployment, plan.Keep); err != nil {
		return err
	}
	log.FromContext(ctx).Info("Took back fields that a rollback had restored")
	return errLookAgain
}

// narrow finds the sets that the API server refuses, by dry runs that let one after the other join, and holds them.
func (r *deploymentReconciler) narrow(ctx context.Context, observed *workloadObservation, refusal error) (*injection.Plan, error) {
	sets := observed.sets()
	trial := slices.Clone(sets)
	for i := range trial {
		trial[i].Held = true
	}
	refused := map[string]injection.Problem{}
	for i := range trial {
		if sets[i].Held {
			continue
		}
		trial[i].Held = false
		err := refusal
		if len(trial) > 1 {
			if err = r.dryRun(ctx, observed, trial); err != nil && !isRefusal(err) {
				return nil, err
			}
		}
		if err != nil {
			trial[i].Held = true
			refused[trial[i].Key] = problemOf(err)
		}
	}
	plan, err := r.renderer.Render(observed.workload, trial)
	if err != nil {
		return nil, err
	}
	maps.Copy(plan.Problems, refused)
	return plan, nil
}

func (r *deploymentReconciler) dryRun(ctx context.Context, observed *workloadObservation, sets []injection.Set) error {
	plan, err := r.renderer.Render(observed.workload, sets)
	if err != nil || !plan.Changed {
		return err
	}
	return r.writer.applyTemplate(ctx, observed.deployment, plan, client.DryRunAll)
}

func problemOf(refusal error) injection.Problem {
	reason := v1alpha1.ReasonPreflightFailed
	if isFieldConflict(refusal) {
		reason = v1alpha1.ReasonFieldConflict
	}
	return injection.Problem{Reason: reason, Message: fmt.Sprintf("the API server refuses the template: %s", serverWords(refusal))}
}

// report keeps a summary for each set on the slip. It returns after how long a pod becomes available without any event.
func (r *deploymentReconciler) report(observed *workloadObservation, plan *injection.Plan) (recheck time.Duration) {
	marks := marksOf(observed.workload.Template)
	deployment := rolloutOf(observed.deployment)
	summaries := map[string]rollout.Summary{}
	for i := range observed.assigned {
		set := &observed.assigned[i]
		assignment := rollout.Assignment{Key: set.Key, Revision: set.Revision, Sidecars: set.Content.SidecarNames(), MinReadySeconds: set.minReadySeconds}
		var problem *rollout.Problem
		if found, ok := plan.Problems[set.Key]; ok {
			problem = &rollout.Problem{Reason: found.Reason, Message: found.Message}
		}
		summary, until := rollout.Summarize(assignment, marks[set.Key], deployment, observed.pods, problem, r.now())
		summaries[set.Key] = summary
		recheck = soonest(recheck, until)
	}
	r.summaries.put(client.ObjectKeyFromObject(observed.deployment), summaries)
	return recheck
}

func (o *workloadObservation) sets() []injection.Set {
	sets := make([]injection.Set, 0, len(o.assigned))
	for i := range o.assigned {
		sets = append(sets, o.assigned[i].Set)
	}
	return sets
}

func retryAfter(plan *injection.Plan) time.Duration {
	if plan != nil && len(plan.Problems) > 0 {
		return tryAgain
	}
	return 0
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
