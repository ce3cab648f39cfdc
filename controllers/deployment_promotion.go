// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/promotion"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// snapshot is what a promotion is decided from.
func (o *workloadObservation) snapshot() promotion.Snapshot {
	snapshot := promotion.Snapshot{
		Deployment: promotion.Deployment{
			Observed:        o.deployment.Status.ObservedGeneration >= o.deployment.Generation,
			Paused:          o.deployment.Spec.Paused,
			PauseIsOurs:     o.workload.Owned.Has(pauseField),
			PauseDeclared:   o.deployment.Annotations[declaresPause] != "",
			SpecReplicas:    *o.deployment.Spec.Replicas,
			UpdatedReplicas: o.deployment.Status.UpdatedReplicas,
			ReadyReplicas:   o.deployment.Status.ReadyReplicas,
			Template:        o.template,
			Application:     injection.ApplicationIdentity(&o.deployment.Spec.Template),
		},
		Intent: o.intent,
	}
	for i := range o.pods {
		if !o.pods[i].ReadySince.IsZero() {
			snapshot.ReadyPods++
		}
	}
	for i := range o.replicaSets {
		rs := &o.replicaSets[i]
		snapshot.ReplicaSets = append(snapshot.ReplicaSets, promotion.ReplicaSet{
			UID: rs.UID, Template: rs.Annotations[templateIdentity], SpecReplicas: *rs.Spec.Replicas, Replicas: rs.Status.Replicas,
			HasIntent: rs.Annotations[v1alpha1.PromotionAnnotation] == o.deployment.Annotations[v1alpha1.PromotionAnnotation],
		})
	}
	return snapshot
}

func (o *workloadObservation) replicaSet(uid types.UID) *appsv1.ReplicaSet {
	index := slices.IndexFunc(o.replicaSets, func(rs appsv1.ReplicaSet) bool { return rs.UID == uid })
	if index < 0 {
		return nil
	}
	return &o.replicaSets[index]
}

// beginPromotion lets the template follow its pods.
func (r *deploymentReconciler) beginPromotion(ctx context.Context, observed *workloadObservation, plan *injection.Plan, result *outcome) (*outcome, error) {
	snapshot := observed.snapshot()
	snapshot.Now = r.now()
	step := promotion.Next(snapshot)
	log.FromContext(ctx).V(1).Info("Promoting", "action", step.Action, "reason", step.Reason)
	switch step.Action {
	case promotion.ApplyPlainly:
		return r.applyStructurally(ctx, observed, plan)
	case promotion.Begin:
		name := client.ObjectKeyFromObject(observed.deployment)
		if problems, wait := r.refusals.recall(name, promotionAttempt(plan), snapshot.Now); wait > 0 {
			result.addProblems(problems)
			result.recheck = soonest(result.recheck, wait)
			return result, nil
		}
		if !r.promotions.begin(name, snapshot.Now) {
			result.recheck = soonest(result.recheck, promotionTurn)
			return result, nil
		}
		intent := &promotion.Intent{
			ReplicaSet: step.ReplicaSet, Application: snapshot.Deployment.Application,
			From: marksOf(observed.workload.Template), StartedAt: snapshot.Now.UTC(), PauseDeclared: snapshot.Deployment.PauseDeclared,
		}
		begun, err := r.writeIntent(ctx, observed, plan, intent, result)
		if !begun && (err == nil || isRefusal(err)) { // else it may have been, now or before, and is tried again if not.
			r.promotions.end(name, snapshot.Now)
		}
		return result, err
	default:
	}
	return result, nil
}

// writeIntent is step 1 of a promotion. Sets that the API server refuses to have in the template are held there, with its words as their
// problem; their pods have the new revision all the same. When it is the pause that it refuses, because somebody owns that field, no template
// can follow. begun is true when it was written.
func (r *deploymentReconciler) writeIntent(ctx context.Context, observed *workloadObservation, plan *injection.Plan, intent *promotion.Intent, result *outcome) (begun bool, err error) {
	_, err = r.writer.applyTemplate(ctx, observed.deployment, templateWrite{plan: plan, intent: intent})
	if isFieldConflict(err) {
		err = r.takeBackPast(ctx, observed, err)
	}
	if !isRefusal(err) {
		return err == nil, err
	}
	accepted, narrowErr := r.narrow(ctx, observed, err, inRunningPods)
	if narrowErr != nil {
		return false, narrowErr
	}
	if maps.Equal(accepted.Problems, plan.Problems) {
		observed.eachNew(plan, func(key string) { result.addProblems(map[string]injection.Problem{key: problemOf(err)}) })
		return false, nil
	}
	result.addProblems(accepted.Problems)
	if !accepted.Changed {
		return false, nil
	}
	_, err = r.writer.applyTemplate(ctx, observed.deployment, templateWrite{plan: accepted, intent: intent})
	return err == nil, err
}

// promote takes a promotion that is under way one step further.
func (r *deploymentReconciler) promote(ctx context.Context, observed *workloadObservation) (*outcome, error) {
	plan, err := r.renderer.AsIs(observed.workload)
	if err != nil {
		return failed(observed, err), err
	}
	result := newOutcome(nil)
	for key, revision := range plan.Revisions {
		if revision != observed.intent.From[key] {
			result.phases[key] = rollout.Promoting
		}
	}
	if !observed.workload.Owned.Has(intentField) && !observed.workload.Owned.Has(pauseField) {
		// "kubectl rollout undo" restores the annotations of a ReplicaSet, which has those of the Deployment from when it was promoted.
		log.FromContext(ctx).Info("Removing the intent of a promotion that is over", "intent", observed.deployment.Annotations[v1alpha1.PromotionAnnotation])
		return result, r.writer.removeIntent(ctx, observed.deployment)
	}
	snapshot := observed.snapshot()
	snapshot.Now = r.now()
	step := promotion.Next(snapshot)
	result.recheck = step.Recheck
	log.FromContext(ctx).V(1).Info("Promoting", "action", step.Action, "reason", step.Reason)
	switch step.Action {
	case promotion.DeleteTwin:
		err = r.writer.deleteReplicaSet(ctx, observed.replicaSet(step.ReplicaSet))
	case promotion.PatchReplicaSet:
		err = r.writer.patchReplicaSet(ctx, observed.replicaSet(step.ReplicaSet), &observed.deployment.Spec.Template)
		if isRefusal(err) {
			return r.giveUpPromotion(ctx, observed, plan, result, err)
		}
	case promotion.CedePause:
		err = r.cedePause(ctx, observed)
	case promotion.Finish:
		err = r.finishPromotion(ctx, observed, plan, step.Reason)
	case promotion.Undo:
		err = r.undoPromotion(ctx, observed, plan)
	default:
	}
	return result.tellRefusal(err)
}

// tellRefusal makes what the API server refuses a problem of the sets that a promotion is for, and returns any other error.
func (o *outcome) tellRefusal(err error) (*outcome, error) {
	if !isRefusal(err) || isFieldConflict(err) { // of a conflict with somebody who owns a field, the cache does not know yet.
		return o, err
	}
	for key := range o.phases {
		o.addProblems(map[string]injection.Problem{key: problemOf(err)})
	}
	o.recheck = soonest(o.recheck, tryAgain)
	return o, nil
}

// giveUpPromotion undoes a promotion whose ReplicaSet may not be changed, and lets some time pass before the next try: else the Deployment would
// be paused nearly all the time.
func (r *deploymentReconciler) giveUpPromotion(ctx context.Context, observed *workloadObservation, plan *injection.Plan, result *outcome, refused error) (*outcome, error) {
	problems := map[string]injection.Problem{}
	for key := range result.phases { // of the sets that the promotion is for
		problems[key] = problemOf(refused)
	}
	result.addProblems(problems)
	r.refusals.remember(client.ObjectKeyFromObject(observed.deployment), promotionAttempt(plan), problems, r.now())
	return result.tellRefusal(r.undoPromotion(ctx, observed, plan))
}

// promotionAttempt identifies the promotion of a template to the revisions of a plan.
func promotionAttempt(plan *injection.Plan) uint64 {
	return hashOf("promotion", plan.Revisions)
}

// cedePause leaves the pause to the Deployment's owner.
func (r *deploymentReconciler) cedePause(ctx context.Context, observed *workloadObservation) error {
	deployment, err := r.observer.withManagedFields(ctx, observed.deployment)
	if err != nil {
		return err
	}
	log.FromContext(ctx).Info("Left the pause to the owner, who declared one")
	return r.writer.cedePause(ctx, deployment)
}

// finishPromotion ends a promotion with the template as it is, and when the API server refuses that by now, with the one from before: a rollout
// is better than a pause without end.
func (r *deploymentReconciler) finishPromotion(ctx context.Context, observed *workloadObservation, asIs *injection.Plan, reason string) error {
	_, err := r.writer.applyTemplate(ctx, observed.deployment, templateWrite{plan: asIs})
	if err == nil {
		log.FromContext(ctx).Info("Ended promotion", "reason", reason, "revisions", asIs.Revisions)
	}
	if !isRefusal(err) || isFieldConflict(err) {
		return err
	}
	before, renderErr := r.planBefore(observed)
	if renderErr != nil {
		return renderErr
	}
	if before == nil {
		return err
	}
	log.FromContext(ctx).Info("Ending a promotion by a rollout to the template from before, since the new one is refused", "reason", serverWords(err))
	_, err = r.writer.applyTemplate(ctx, observed.deployment, templateWrite{plan: before})
	return err
}

// undoPromotion puts the template back that the ReplicaSet still has. Without the revisions that it was rendered from, and when the API server
// refuses it, it ends the promotion as it is, likewise.
func (r *deploymentReconciler) undoPromotion(ctx context.Context, observed *workloadObservation, asIs *injection.Plan) error {
	plan, err := r.planBefore(observed)
	if err != nil {
		return err
	}
	if plan != nil {
		if _, err = r.writer.applyTemplate(ctx, observed.deployment, templateWrite{plan: plan}); !isRefusal(err) {
			return err
		}
		log.FromContext(ctx).Info("Ending a promotion by a rollout, since the template from before is refused", "reason", serverWords(err))
	}
	_, err = r.writer.applyTemplate(ctx, observed.deployment, templateWrite{plan: asIs})
	return err
}

// planBefore is the template from before the promotion under way; nil when that is not known, since a revision is gone or the intent can not be
// read, and when the application has changed so that a set does not fit any more.
func (r *deploymentReconciler) planBefore(observed *workloadObservation) (*injection.Plan, error) {
	before := observed.setsBefore()
	if len(before) == 0 || len(before) != len(observed.intent.From) {
		return nil, nil
	}
	plan, err := r.renderer.Render(observed.workload, before)
	if err != nil {
		return nil, fmt.Errorf("rendering what was before a promotion: %w", err)
	}
	if len(plan.Problems) > 0 {
		return nil, nil
	}
	return plan, nil
}

// setsBefore are the sets as they were rendered before the promotion under way, without those whose revision is gone. Their age counts: it
// orders what they bring.
func (o *workloadObservation) setsBefore() []injection.Set {
	var before []injection.Set
	for key, content := range o.before {
		set := injection.Set{Key: key, Revision: o.intent.From[key], Content: content}
		for i := range o.assigned {
			if o.assigned[i].Key == key {
				set.CreatedAt = o.assigned[i].CreatedAt
			}
		}
		before = append(before, set)
	}
	return before
}
