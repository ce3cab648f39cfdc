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

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// What the API server refuses to have in running pods is remembered, and the workload is looked at again: as long as it is remembered, it is left out of
// what is rendered, or goes by new pods.

// refusedInPods is what the API server refused to have in running pods a moment ago, as problems of sets.
type refusedInPods struct {
	// pods are those of a change that goes through the template instead, because of the quality of service class, say.
	pods map[string]injection.Problem
	// withheld are those of sets whose partition keeps some pods from that, and returns of sets whose pods can not go back to what a partition keeps.
	withheld, returns map[string]injection.Problem
	// retry is in how long it is tried again.
	retry time.Duration
}

// returnError is of a pod that was to go back to a revision of a set.
type returnError struct {
	error
	set, revision string
}

func (e returnError) Unwrap() error { return e.error }

// rememberRefused remembers a refusal of an update of pods, without which they have to be looked at again. What can go by new pods is tried so, unless
// partitions have pods keep what they have; the others go on without what those withhold.
func (r *deploymentReconciler) rememberRefused(observed *workloadObservation, update rollout.PodUpdate, plan *injection.Plan, refusal error) error {
	attempt, problems := podsAttempt(observed), map[string]injection.Problem{}
	withheld, returning := observed.refusedBeyondPartitions(plan, refusal), returnError{}
	switch {
	case errors.As(refusal, &returning):
		attempt = returnAttempt(observed)
		problems[returning.set] = injection.Problem{
			Reason: v1alpha1.ReasonPreflightFailed,
			Message: fmt.Sprintf("pods that failed can not go back to revision %s, which updateStrategy.partition keeps, because the API server refuses it; set partition to 0 to let them "+
				"have the new one: %s", returning.revision, serverWords(refusal)),
		}
	case len(withheld) > 0:
		attempt, problems = withheldAttempt(observed), withheld
	default:
		for i := range update.Sets {
			if set := &update.Sets[i]; set.IsBehind(update.Pods, update.Now) {
				problems[set.Key] = problemOf(refusal)
			}
		}
	}
	r.refusals.remember(client.ObjectKeyFromObject(observed.deployment), attempt, problems, r.now())
	return errLookAgain
}

// refusedBeyondPartitions are the problems of sets of which partitions keep pods at what they have, and which the other pods may not be brought. When it
// was resources that the API server refused, a set that changed none in that pod has none.
func (o *workloadObservation) refusedBeyondPartitions(plan *injection.Plan, refusal error) map[string]injection.Problem {
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

// recallRefused takes in what was refused a moment ago: sets are withheld, and pods stay as they are, as far as partitions still ask for it.
func (r *deploymentReconciler) recallRefused(observed *workloadObservation) {
	recall := func(attempt uint64, stands func(*assignedSet) bool) map[string]injection.Problem {
		problems, wait := r.refusals.recall(client.ObjectKeyFromObject(observed.deployment), attempt, r.now())
		still := map[string]injection.Problem{}
		observed.each(slices.Collect(maps.Keys(problems)), func(set *assignedSet) {
			if stands(set) {
				still[set.Key] = problems[set.Key]
				observed.refused.retry = soonest(observed.refused.retry, wait)
			}
		})
		return still
	}
	observed.refused.returns = recall(returnAttempt(observed), func(set *assignedSet) bool {
		kept := observed.whatIsKept(set)
		set.stays = kept != nil && rollout.KeepsPods(observed.partitionOf(set)) && kept.IsBehind(observed.pods, r.now())
		return set.stays
	})
	observed.refused.withheld = recall(withheldAttempt(observed), func(set *assignedSet) bool {
		set.kept = observed.keepsPods(set)
		set.withheld = set.kept
		return set.kept
	})
	observed.refused.pods = recall(podsAttempt(observed), func(*assignedSet) bool { return true })
}

// tellRefused tells what partitions withhold, and keep, because it was refused.
func (o *outcome) tellRefused(observed *workloadObservation) {
	refused := &observed.refused
	o.addProblems(refused.returns)
	o.addProblems(refused.withheld)
	o.tellWithheld(slices.Collect(maps.Keys(refused.withheld)))
	o.recheck = soonest(o.recheck, refused.retry)
}

// tellRefusedPods tells of pods that can not have what the template has already: they were born before, and only their owner can replace them. It returns
// false when there are none.
func (o *outcome) tellRefusedPods(observed *workloadObservation, update rollout.PodUpdate) (told bool) {
	for i := range update.Sets {
		set := &update.Sets[i]
		if problem, refused := observed.refused.pods[set.Key]; refused && set.IsBehind(update.Pods, update.Now) {
			o.addProblems(map[string]injection.Problem{set.Key: problem})
			o.phases[set.Key] = rollout.UpdatingPods
			o.keepsPulls, told = true, true
		}
	}
	return told
}

// announceRollout says that pods are replaced, against what their set asks for.
func (r *deploymentReconciler) announceRollout(ctx context.Context, observed *workloadObservation) {
	refused := observed.refused.pods
	reason := refused[slices.Min(slices.Collect(maps.Keys(refused)))].Message
	log.FromContext(ctx).Info("Updating by the Deployment's rolling update, since pods can not be updated in place", "reason", reason)
	r.recorder.Eventf(observed.deployment, nil, corev1.EventTypeWarning, v1alpha1.ReasonRollingWorkloads, "Reconcile",
		"Pods can not be updated in place, so the Deployment rolls out the change: %s", reason)
}

// podsAttempt identifies what pods are updated from and to, withheldAttempt the same for what partitions withhold, and returnAttempt what pods go back from
// and to.
func podsAttempt(observed *workloadObservation) uint64 {
	return hashOf("pods", observed.template, observed.slip)
}

func withheldAttempt(observed *workloadObservation) uint64 {
	return hashOf("withheld", observed.template, observed.slip)
}

func returnAttempt(observed *workloadObservation) uint64 {
	return hashOf("return", observed.template, observed.slip)
}
