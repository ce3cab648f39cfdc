// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
)

// applyStructurally writes the template, which its Deployment then rolls out. When the API server refuses it, the sets that it refuses are
// held as they are, with its words as their problem, and the others are applied without them. What was refused is not sent again before
// something changes, or some time has passed.
func (r *deploymentReconciler) applyStructurally(ctx context.Context, observed *workloadObservation, plan *injection.Plan) (*outcome, error) {
	name := client.ObjectKeyFromObject(observed.deployment)
	attempt := fingerprint(observed, plan)
	if problems, wait := r.refusals.recall(name, attempt, r.now()); wait > 0 {
		result := newOutcome(problems)
		result.recheck = wait
		return result, nil
	}
	if lost := observed.workload.Owned.Lacks(plan.Keep); plan.Holds() && !lost.Empty() && carriesOurs(observed.deployment) {
		if err := r.takeBack(ctx, observed, lost); err != nil {
			return newOutcome(plan.Problems), err
		}
	}
	kept, err := r.writer.applyTemplate(ctx, observed.deployment, templateWrite{plan: plan})
	if isFieldConflict(err) {
		err = r.takeBackPast(ctx, observed, err)
	}
	if err == nil {
		log.FromContext(ctx).Info("Applied template", "revisions", plan.Revisions)
	}
	switch {
	case err == nil && !kept && !plan.Holds():
		problems := blame(plan, "the API server accepts the template and does not keep all of it: leave out the fields that this version of Kubernetes does not know")
		r.refusals.remember(name, attempt, problems, r.now())
		return newOutcome(problems), nil
	case !isRefusal(err) || len(observed.assigned) == 0:
		return newOutcome(plan.Problems), err
	}
	accepted, err := r.narrow(ctx, observed, err, byNewPods)
	if err != nil {
		return newOutcome(plan.Problems), err
	}
	if accepted.Changed {
		_, err = r.writer.applyTemplate(ctx, observed.deployment, templateWrite{plan: accepted})
	} else {
		r.refusals.remember(name, attempt, accepted.Problems, r.now())
	}
	return newOutcome(accepted.Problems), err
}

// blame is the same problem for each set whose revision a plan brings.
func blame(plan *injection.Plan, message string) map[string]injection.Problem {
	problems := maps.Clone(plan.Problems)
	for key := range plan.Revisions {
		problems[key] = injection.Problem{Reason: v1alpha1.ReasonPreflightFailed, Message: message}
	}
	return problems
}

// takeBackPast resolves conflicts about our marks, and about fields that hold what we rendered ourselves at the revisions that the marks name, and
// that we lost. That is so after a "kubectl rollout undo", which puts an earlier template under its own name. A field that we own and
// somebody else claims as well is no such field. Any other conflict is returned as it is.
func (r *deploymentReconciler) takeBackPast(ctx context.Context, observed *workloadObservation, conflict error) error {
	past, err := r.renderer.Past(observed.workload, observed.sets())
	if err != nil {
		return err
	}
	lost := observed.workload.Owned.Lacks(injection.MarksIn(observed.workload.Template))
	if carriesOurs(observed.deployment) { // else it may be content that was left to the Deployment's owner
		lost = lost.Union(observed.workload.Owned.Lacks(past))
	}
	if lost.Empty() {
		return conflict
	}
	if err := r.takeBack(ctx, observed, lost); err != nil {
		return err
	}
	return conflict
}

// takeBack makes us the owner of fields again that have the values that we gave them. The Deployment is another one then, and has to be observed
// again; but not when nobody gives anything up.
func (r *deploymentReconciler) takeBack(ctx context.Context, observed *workloadObservation, lost *fieldpath.Set) error {
	deployment, err := r.observer.withManagedFields(ctx, observed.deployment)
	if err != nil {
		return err
	}
	if changed, err := r.writer.takeBack(ctx, deployment, lost); err != nil || !changed {
		return err
	}
	log.FromContext(ctx).Info("Took back fields that somebody had restored")
	return errLookAgain
}

// narrow is a plan without the sets that the API server refuses, with its words as their problem.
func (r *deploymentReconciler) narrow(ctx context.Context, observed *workloadObservation, refusal error, way way) (*injection.Plan, error) {
	refused, err := r.refusedSets(ctx, observed, refusal, way)
	if err != nil {
		return nil, err
	}
	plan, err := r.without(observed, slices.Collect(maps.Keys(refused)))
	if err != nil {
		return nil, err
	}
	maps.Copy(plan.Problems, refused)
	return plan, nil
}

// refusedSets finds the sets that the API server refuses to have in the template, or to have out of it: it begins with the template as it is,
// and lets one set after the other have its way in a dry run.
func (r *deploymentReconciler) refusedSets(ctx context.Context, observed *workloadObservation, refusal error, way way) (map[string]injection.Problem, error) {
	trial := slices.Clone(observed.assigned)
	wilful := 0
	for i := range trial {
		if !trial[i].Held {
			wilful++
		}
		trial[i].Held, trial[i].standing = true, assigned
	}
	refused := map[string]injection.Problem{}
	for i, set := range observed.assigned {
		if set.Held {
			continue
		}
		trial[i].Held, trial[i].standing = false, set.standing
		err := refusal
		if wilful > 1 {
			if err = r.dryRun(ctx, observed, trial, way); err != nil && !isRefusal(err) {
				return nil, err
			}
		}
		if err != nil {
			trial[i].Held, trial[i].standing = true, assigned
			refused[set.Key] = problemOf(err)
		}
	}
	return refused, nil
}

func (r *deploymentReconciler) dryRun(ctx context.Context, observed *workloadObservation, trial []assignedSet, way way) error {
	tried := *observed
	tried.assigned = trial
	plan, err := r.renderer.Render(tried.workload, tried.sets())
	if err != nil || !plan.Changed {
		return err
	}
	_, err = r.judge(ctx, observed, plan, way)
	return err
}

func problemOf(refusal error) injection.Problem {
	reason := v1alpha1.ReasonPreflightFailed
	switch {
	case errors.As(refusal, new(podRefusal)):
		return injection.Problem{Reason: reason, Message: podRefusalWords(refusal)}
	case isFieldConflict(refusal):
		reason = v1alpha1.ReasonFieldConflict
	}
	return injection.Problem{Reason: reason, Message: fmt.Sprintf("the API server refuses it: %s", serverWords(refusal))}
}
