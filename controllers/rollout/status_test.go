// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

const old, current = "set-1", "set-2"

// makeWorkload is a settled Deployment of three pods that no set selects.
func makeWorkload(name string) Workload {
	return Workload{Namespace: "shop", Name: name, Deployment: Deployment{Observed: true, Complete: true, Replicas: 3, ReadyReplicas: 3}}
}

func (w Workload) selected() Workload { w.Selected = true; return w }

func (w Workload) assigned(revision string) Workload { w.Slip = revision; return w }

// at has the revision in its template, and so many pods injected, updated, and available.
func (w Workload) at(revision string, injected, updated, available int32) Workload {
	w.Carried = true
	w.Summary = &Summary{Target: w.Slip, Rendered: revision, Injected: injected, Updated: updated, Available: available}
	return w
}

func (w Workload) rolling() Workload { w.Complete = false; return w }

func (w Workload) unseen() Workload { w.Observed = false; return w }

func (w Workload) with(problem *Problem) Workload { w.Summary.Problem = problem; return w }

func (w Workload) canary() Workload { w.Canary = true; return w }

func (w Workload) in(phase Phase) Workload { w.Summary.Phase = phase; return w }

func makeSet() Set { return Set{Name: "set", Generation: 7, UpdateRevision: current, Now: noon} }

// line shows a status as "kubectl get" does, and what the conditions say.
func line(status v1alpha1.SidecarSetStatus) string {
	text := fmt.Sprintf("workloads %d/%d pods %d injected %d updated %d available %d unavailable %d",
		status.UpdatedWorkloads, status.Workloads, status.Pods, status.InjectedPods, status.UpdatedPods, status.UpdatedReadyPods, status.UnavailablePods)
	for _, conditionType := range []string{"Ready", "Progressing", "Degraded"} {
		condition := meta.FindStatusCondition(status.Conditions, conditionType)
		text += fmt.Sprintf(" | %s=%s/%s: %s", conditionType, condition.Status, condition.Reason, condition.Message)
	}
	return text
}

func TestStatus(t *testing.T) {
	stuck := &Problem{v1alpha1.ReasonNameConflict, `container "web" is the application's own`}
	waiting := &Problem{v1alpha1.ReasonWorkloadPaused, "its owner paused it"}
	settled := makeWorkload("web").selected().assigned(current).at(current, 3, 3, 3)
	queued := makeWorkload("web").selected().assigned(old).at(old, 3, 3, 3)
	staged := makeWorkload("shop").selected().assigned(current).at(old, 3, 1, 1).in(Partitioned)
	staged.Summary.RestsAt = "50%"
	failed := makeWorkload("cart").selected().assigned(current).at(old, 3, 1, 0).with(&Problem{v1alpha1.ReasonCrashLoop, "it crashes"})
	afterFailure := func(set *Set) {
		set.Status.CurrentRevision = old
		set.Status.Conditions = []metav1.Condition{{
			Type: "Degraded", Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonRolledBack, Message: "what happened", ObservedGeneration: set.Generation,
		}}
	}
	for _, test := range []struct {
		name      string
		set       func(*Set)
		workloads []Workload
		want      string
	}{{
		name: "no workloads",
		want: "workloads 0/0 pods 0 injected 0 updated 0 available 0 unavailable 0 | Ready=True/NoWorkloads: No Deployment is selected. | Progressing=False/Complete: 0 of 0 workloads up to date. | Degraded=False/AsExpected: No workload has a problem.",
	}, {
		name:      "selected, not assigned",
		workloads: []Workload{makeWorkload("web").selected()},
		want:      "workloads 0/1 pods 3 injected 0 updated 0 available 0 unavailable 0 | Ready=False/Injecting: Injecting into 1 workload; 0 of 1 up to date. | Progressing=True/Injecting: Injecting into 1 workload; 0 of 1 up to date. | Degraded=False/AsExpected: No workload has a problem.",
	}, {
		name:      "template rendered, its controller has not seen it",
		set:       func(set *Set) { set.Status.CurrentRevision = old },
		workloads: []Workload{func() Workload { w := settled; w.Observed = false; return w }()},
		want:      "workloads 0/1 pods 3 injected 3 updated 3 available 3 unavailable 0 | Ready=False/RollingWorkloads: Rolling out in 1 workload; 0 of 1 up to date. | Progressing=True/RollingWorkloads: Rolling out in 1 workload; 0 of 1 up to date. | Degraded=False/AsExpected: No workload has a problem.",
	}, {
		name:      "first rollout",
		workloads: []Workload{makeWorkload("web").selected().assigned(current).at(current, 2, 2, 1).rolling()},
		want:      "workloads 0/1 pods 3 injected 2 updated 2 available 1 unavailable 0 | Ready=False/Injecting: Injecting into 1 workload; 0 of 1 up to date. | Progressing=True/Injecting: Injecting into 1 workload; 0 of 1 up to date. | Degraded=False/AsExpected: No workload has a problem.",
	}, {
		name:      "all updated",
		workloads: []Workload{settled},
		want:      "workloads 1/1 pods 3 injected 3 updated 3 available 3 unavailable 0 | Ready=True/AllPodsUpdated: 1 workload up to date. | Progressing=False/Complete: 1 of 1 workload up to date. | Degraded=False/AsExpected: No workload has a problem.",
	}, {
		name:      "all updated, a pod restarts",
		set:       func(set *Set) { set.Status.CurrentRevision = current },
		workloads: []Workload{func() Workload { w := settled.at(current, 3, 3, 2); w.ReadyReplicas = 2; return w }()},
		want:      "workloads 1/1 pods 3 injected 3 updated 3 available 2 unavailable 1 | Ready=True/AllPodsUpdated: 1 workload up to date. | Progressing=False/Complete: 1 of 1 workload up to date. | Degraded=False/AsExpected: No workload has a problem.",
	}, {
		name:      "a new revision, not assigned yet",
		workloads: []Workload{makeWorkload("web").selected().assigned(old).at(old, 3, 3, 3)},
		want:      "workloads 0/1 pods 3 injected 3 updated 0 available 0 unavailable 0 | Ready=False/RollingWorkloads: Rolling out in 0 workloads, 1 waiting for their turn; 0 of 1 up to date. | Progressing=True/RollingWorkloads: Rolling out in 0 workloads, 1 waiting for their turn; 0 of 1 up to date. | Degraded=False/AsExpected: No workload has a problem.",
	}, {
		name:      "a new revision rolls out, a pod more than the cache has",
		set:       func(set *Set) { set.Status.CurrentRevision = old },
		workloads: []Workload{makeWorkload("web").selected().assigned(current).at(current, 2, 1, 1).rolling()},
		want:      "workloads 0/1 pods 3 injected 2 updated 1 available 1 unavailable 0 | Ready=False/RollingWorkloads: Rolling out in 1 workload; 0 of 1 up to date. | Progressing=True/RollingWorkloads: Rolling out in 1 workload; 0 of 1 up to date. | Degraded=False/AsExpected: No workload has a problem.",
	}, {
		name:      "a partition withholds a new revision",
		set:       func(set *Set) { set.Status.CurrentRevision = old },
		workloads: []Workload{settled.at(old, 3, 0, 0).in(Withheld), queued},
		want:      "workloads 0/2 pods 6 injected 6 updated 0 available 0 unavailable 0 | Ready=False/Partitioned: updateStrategy.partition keeps all pods of 1 workload at the old revision, because this change can not be made in running pods: set it to 0 to let the workloads replace them, 1 waiting for their turn; 0 of 2 up to date. | Progressing=False/Partitioned: updateStrategy.partition keeps all pods of 1 workload at the old revision, because this change can not be made in running pods: set it to 0 to let the workloads replace them, 1 waiting for their turn; 0 of 2 up to date. | Degraded=False/AsExpected: No workload has a problem.",
	}, {
		name:      "a partition withholds a new revision, and what it keeps fails",
		set:       func(set *Set) { set.Status.CurrentRevision = old },
		workloads: []Workload{settled.at(old, 3, 0, 0).in(Withheld).with(&Problem{v1alpha1.ReasonWorkloadStuck, "it fails"})},
		want:      "workloads 0/1 pods 3 injected 3 updated 0 available 0 unavailable 0 | Ready=False/WorkloadStuck: 1 workload with a problem. Deployment shop/web: it fails | Progressing=False/Partitioned: updateStrategy.partition keeps all pods of 1 workload at the old revision, because this change can not be made in running pods: set it to 0 to let the workloads replace them; 0 of 1 up to date. | Degraded=True/WorkloadStuck: 1 workload with a problem. Deployment shop/web: it fails",
	}, {
		name:      "paused before anything happened",
		set:       func(set *Set) { set.Paused = true },
		workloads: []Workload{makeWorkload("web").selected()},
		want:      "workloads 0/1 pods 3 injected 0 updated 0 available 0 unavailable 0 | Ready=False/Paused: Nothing is changed while updateStrategy.paused is true; 0 of 1 workload up to date. | Progressing=False/Paused: Nothing is changed while updateStrategy.paused is true; 0 of 1 workload up to date. | Degraded=False/AsExpected: No workload has a problem.",
	}, {
		name:      "paused with all updated",
		set:       func(set *Set) { set.Paused = true },
		workloads: []Workload{settled},
		want:      "workloads 1/1 pods 3 injected 3 updated 3 available 3 unavailable 0 | Ready=True/AllPodsUpdated: 1 workload up to date. | Progressing=False/Paused: Nothing is changed while updateStrategy.paused is true; 1 of 1 workload up to date. | Degraded=False/AsExpected: No workload has a problem.",
	}, {
		name:      "a collision in one of two",
		workloads: []Workload{makeWorkload("cart").selected().assigned(current).at("", 0, 0, 0).with(stuck), settled},
		want:      `workloads 1/2 pods 6 injected 3 updated 3 available 3 unavailable 0 | Ready=False/NameConflict: 1 workload with a problem. Deployment shop/cart: container "web" is the application's own | Progressing=False/Complete: 1 of 2 workloads up to date. | Degraded=True/NameConflict: 1 workload with a problem. Deployment shop/cart: container "web" is the application's own`,
	}, {
		name:      "a workload whose owner paused it waits, and degrades nothing",
		workloads: []Workload{makeWorkload("cart").selected().assigned(current).at(current, 0, 0, 0).rolling().with(waiting)},
		want:      "workloads 0/1 pods 3 injected 0 updated 0 available 0 unavailable 0 | Ready=False/Injecting: Injecting into 1 workload; 0 of 1 up to date. | Progressing=True/Injecting: Injecting into 1 workload; 0 of 1 up to date. | Degraded=False/AsExpected: 1 workload waiting.",
	}, {
		name:      "one lost the label",
		workloads: []Workload{settled, makeWorkload("cart").at(current, 3, 3, 3)},
		want:      "workloads 1/1 pods 3 injected 3 updated 3 available 3 unavailable 0 | Ready=False/Removing: Taking the rendered content out of 1 workload no longer selected. | Progressing=True/Removing: Taking the rendered content out of 1 workload no longer selected. | Degraded=False/AsExpected: No workload has a problem.",
	}, {
		name:      "being deleted",
		set:       func(set *Set) { set.Deleting = true },
		workloads: []Workload{settled},
		want:      "workloads 1/1 pods 3 injected 3 updated 3 available 3 unavailable 0 | Ready=False/Removing: The set is being deleted; 1 workload left to release. | Progressing=True/Removing: The set is being deleted; 1 workload left to release. | Degraded=False/AsExpected: No workload has a problem.",
	}, {
		name:      "a revision fails in one of two",
		set:       func(set *Set) { set.Status.CurrentRevision = old },
		workloads: []Workload{failed, queued},
		want:      `workloads 0/2 pods 6 injected 6 updated 1 available 0 unavailable 0 | Ready=False/RolledBack: Revision set-2 failed in Deployment shop/cart at 1970-01-01T02:46:40Z, and everything goes back to the revision set-1 from before. Correct the spec: it is not tried again until the spec changes. What failed: it crashes | Progressing=True/RollingBack: Taking revision set-2 back; 1 workload left. | Degraded=True/RolledBack: Revision set-2 failed in Deployment shop/cart at 1970-01-01T02:46:40Z, and everything goes back to the revision set-1 from before. Correct the spec: it is not tried again until the spec changes. What failed: it crashes`,
	}, {
		name:      "a first revision fails",
		workloads: []Workload{failed},
		want:      `workloads 0/1 pods 3 injected 3 updated 1 available 0 unavailable 0 | Ready=False/RolledBack: Revision set-2 failed in Deployment shop/cart at 1970-01-01T02:46:40Z, and everything goes back to what was there before the set. Correct the spec: it is not tried again until the spec changes. What failed: it crashes | Progressing=True/RollingBack: Taking revision set-2 back; 1 workload left. | Degraded=True/RolledBack: Revision set-2 failed in Deployment shop/cart at 1970-01-01T02:46:40Z, and everything goes back to what was there before the set. Correct the spec: it is not tried again until the spec changes. What failed: it crashes`,
	}, {
		name:      "a revision fails, and nothing is to go back",
		set:       func(set *Set) { set.Status.CurrentRevision, set.Halt = old, true },
		workloads: []Workload{failed, queued},
		want:      "workloads 0/2 pods 6 injected 6 updated 1 available 0 unavailable 0 | Ready=False/PodsFailing: 1 workload with a problem. Deployment shop/cart: it crashes | Progressing=False/Halted: No further pod is changed until those that failed recover, or the spec changes; 0 of 2 workloads up to date. | Degraded=True/PodsFailing: 1 workload with a problem. Deployment shop/cart: it crashes",
	}, {
		name:      "a sidecar crashes long after the update",
		set:       func(set *Set) { set.Status.CurrentRevision = current },
		workloads: []Workload{settled.at(current, 3, 3, 2).with(failed.Summary.Problem)},
		want:      "workloads 1/1 pods 3 injected 3 updated 3 available 2 unavailable 0 | Ready=False/PodsFailing: 1 workload with a problem. Deployment shop/web: it crashes | Progressing=False/Complete: 1 of 1 workload up to date. | Degraded=True/PodsFailing: 1 workload with a problem. Deployment shop/web: it crashes",
	}, {
		name:      "going back",
		set:       afterFailure,
		workloads: []Workload{makeWorkload("cart").selected().assigned(old).at(old, 3, 2, 2).rolling(), queued},
		want:      "workloads 0/2 pods 6 injected 6 updated 0 available 0 unavailable 0 | Ready=False/RolledBack: what happened | Progressing=True/RollingBack: Taking revision set-2 back; 1 workload left. | Degraded=True/RolledBack: what happened",
	}, {
		name:      "back",
		set:       afterFailure,
		workloads: []Workload{queued},
		want:      "workloads 0/1 pods 3 injected 3 updated 0 available 0 unavailable 0 | Ready=False/RolledBack: what happened | Progressing=False/Complete: Revision set-2 was taken back; nothing is changed until the spec is corrected. | Degraded=True/RolledBack: what happened",
	}, {
		name:      "back, and the spec was corrected",
		set:       func(set *Set) { afterFailure(set); set.Generation++ },
		workloads: []Workload{queued},
		want:      "workloads 0/1 pods 3 injected 3 updated 0 available 0 unavailable 0 | Ready=False/RollingWorkloads: Rolling out in 0 workloads, 1 waiting for their turn; 0 of 1 up to date. | Progressing=True/RollingWorkloads: Rolling out in 0 workloads, 1 waiting for their turn; 0 of 1 up to date. | Degraded=False/AsExpected: No workload has a problem.",
	}, {
		name:      "a canary goes first",
		set:       func(set *Set) { set.Status.CurrentRevision = old },
		workloads: []Workload{makeWorkload("canary").selected().canary().assigned(current).at(old, 3, 1, 1).in(UpdatingPods), queued},
		want:      "workloads 0/2 pods 6 injected 6 updated 1 available 1 unavailable 0 | Ready=False/WaitingForCanary: The canaries go first: 1 of 1 left; 0 of 2 up to date. | Progressing=True/WaitingForCanary: The canaries go first: 1 of 1 left; 0 of 2 up to date. | Degraded=False/AsExpected: No workload has a problem.",
	}, {
		name: "what was staged is taken back in waves",
		set: func(set *Set) {
			set.UpdateRevision, set.Status.CurrentRevision, set.Partitioned, set.Partition = old, old, true, "50%"
		},
		workloads: []Workload{queued, staged},
		want:      "workloads 1/2 pods 6 injected 6 updated 3 available 3 unavailable 0 | Ready=False/RollingWorkloads: Rolling out in 0 workloads, 1 waiting for their turn; 1 of 2 up to date. | Progressing=True/RollingWorkloads: Rolling out in 0 workloads, 1 waiting for their turn; 1 of 2 up to date. | Degraded=False/AsExpected: No workload has a problem.",
	}, {
		name:      "promoting, with others in the queue",
		set:       func(set *Set) { set.Status.CurrentRevision = old },
		workloads: []Workload{makeWorkload("cart").selected().assigned(current).at(old, 3, 3, 3).in(Promoting), queued},
		want:      "workloads 0/2 pods 6 injected 6 updated 3 available 3 unavailable 0 | Ready=False/UpdatingPods: Updating pods of 0 workloads in place, 1 waiting for their turn; 0 of 2 up to date. | Progressing=True/UpdatingPods: Updating pods of 0 workloads in place, 1 waiting for their turn; 0 of 2 up to date. | Degraded=False/AsExpected: No workload has a problem.",
	}, {
		name:      "a partition was lowered, and the workload was not called yet",
		set:       func(set *Set) { set.Status.CurrentRevision = old },
		workloads: []Workload{settled.assigned(current).at(old, 3, 1, 1).in(AwaitingTurn)},
		want:      "workloads 0/1 pods 3 injected 3 updated 1 available 1 unavailable 0 | Ready=False/UpdatingPods: Updating pods of 0 workloads in place, 1 waiting for their turn; 0 of 1 up to date. | Progressing=True/UpdatingPods: Updating pods of 0 workloads in place, 1 waiting for their turn; 0 of 1 up to date. | Degraded=False/AsExpected: No workload has a problem.",
	}, {
		name:      "a partition was lowered, and the workload has not seen it yet",
		set:       func(set *Set) { set.Status.CurrentRevision, set.Partition = old, "1" },
		workloads: []Workload{settled.assigned(current).at(old, 3, 1, 1).in(Partitioned)},
		want:      "workloads 0/1 pods 3 injected 3 updated 1 available 1 unavailable 0 | Ready=False/UpdatingPods: Updating pods of 0 workloads in place, 1 waiting for their turn; 0 of 1 up to date. | Progressing=True/UpdatingPods: Updating pods of 0 workloads in place, 1 waiting for their turn; 0 of 1 up to date. | Degraded=False/AsExpected: No workload has a problem.",
	}, {
		name:      "an invalid spec",
		set:       func(set *Set) { set.Invalid = []string{"spec.selector is invalid", "spec is empty"} },
		workloads: []Workload{settled},
		want:      "workloads 1/1 pods 3 injected 3 updated 3 available 3 unavailable 0 | Ready=False/PreflightFailed: The spec is invalid: spec.selector is invalid; spec is empty. | Progressing=False/Complete: Nothing is changed until the spec is corrected. | Degraded=True/PreflightFailed: The spec is invalid: spec.selector is invalid; spec is empty.",
	}} {
		t.Run(test.name, func(t *testing.T) {
			set := makeSet()
			if test.set != nil {
				test.set(&set)
			}
			status := Status(set, test.workloads)
			if diff := cmp.Diff(strings.ReplaceAll(test.want, " | ", "\n"), strings.ReplaceAll(line(status), " | ", "\n")); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
			set.Status = status
			if diff := cmp.Diff(status, Status(set, test.workloads)); diff != "" {
				t.Errorf("the same workloads give another status the second time:\n%s", diff)
			}
		})
	}
}

func TestConditionsAreOfTheObservedGeneration(t *testing.T) {
	for _, condition := range Status(makeSet(), nil).Conditions {
		if condition.ObservedGeneration != 7 {
			t.Errorf("%s is of generation %d", condition.Type, condition.ObservedGeneration)
		}
	}
}

func TestCurrentRevisionFollowsWhenAllHaveSettled(t *testing.T) {
	set := makeSet()
	set.Status.CurrentRevision = old
	rolling := makeWorkload("web").selected().assigned(current).at(current, 3, 2, 2).rolling()
	if status := Status(set, []Workload{rolling}); status.CurrentRevision != old {
		t.Errorf("it is %q while a workload rolls out", status.CurrentRevision)
	}
	settled := makeWorkload("web").selected().assigned(current).at(current, 3, 3, 3)
	if status := Status(set, []Workload{settled}); status.CurrentRevision != current {
		t.Errorf("it is %q when all have settled", status.CurrentRevision)
	}
	if status := Status(set, nil); status.CurrentRevision != "" {
		t.Errorf("it is %q without any workload that could have proven it", status.CurrentRevision)
	}
	set.Paused = true
	if status := Status(set, nil); status.CurrentRevision != old {
		t.Errorf("it is %q in a set that is paused", status.CurrentRevision)
	}
}

func TestProblemsAreSortedAndLimited(t *testing.T) {
	var workloads []Workload
	for i := range 12 {
		workload := makeWorkload(fmt.Sprintf("web-%02d", 11-i)).selected().assigned(current).at("", 0, 0, 0)
		workloads = append(workloads, workload.with(&Problem{v1alpha1.ReasonFieldConflict, strings.Repeat("ä", 600) + "\n  more"}))
	}
	status := Status(makeSet(), workloads)
	if len(status.Problems) != 10 || status.Problems[0].Name != "web-00" || status.Problems[9].Name != "web-09" {
		t.Errorf("%d problems from %q on", len(status.Problems), status.Problems[0].Name)
	}
	if message := status.Problems[0].Message; len(message) > 1024 || !strings.HasSuffix(message, "ä...") {
		t.Errorf("a message of %d bytes ends in %q", len(message), message[len(message)-8:])
	}
	degraded := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionDegraded)
	if !strings.HasPrefix(degraded.Message, "12 workloads with a problem. Deployment shop/web-00: ") {
		t.Errorf("Degraded says %q", degraded.Message)
	}
}

func TestAConditionKeepsItsTime(t *testing.T) {
	set := makeSet()
	set.Status = Status(set, nil)
	for i := range set.Status.Conditions {
		set.Status.Conditions[i].LastTransitionTime = metav1.Unix(1, 0)
	}
	settled := makeWorkload("web").selected().assigned(current).at(current, 3, 3, 3)
	for _, condition := range Status(set, []Workload{settled}).Conditions {
		if condition.LastTransitionTime != metav1.Unix(1, 0) {
			t.Errorf("%s has a new time, although its status is the same", condition.Type)
		}
	}
}

func TestKnown(t *testing.T) {
	if Known([]Workload{makeWorkload("web").selected().assigned(current)}) {
		t.Error("a workload that nobody looked at is known")
	}
	if !Known([]Workload{makeWorkload("web").selected(), makeWorkload("cart").assigned(old).at(old, 0, 0, 0)}) {
		t.Error("all workloads with a slip were looked at, and are not known")
	}
}

// What a status says is about the spec that it was written for, and about the revision that this brings.
func TestDegraded(t *testing.T) {
	set := makeSet()
	rolledBackTo(&set, old)
	for _, test := range []struct {
		generation     int64
		updateRevision string
		want           string
	}{
		{set.Generation, current, v1alpha1.ReasonRolledBack},
		{set.Generation, old, ""}, // which has reached every pod
		{set.Generation + 1, current, ""},
	} {
		if got := Degraded(&set.Status, test.generation, test.updateRevision); got != test.want {
			t.Errorf("%s at generation %d: %q, want %q", test.updateRevision, test.generation, got, test.want)
		}
	}
	if got := Degraded(&v1alpha1.SidecarSetStatus{}, set.Generation, current); got != "" {
		t.Errorf("without a condition: %q", got)
	}
}
