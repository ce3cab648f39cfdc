// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
)

// applyStructurally writes the template, which its Deployment then rolls out. When the API server refuses it, the sets that it refuses are
// held as they are, with its words as their problem, and the others are applied without them.
func (r *deploymentReconciler) applyStructurally(ctx context.Context, observed *workloadObservation, plan *injection.Plan) (*outcome, error) {
	err := r.writer.applyTemplate(ctx, observed.deployment, templateWrite{plan: plan})
	if isFieldConflict(err) {
		err = r.applyOverOwnPast(ctx, observed, plan, err)
	}
	if err == nil {
		log.FromContext(ctx).Info("Applied template", "revisions", plan.Revisions)
	}
	if !isRefusal(err) || len(observed.assigned) == 0 {
		return newOutcome(plan), err
	}
	accepted, err := r.narrow(ctx, observed, err)
	if err != nil {
		return newOutcome(plan), err
	}
	if accepted.Changed {
		err = r.writer.applyTemplate(ctx, observed.deployment, templateWrite{plan: accepted})
	}
	return newOutcome(accepted), err
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
	return r.writer.applyTemplate(ctx, observed.deployment, templateWrite{plan: plan, dryRun: true})
}

func problemOf(refusal error) injection.Problem {
	reason := v1alpha1.ReasonPreflightFailed
	if isFieldConflict(refusal) {
		reason = v1alpha1.ReasonFieldConflict
	}
	return injection.Problem{Reason: reason, Message: fmt.Sprintf("the API server refuses the template: %s", serverWords(refusal))}
}
