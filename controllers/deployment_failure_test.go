// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// That a pod can not be started is told as long as somebody waits for it.
func TestAStallIsToldWhileItIsWaitedFor(t *testing.T) {
	now := time.Unix(10000, 0)
	there := rollout.Summary{Rendered: "agent-2", Target: "agent-2", Injected: 2, Updated: 2, Available: 1}
	for name, test := range map[string]struct {
		summary  rollout.Summary
		isJudged bool
		want     string
	}{
		"pods are being updated":             {rollout.Summary{Rendered: "agent-1", Target: "agent-2", Phase: rollout.UpdatingPods}, true, v1alpha1.ReasonWorkloadStuck},
		"it is at its partition":             {rollout.Summary{Rendered: "agent-1", Target: "agent-2", Phase: rollout.Partitioned}, true, ""},
		"others go on before it":             {rollout.Summary{Rendered: "agent-1", Target: "agent-2", Phase: rollout.AwaitingTurn}, true, ""},
		"a partition keeps all pods":         {rollout.Summary{Rendered: "agent-1", Target: "agent-2", Phase: rollout.Withheld}, true, ""},
		"others are to get what it has":      {there, true, v1alpha1.ReasonWorkloadStuck},
		"all workloads have what it has":     {there, false, ""},
		"all its sidecars are available":     {rollout.Summary{Rendered: "agent-2", Target: "agent-2", Injected: 2, Updated: 2, Available: 2}, true, ""},
		"it came to its end before":          {rollout.Summary{Rendered: "agent-2", Target: "agent-2", Injected: 2, Updated: 2, Available: 1, CameToEnd: true}, true, ""},
		"it goes back to what it had before": {rollout.Summary{Rendered: "agent-1", Target: "agent-2", Phase: rollout.UpdatingPods}, false, v1alpha1.ReasonWorkloadStuck},
	} {
		t.Run(name, func(t *testing.T) {
			observed := unseenWorkload(2, false)
			status := &observed.deployment.Status
			status.Replicas, status.UpdatedReplicas, status.Conditions = 2, 2, progressing("NewReplicaSetAvailable")
			observed.pods = []rollout.Pod{{Name: "web-1", Stalled: rollout.Stall{Message: "no node", Since: now.Add(-time.Hour)}}}
			set := &observed.assigned[0]
			set.judged = test.isJudged
			got := ""
			if problem := observed.problemOf(set, test.summary, newOutcome(nil), now); problem != nil {
				got = problem.Reason
			}
			if got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// What a set's status says of a revision holds it where it has not failed: when its failure can not be seen any more where it did, because that has gone
// back, or not yet, because the operator restarted.
func TestARevisionIsHeldByWhatIsKnownOfIt(t *testing.T) {
	now := time.Unix(10000, 0)
	for name, test := range map[string]struct {
		degraded     string
		judged, seen bool
		holds        bool
	}{
		"nothing is":                         {judged: true},
		"it is being taken back":             {judged: true, degraded: v1alpha1.ReasonRolledBack, seen: true, holds: true},
		"it is what is gone back to":         {degraded: v1alpha1.ReasonRolledBack, seen: true},
		"pods failed, and it restarted":      {judged: true, degraded: v1alpha1.ReasonPodsFailing, holds: true},
		"pods failed, and this was seen now": {judged: true, degraded: v1alpha1.ReasonPodsFailing, seen: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := &deploymentReconciler{summaries: newSummaries(func(string, []string) {}), sightings: newSightings(), unseen: newUnseen(), turns: newTurns(nil), now: func() time.Time { return now }}
			observed := unseenWorkload(2, false)
			if test.seen {
				r.summaries.put(types.NamespacedName{}, map[string]rollout.Summary{"agent": {}})
			}
			set := &observed.assigned[0]
			set.degraded, set.judged = test.degraded, test.judged
			if r.assess(observed); set.Held != test.holds || set.stopped != test.holds {
				t.Errorf("held: %t", set.Held)
			}
		})
	}
}

// A workload at rest goes back, or on, in the wave, also when something happens in it meanwhile: when the revision failed elsewhere, or the set was paused or has
// a new spec.
func TestAWorkloadAtRestStaysSoWhileItsSetIsHeld(t *testing.T) {
	for name, test := range map[string]struct {
		last  rollout.Summary
		held  bool
		phase rollout.Phase
	}{
		"at its partition":        {rollout.Summary{Phase: rollout.Partitioned, RestsAt: "50%"}, true, rollout.Partitioned},
		"all of it is withheld":   {rollout.Summary{Phase: rollout.Withheld}, true, rollout.Withheld},
		"before its turn":         {rollout.Summary{Phase: rollout.AwaitingTurn, RestsAt: "50%"}, true, rollout.AwaitingTurn},
		"in the middle of change": {rollout.Summary{Phase: rollout.UpdatingPods}, true, ""},
		"with another revision":   {rollout.Summary{Phase: rollout.Partitioned, Target: "agent-1"}, true, ""},
		"it is not":               {rollout.Summary{Phase: rollout.Partitioned}, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(10000, 0)
			r := &deploymentReconciler{summaries: newSummaries(func(string, []string) {}), now: func() time.Time { return now }}
			if test.last.Target == "" {
				test.last.Target = "agent-2"
			}
			r.summaries.put(types.NamespacedName{}, map[string]rollout.Summary{"agent": test.last})
			observed := unseenWorkload(2, false)
			observed.assigned[0].Held, observed.assigned[0].summary.Target = test.held, "agent-2"
			r.report(observed, newOutcome(nil))
			if got := r.summaries.get(types.NamespacedName{}, "agent"); got.Phase != test.phase || test.phase != "" && got.RestsAt != test.last.RestsAt {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestAFailureIsKnownAfterARestart(t *testing.T) {
	now := time.Unix(10000, 0)
	for degraded, fails := range map[string]bool{v1alpha1.ReasonPodsFailing: true, "": false} {
		r := &deploymentReconciler{summaries: newSummaries(func(string, []string) {}), sightings: newSightings(), unseen: newUnseen(), turns: newTurns(nil), now: func() time.Time { return now }}
		observed := unseenWorkload(2, false)
		set := &observed.assigned[0]
		set.degraded, set.Content = degraded, &injection.Content{Containers: []v1alpha1.SidecarContainer{{Container: corev1.Container{Name: "agent", Image: "agent:2"}}}}
		observed.pods = []rollout.Pod{{
			Name: "web-1", Observed: true, Revisions: map[string]string{"agent": "agent-2"},
			Containers: map[string]rollout.Container{"agent": {Image: "agent:2", Failing: &rollout.Waiting{Reason: "ErrImagePull"}}},
		}}
		if r.assess(observed); (set.failure != nil) != fails {
			t.Errorf("the set is degraded for %q, and this pod: %+v", degraded, set.failure)
		}
	}
}

// Between the two patches of an update, the cache may show that a pod was resized. It is counted to what it is marked with until that update is known to
// have come to nothing.
func TestAnUpdateUnderWayIsNotTakenForOneThatCameToNothing(t *testing.T) {
	now := time.Unix(10000, 0)
	for seconds, want := range map[time.Duration]int32{seenWithin - time.Second: 1, seenWithin: 0} {
		r := &deploymentReconciler{
			summaries: newSummaries(func(string, []string) {}), sightings: newSightings(), unseen: newUnseen(), turns: newTurns(nil),
			now: func() time.Time { return now.Add(seconds) },
		}
		r.unseen.remember(types.NamespacedName{}, "1", rollout.InPlaceUpdate{}, now)
		observed := unseenWorkload(2, false)
		set := &observed.assigned[0]
		set.Content = &injection.Content{Containers: []v1alpha1.SidecarContainer{{Container: corev1.Container{Name: "agent", Image: "agent:2", Resources: cpu("10m")}}}}
		observed.pods = []rollout.Pod{{
			UID: "1", Revisions: map[string]string{"agent": "agent-2"}, Resized: []string{"agent"},
			Containers: map[string]rollout.Container{"agent": {Image: "agent:2", Resources: cpu("20m")}},
		}}
		if r.assess(observed); set.summary.Updated != want {
			t.Errorf("after %v, %d pods are updated, want %d", seconds, set.summary.Updated, want)
		}
	}
}

// A pod that comes to nothing may be what has used up a PodDisruptionBudget.
func TestAStallIsToldBeforeTheBudgetThatItUsesUp(t *testing.T) {
	now := time.Unix(10000, 0)
	stalled := []rollout.Pod{{Name: "web-1", Stalled: rollout.Stall{Message: "no node", Since: now.Add(-time.Hour)}}}
	for name, test := range map[string]struct {
		pods        []rollout.Pod
		updatesPods bool
		want        string
	}{
		"a pod has no node":      {stalled, false, v1alpha1.ReasonWorkloadStuck},
		"another one is updated": {stalled, true, v1alpha1.ReasonDisruptionBudget},
		"all pods are well":      {nil, false, v1alpha1.ReasonDisruptionBudget},
	} {
		t.Run(name, func(t *testing.T) {
			observed := unseenWorkload(2, false)
			observed.deployment.Status.Replicas, observed.deployment.Status.UpdatedReplicas = 1, 1
			observed.deployment.Status.Conditions, observed.pods = progressing("NewReplicaSetAvailable"), test.pods
			outcome := newOutcome(nil)
			outcome.problems["agent"], outcome.updatesPods = rollout.Problem{Reason: v1alpha1.ReasonDisruptionBudget}, test.updatesPods
			summary := rollout.Summary{Rendered: "agent-1", Target: "agent-2", Injected: 1, Phase: rollout.UpdatingPods}
			if problem := observed.problemOf(&observed.assigned[0], summary, outcome, now); problem == nil || problem.Reason != test.want {
				t.Errorf("%+v, want %s", problem, test.want)
			}
		})
	}
}

// A workload without pods has its revision in all of them, and is not there.
func TestAWorkloadWithoutPodsIsStuck(t *testing.T) {
	now := time.Unix(10000, 0)
	observed := unseenWorkload(2, false)
	unavailable := appsv1.DeploymentCondition{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionFalse, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}
	observed.deployment.Status.Conditions = append(progressing("NewReplicaSetAvailable"), unavailable)
	summary := rollout.Summary{Rendered: "agent-2", Target: "agent-2"}
	if problem := observed.problemOf(&observed.assigned[0], summary, newOutcome(nil), now); problem == nil || problem.Reason != v1alpha1.ReasonWorkloadStuck {
		t.Errorf("%+v", problem)
	}
}

// What a set has brought everywhere is not stuck when another set's rollout of the same pods is.
func TestASetThatCameToItsEndIsNotStuckWithOthers(t *testing.T) {
	now := time.Unix(10000, 0)
	observed := unseenWorkload(2, false)
	observed.deployment.Status.Replicas, observed.deployment.Status.UpdatedReplicas = 2, 1
	observed.deployment.Status.Conditions = progressing("ReplicaSetUpdated")
	observed.pods = []rollout.Pod{{Name: "web-1", Containers: map[string]rollout.Container{"other": {Failing: &rollout.Waiting{Reason: "ErrImagePull"}}}}}
	for came, want := range map[bool]bool{true: false, false: true} {
		summary := rollout.Summary{Rendered: "agent-2", Target: "agent-2", Injected: 2, Updated: 2, Available: 1, CameToEnd: came}
		if problem := observed.problemOf(&observed.assigned[0], summary, newOutcome(nil), now); (problem != nil) != want {
			t.Errorf("it came to its end: %t, and has problem %+v", came, problem)
		}
	}
}
