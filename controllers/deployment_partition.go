// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// partitionOf is the partition that a set has in a workload. It is nil of what is to come to all pods: they are born with what the template has, and what
// has proven itself is what a failed revision is taken back to.
func (o *workloadObservation) partitionOf(set *assignedSet) *intstr.IntOrString {
	if !set.judged || marksOf(o.workload.Template)[set.Key] == set.Revision {
		return nil
	}
	return set.strategy.Partition
}

// templated is a set with the revision that the template has, or had before somebody took the set out of it. It is held as it is when that revision is
// gone.
func (o *workloadObservation) templated(set *assignedSet) injection.Set {
	if o.wasTakenOut(set) {
		return *set.proven
	}
	result := set.Set
	if content := o.workload.Rendered[set.Key]; content != nil {
		result.Revision, result.Content = marksOf(o.workload.Template)[set.Key], content
	} else {
		result.Held = true
	}
	return result
}

// wasTakenOut is true of a set that the template had, and has nothing of: somebody replaced the template as a whole. A workload that never had it gets
// what its slip says.
func (o *workloadObservation) wasTakenOut(set *assignedSet) bool {
	return set.proven != nil && slices.ContainsFunc(o.replicaSets, func(rs appsv1.ReplicaSet) bool {
		return injection.Revisions(rs.Annotations[v1alpha1.RevisionsAnnotation])[set.Key] != ""
	})
}

// partitioned are the sets whose partition keeps pods at the revision that the template has, and of which a plan would leave none there.
func (o *workloadObservation) partitioned(plan *injection.Plan) (keys []string) {
	for i := range o.assigned {
		set := &o.assigned[i]
		if revision, rendered := plan.Revisions[set.Key]; rendered && revision == set.Revision && o.keepsPods(set) {
			keys = append(keys, set.Key)
		}
	}
	return keys
}

// colliding are such sets of which a plan would leave nothing at all, because what they bring is in the way of something.
func (o *workloadObservation) colliding(plan *injection.Plan) (keys []string) {
	for i := range o.assigned {
		set := &o.assigned[i]
		if _, rendered := plan.Revisions[set.Key]; !rendered && set.standing == assigned && o.keepsPods(set) {
			keys = append(keys, set.Key)
		}
	}
	return keys
}

// keepsPods is true of a set whose partition keeps pods at the revision that the template has, or had.
func (o *workloadObservation) keepsPods(set *assignedSet) bool {
	return (marksOf(o.workload.Template)[set.Key] != "" || o.wasTakenOut(set)) && rollout.KeepsPods(o.partitionOf(set))
}

// withhold keeps such sets as they are in a plan that replaces pods, and renders the others. When no plan is left that does, those go on that need none
// replaced.
func (r *deploymentReconciler) withhold(observed *workloadObservation, plan *injection.Plan) (rest *injection.Plan, withheld []string, err error) {
	if withheld = append(observed.partitioned(plan), observed.colliding(plan)...); len(withheld) == 0 || observed.goesInPlace(plan) {
		return plan, nil, nil
	}
	var alone []string // those that replace pods by themselves
	for _, key := range withheld {
		inPlace, err := r.goesInPlaceAlone(observed, key)
		if err != nil {
			return nil, nil, err
		}
		if !inPlace {
			alone = append(alone, key)
		}
	}
	observed.each(alone, func(set *assignedSet) { set.withheld = true })
	if rest, err = r.keep(observed, alone); err != nil || observed.goesInPlace(rest) {
		return rest, alone, err
	}
	rest, err = r.keep(observed, withheld)
	return rest, alone, err
}

// keep renders these sets with the revision that the template has, which puts right there what somebody changed, and the others.
func (r *deploymentReconciler) keep(observed *workloadObservation, keys []string) (*injection.Plan, error) {
	observed.each(keys, func(set *assignedSet) { set.kept = true })
	return r.renderer.Render(observed.workload, observed.sets())
}

// withholdAll keeps all sets whose partition keeps pods at what the template has, of a plan that is about to go through the template.
func (r *deploymentReconciler) withholdAll(observed *workloadObservation, plan *injection.Plan) (rest *injection.Plan, withheld []string, err error) {
	if withheld = observed.partitioned(plan); len(withheld) == 0 {
		return plan, nil, nil
	}
	rest, err = r.keep(observed, withheld)
	return rest, withheld, err
}

// goesInPlaceAlone is true of a set whose revision running pods can take, when the other sets stay as they are.
func (r *deploymentReconciler) goesInPlaceAlone(observed *workloadObservation, key string) (bool, error) {
	trial := *observed
	trial.assigned = slices.Clone(observed.assigned)
	for i := range trial.assigned {
		if set := &trial.assigned[i]; set.Key != key {
			set.Held, set.standing = true, assigned
		}
	}
	plan, err := r.renderer.Render(trial.workload, trial.sets())
	return err == nil && trial.goesInPlace(plan), err
}

// tellWithheld says of sets that a partition withholds them.
func (o *outcome) tellWithheld(keys []string) {
	for _, key := range keys {
		o.phases[key] = rollout.Withheld
	}
}

// refusedInPods are the problems of sets of which partitions keep pods at what they have, and which the other pods may not be brought. When it was
// resources that the API server refused, a set that changed none in that pod has none.
func (o *workloadObservation) refusedInPods(plan *injection.Plan, refusal error) map[string]injection.Problem {
	problems := map[string]injection.Problem{}
	o.each(o.partitioned(plan), func(set *assignedSet) {
		if resize := (resizeError{}); errors.As(refusal, &resize) && !resize.patch.Resizes(set.Key) {
			return
		}
		problems[set.Key] = injection.Problem{
			Reason: v1alpha1.ReasonPreflightFailed,
			Message: "it can not be brought to some pods alone, as updateStrategy.partition asks for, because the API server refuses it in running pods; set partition to 0 to " +
				"let the Deployment replace its pods: " + serverWords(refusal),
		}
	})
	return problems
}

// addWithheld adds problems of sets that a partition withholds.
func (o *outcome) addWithheld(problems map[string]injection.Problem) {
	o.addProblems(problems)
	o.tellWithheld(slices.Collect(maps.Keys(problems)))
}

// goOnWithout goes on in running pods without sets that a partition withholds because of these problems, if what is left goes there.
func (r *deploymentReconciler) goOnWithout(
	ctx context.Context, observed *workloadObservation, problems map[string]injection.Problem, result *outcome,
) (_ *outcome, goesOn bool, err error) {
	keys := slices.Collect(maps.Keys(problems))
	observed.each(keys, func(set *assignedSet) { set.withheld = true })
	rest, err := r.keep(observed, keys)
	if err != nil {
		return result, false, err
	}
	if goesOn = !rest.Changed || observed.goesInPlace(rest); goesOn {
		result, err = r.updatePods(ctx, observed, rest, result)
	}
	result.addWithheld(problems)
	return result, goesOn, err
}

// whatIsKept is the part that a set which a partition keeps has in an update of pods: the revision that the template has, for pods that fail with
// another one. They were updated in place to what has been corrected, and may not have the correction. It is nil when the revision is gone, or is
// refused there.
func (o *workloadObservation) whatIsKept(set *assignedSet) *rollout.SetUpdate {
	kept := *set
	if kept.Set = o.templated(set); kept.Held || set.stays {
		return nil
	}
	update := o.updateOf(&kept)
	update.OfFailed = true
	return &update
}

// returnError is of a pod that was to go back to a revision of a set.
type returnError struct {
	error
	set, revision string
}

func (e returnError) Unwrap() error { return e.error }

// isRefusedReturn is true of a refusal to let a pod go back to what is kept. The other pods go on without that.
func (r *deploymentReconciler) isRefusedReturn(observed *workloadObservation, result *outcome, refusal error) bool {
	var returning returnError
	if !errors.As(refusal, &returning) {
		return false
	}
	problems := map[string]injection.Problem{returning.set: {
		Reason: v1alpha1.ReasonPreflightFailed,
		Message: fmt.Sprintf("pods that failed can not go back to revision %s, which updateStrategy.partition keeps, because the API server refuses it; set partition to 0 to let them "+
			"have the new one: %s", returning.revision, serverWords(refusal)),
	}}
	r.refusals.remember(client.ObjectKeyFromObject(observed.deployment), returnAttempt(observed), problems, r.now())
	result.addProblems(problems)
	result.keepsPulls, result.recheck = true, soonest(result.recheck, lookAgain)
	return true
}

// recallRefusedReturns lets the pods of sets be as they are that were refused to go back a moment ago, and are to go back still.
func (r *deploymentReconciler) recallRefusedReturns(observed *workloadObservation, result *outcome) {
	problems, wait := r.refusals.recall(client.ObjectKeyFromObject(observed.deployment), returnAttempt(observed), r.now())
	observed.each(slices.Collect(maps.Keys(problems)), func(set *assignedSet) {
		kept := observed.whatIsKept(set)
		if kept == nil || !rollout.KeepsPods(observed.partitionOf(set)) || !kept.IsBehind(observed.pods, r.now()) {
			return
		}
		set.stays = true
		result.addProblems(map[string]injection.Problem{set.Key: problems[set.Key]})
		result.recheck = soonest(result.recheck, wait)
	})
}

// returnAttempt identifies what pods go back from and to.
func returnAttempt(observed *workloadObservation) uint64 {
	return hashOf("return", observed.template, observed.slip)
}

// failureAsKept is the problem of a set whose pods fail with the revision that its partition keeps them at; nil when they do not.
func (o *workloadObservation) failureAsKept(set *assignedSet, now time.Time) *rollout.Problem {
	update := o.whatIsKept(set)
	if update == nil {
		return nil
	}
	failure, recheck := update.Failure(o.pods, rolloutOf(o.deployment), now)
	set.recheck = soonest(set.recheck, recheck)
	if failure == nil {
		return nil
	}
	return &rollout.Problem{
		Reason:  v1alpha1.ReasonWorkloadStuck,
		Message: fmt.Sprintf("updateStrategy.partition keeps its pods at revision %s, which fails: set it to 0 to let them have the new one. What fails: %s", update.Revision, failure.Message),
	}
}
