// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
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

// awaitsTurn is true of a set that may not go on with what its partition has come to let go, because it was not called to this workload yet.
func (r *deploymentReconciler) awaitsTurn(observed *workloadObservation, set *assignedSet) bool {
	if !set.judged || marksOf(observed.workload.Template)[set.Key] == set.Revision {
		return false
	}
	name, partition := client.ObjectKeyFromObject(observed.deployment), set.strategy.Partition.String()
	return set.summary.AwaitsTurn(r.summaries.get(name, set.Key), partition) &&
		!r.turns.has(types.NamespacedName{Namespace: name.Namespace, Name: set.Key}, name, turn{set.Revision, partition})
}

// templated is a set with the revision that the template has, or had before somebody took the set out of it. It is held as it is when that revision is
// gone.
func (o *workloadObservation) templated(set *assignedSet) injection.Set {
	result := set.Set
	if o.wasTakenOut(set) {
		result.Revision, result.Content = set.proven.Revision, set.proven.Content
		return result
	}
	if content := o.workload.Rendered[set.Key]; content != nil {
		result.Revision, result.Content = marksOf(o.workload.Template)[set.Key], content
	} else {
		result.Held = true
	}
	return result
}

// wasTakenOut is true of a set that the template had at another revision than its slip has, and has nothing of: somebody replaced the template as a whole.
// The newest ReplicaSet with something of the set tells. A workload that never had it, or had that revision, gets what its slip says.
func (o *workloadObservation) wasTakenOut(set *assignedSet) bool {
	if set.proven == nil {
		return false
	}
	for _, rs := range slices.Backward(o.replicaSets) {
		if revision := injection.Revisions(rs.Annotations[v1alpha1.RevisionsAnnotation])[set.Key]; revision != "" {
			return revision != set.Revision
		}
	}
	return false
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
// replaced. In a plan for running pods it keeps nothing, unless somebody has changed the template, which is put right there first: no promotion does
// so before the partition is 0.
func (r *deploymentReconciler) withhold(observed *workloadObservation, plan *injection.Plan) (rest *injection.Plan, withheld []string, err error) {
	withheld = append(observed.partitioned(plan), observed.colliding(plan)...)
	switch {
	case len(withheld) == 0:
		return plan, nil, nil
	case observed.goesInPlace(plan):
		rest, err = r.putRight(observed, plan)
		return rest, nil, err
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

// putRight is a plan with which the template has nothing but what it says that it has, or the given one if that is so.
func (r *deploymentReconciler) putRight(observed *workloadObservation, otherwise *injection.Plan) (*injection.Plan, error) {
	right := *observed
	right.assigned = slices.Clone(observed.assigned)
	for i := range right.assigned {
		right.assigned[i].kept = true
	}
	plan, err := r.renderer.Render(right.workload, right.sets())
	if err != nil || !plan.Changed {
		return otherwise, err
	}
	observed.assigned = right.assigned
	return plan, nil
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
