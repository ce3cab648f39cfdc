// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// goesInPlace is true of a plan that running pods can take, when it brings new revisions of the same sets and none of those wants a rolling
// update, nor did the API server refuse it there a moment ago. Without a new revision, somebody has changed the template, which is put right there.
func (o *workloadObservation) goesInPlace(plan *injection.Plan) bool {
	marks := marksOf(o.workload.Template)
	sameSets := maps.EqualFunc(marks, plan.Revisions, func(string, string) bool { return true })
	if !plan.InPlace || !sameSets || maps.Equal(marks, plan.Revisions) || len(o.refused.pods) > 0 {
		return false
	}
	return !slices.ContainsFunc(o.assigned, func(set assignedSet) bool {
		return plan.Revisions[set.Key] != marks[set.Key] && set.strategy.Type == v1alpha1.RollingUpdateUpdateStrategyType
	})
}

// isRollingOut is true while the Deployment replaces its pods, or may be about to: they are not worth an update.
func (o *workloadObservation) isRollingOut() bool {
	return !rolloutOf(o.deployment).Observed || o.hasPodsOfOtherTemplates()
}

// isUnseen is true when all that keeps the pods from an update is that the Deployment controller has not seen the Deployment as it is. With many
// workloads at a time, it falls behind.
func (o *workloadObservation) isUnseen() bool {
	return !rolloutOf(o.deployment).Observed && !o.hasPodsOfOtherTemplates()
}

// hasPodsOfOtherTemplates is true when there are pods, or are to be, of another template than today's.
func (o *workloadObservation) hasPodsOfOtherTemplates() bool {
	return slices.ContainsFunc(o.replicaSets, func(rs appsv1.ReplicaSet) bool {
		return (*rs.Spec.Replicas > 0 || rs.Status.Replicas > 0) && rs.Annotations[templateIdentity] != o.template
	})
}

// untilHopeless tells whether a rollout does not end by itself, because a sidecar that it brings can not be started or does not become ready, or
// because it exceeded its deadline. What a plan brings may be the correction: it goes through the template, whose pods are being replaced
// anyway. Otherwise it returns after how long that may be so.
func (o *workloadObservation) untilHopeless(plan *injection.Plan, now time.Time) (wait time.Duration, hopeless bool) {
	if !o.hasPodsOfOtherTemplates() {
		return 0, false
	}
	update := o.podUpdate(plan)
	update.Now = now
	update.Pods = slices.DeleteFunc(slices.Clone(update.Pods), func(pod rollout.Pod) bool { return pod.Replaced })
	wait, hopeless = update.UntilHopeless()
	return wait, hopeless || rolloutOf(o.deployment).Stuck
}

// eachNew visits the sets to which a plan brings a revision that the template does not have.
func (o *workloadObservation) eachNew(plan *injection.Plan, visit func(key string)) {
	marks := marksOf(o.workload.Template)
	for key, revision := range plan.Revisions {
		if revision != marks[key] {
			visit(key)
		}
	}
}

// waitForRollout lets the Deployment's own rollout come to its end, unless there is none in sight. It says of the sets that have something to
// update why they wait. What the rollout brings already goes to pods as well that it keeps and that have something else: an older ReplicaSet
// that it goes back to may have such pods.
func (r *deploymentReconciler) waitForRollout(ctx context.Context, observed *workloadObservation, plan *injection.Plan, result *outcome) (*outcome, error) {
	if !plan.Changed {
		return r.updatePods(ctx, observed, plan, result)
	}
	wait, hopeless := observed.untilHopeless(plan, r.now())
	if hopeless {
		return r.correct(ctx, observed, plan, result)
	}
	result.recheck = soonest(result.recheck, wait)
	waits := observed.waitsForRollout()
	observed.eachNew(plan, func(key string) {
		result.phases[key] = rollout.UpdatingPods
		if !observed.isUnseen() { // else nothing rolls out, and nobody but the Deployment controller is waited for
			result.problems[key] = waits
		}
	})
	return result, nil
}

// waitsForRollout is why a set waits while the Deployment replaces its pods.
func (o *workloadObservation) waitsForRollout() rollout.Problem {
	if o.deployment.Spec.Paused {
		return rollout.Problem{
			Reason:  v1alpha1.ReasonWorkloadPaused,
			Message: "its owner paused the Deployment in the middle of a change: its pods are updated when it is resumed and that is done",
		}
	}
	return rollout.Problem{
		Reason:  v1alpha1.ReasonWorkloadRollingOut,
		Message: "the Deployment is rolling out a change of its own: its pods are updated when that is done",
	}
}

// correct lets what may end a hopeless rollout go through the template, as far as no partition withholds it.
func (r *deploymentReconciler) correct(ctx context.Context, observed *workloadObservation, plan *injection.Plan, result *outcome) (*outcome, error) {
	plan, withheld, err := r.withholdAll(observed, plan)
	if err == nil && plan.Changed {
		result, err = r.applyStructurally(ctx, observed, plan)
	}
	observed.each(withheld, func(set *assignedSet) {
		result.phases[set.Key] = rollout.UpdatingPods
		if failure := observed.failureAsKept(set, r.now()); failure != nil {
			result.problems[set.Key] = *failure
		} else if !rolloutOf(observed.deployment).Stuck { // which is told as it is
			result.problems[set.Key] = observed.waitsForRollout()
		}
	})
	return result, err
}

// update is the set's part of an update of all pods.
func (s *assignedSet) update() rollout.SetUpdate {
	update := rollout.SetUpdate{
		Key: s.Key, Revision: s.Revision, Sidecars: s.Content.Sidecars(), Inits: s.Content.Inits(),
		MaxUnavailable: s.strategy.MaxUnavailable, MinReadySeconds: s.strategy.MinReadySeconds,
		PrePull: s.strategy.PrePull == v1alpha1.BeforeUpdatePrePullPolicy, Unproven: s.judged,
	}
	if seconds := s.strategy.ProgressDeadlineSeconds; seconds != nil {
		update.ProgressDeadline = time.Duration(*seconds) * time.Second
	}
	return update
}

// updateOf is a set's part of an update of this workload's pods.
func (o *workloadObservation) updateOf(set *assignedSet) rollout.SetUpdate {
	update := set.update()
	if content := o.workload.Rendered[set.Key]; content != nil {
		update.Declared = resourcesOf(content)
	}
	return update
}

// podUpdate is what is decided from for the pods: the sets that are rendered as assigned, and may be updated in place. What the template has
// already may be, whatever the strategy: no rollout brings it any more to pods that lack it.
func (o *workloadObservation) podUpdate(plan *injection.Plan) rollout.PodUpdate {
	update := rollout.PodUpdate{
		Desired:           *o.deployment.Spec.Replicas,
		MinReadySeconds:   o.deployment.Spec.MinReadySeconds,
		GracePeriod:       gracePeriodOf(o.deployment),
		Pods:              o.pods,
		DisruptionBudgets: o.disruptionBudgets,
		Pulls:             o.pulls,
		RollingOut:        o.isRollingOut(),
	}
	marks := marksOf(o.workload.Template)
	for i := range o.assigned {
		set := &o.assigned[i]
		inPlace := set.strategy.Type != v1alpha1.RollingUpdateUpdateStrategyType || marks[set.Key] == set.Revision
		switch {
		case set.withheld:
			if added := o.whatIsKept(set); added != nil {
				update.Sets = append(update.Sets, *added)
			}
		case plan.Revisions[set.Key] == set.Revision && !set.Held && inPlace:
			added := o.updateOf(set)
			if added.Partition = o.partitionOf(set); added.Partition != nil {
				added.Kept = o.whatIsKept(set)
			}
			added.AwaitsTurn = set.awaitsTurn
			update.Sets = append(update.Sets, added)
		}
	}
	return update
}

// updatePods updates the pods that may be updated now, and when all are, lets the template follow.
func (r *deploymentReconciler) updatePods(ctx context.Context, observed *workloadObservation, plan *injection.Plan, result *outcome) (*outcome, error) {
	update := observed.podUpdate(plan)
	update.Now = r.now()
	if result.tellRefusedPods(observed, update) {
		return result, nil
	}
	if wait := r.unseen.wait(client.ObjectKeyFromObject(observed.deployment), observed.pods, update.Now); wait > 0 {
		for i := range update.Sets {
			result.phases[update.Sets[i].Key] = rollout.UpdatingPods
		}
		result.recheck, result.keepsPulls, result.updatesPods = soonest(result.recheck, wait), true, true // what other pods wait for is not over
		return result, nil
	}
	step := r.disruptions.next(client.ObjectKeyFromObject(observed.deployment), update, observed.sharers)
	if update.RollingOut {
		result.recheck = soonest(result.recheck, step.Recheck)
	} else {
		result.tell(update, step, plan)
	}
	result.updatesPods = len(step.Updates) > 0 || step.PrePull.IsUnderWay()
	if err := r.updateEach(ctx, observed, step.Updates, update.Now); isRefusal(err) {
		r.seeDisruptions(observed) // nothing was taken
		return result, r.rememberRefused(observed, update, plan, err)
	} else if err != nil {
		return result, err
	}
	if err := r.prePull(ctx, observed, update, step.PrePull, result); err != nil {
		return result, err
	}
	if plan.Changed && len(step.Updates) == 0 && (step.Done || step.Vacant) {
		return r.beginPromotion(ctx, observed, plan, result)
	}
	return result, nil
}

// fewPods is up to how many pods are updated one by one.
const fewPods = 5

// updateEach updates pods: a few one by one, until one is refused, and many together. It returns a refusal rather than another error.
func (r *deploymentReconciler) updateEach(ctx context.Context, observed *workloadObservation, patches []rollout.PodPatch, now time.Time) error {
	update := func(i int) error { return r.updatePod(ctx, observed, &patches[i], now) }
	if len(patches) <= fewPods {
		for i := range patches {
			if err := r.podSlots.one(ctx, func() error { return update(i) }); err != nil {
				return err
			}
		}
		return nil
	}
	errs := r.podSlots.each(ctx, len(patches), update)
	if refused := slices.IndexFunc(errs, isRefusal); refused >= 0 {
		return errs[refused]
	}
	return errors.Join(errs...)
}

// updatePod updates a pod, and remembers it until the cache shows it, unless it was refused.
func (r *deploymentReconciler) updatePod(ctx context.Context, observed *workloadObservation, patch *rollout.PodPatch, now time.Time) error {
	name := client.ObjectKeyFromObject(observed.deployment)
	r.unseen.remember(name, patch.Pod.UID, patch.Record(now), now)
	err := client.IgnoreNotFound(r.writer.updatePod(ctx, name.Namespace, patch, now))
	if isStale(err) || isRefusal(err) {
		r.unseen.forget(name, patch.Pod.UID)
	}
	if returning := slices.IndexFunc(patch.Sets, func(set rollout.SetUpdate) bool { return set.OfFailed }); returning >= 0 && isRefusal(err) {
		return returnError{err, patch.Sets[returning].Key, patch.Sets[returning].Revision}
	}
	if err == nil {
		log.FromContext(ctx).Info("Updated pod", "Pod", klog.KRef(name.Namespace, patch.Pod.Name), "revisions", patch.Revisions())
	}
	return err
}

// tell says of the sets in an update how far they are, and why they wait.
func (o *outcome) tell(update rollout.PodUpdate, step rollout.PodStep, plan *injection.Plan) {
	o.recheck = soonest(o.recheck, step.Recheck)
	for i := range update.Sets {
		key := update.Sets[i].Key
		phase, rests := step.Resting[key]
		switch {
		case rests:
			o.phases[key] = phase
		case step.Done && plan.Changed:
			o.phases[key] = rollout.Promoting
		case !step.Done && !step.Vacant:
			o.phases[key] = rollout.UpdatingPods
		}
		if step.BlockedByDisruptionBudget && !rests && update.Sets[i].IsBehind(update.Pods, update.Now) {
			o.problems[key] = rollout.Problem{
				Reason:  v1alpha1.ReasonDisruptionBudget,
				Message: "a PodDisruptionBudget allows no disruption of its pods now: they are updated when it does",
			}
		}
	}
}
