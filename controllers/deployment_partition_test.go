// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"errors"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// Only what the template lacks and has not proven itself can be kept from pods by a partition.
func TestAPartitionKeepsWhatIsNewToTheTemplate(t *testing.T) {
	for name, test := range map[string]struct {
		revision       string
		judged, isKept bool
	}{
		"what the template has":    {revision: "agent-1", judged: true},
		"what it lacks":            {revision: "agent-2", judged: true, isKept: true},
		"what has proven itself":   {revision: "agent-2"},
		"what is as it always was": {revision: "agent-1"},
	} {
		t.Run(name, func(t *testing.T) {
			observed := unseenWorkload(2, false) // its template has agent-1
			set := &observed.assigned[0]
			set.Revision, set.judged, set.strategy.Partition = test.revision, test.judged, new(intstr.FromInt32(1))
			plan := &injection.Plan{Revisions: map[string]string{"agent": test.revision}}
			if update := observed.podUpdate(plan); len(update.Sets) != 1 || (update.Sets[0].Partition != nil) != test.isKept {
				t.Errorf("%+v", update.Sets)
			}
			if withheld := observed.partitioned(plan); (len(withheld) > 0) != test.isKept {
				t.Errorf("withheld: %v", withheld)
			}
		})
	}
}

// Only what a partition can keep from pods waits for a turn: nobody calls what goes back, or what the template has.
func TestATurnIsAwaited(t *testing.T) {
	set := types.NamespacedName{Name: "agent"}
	for name, test := range map[string]struct {
		revision       string
		judged, awaits bool
		called         turn
	}{
		"after a restart":                           {revision: "agent-2", judged: true, awaits: true},
		"what has proven itself does not":           {revision: "agent-2"},
		"what the template has does not":            {revision: "agent-1", judged: true},
		"not when it is called":                     {revision: "agent-2", judged: true, called: turn{"agent-2", "1"}},
		"when it was called to another revision":    {revision: "agent-2", judged: true, awaits: true, called: turn{"agent-3", "1"}},
		"when it was called with another partition": {revision: "agent-2", judged: true, awaits: true, called: turn{"agent-2", "2"}},
	} {
		t.Run(name, func(t *testing.T) {
			var calls []types.NamespacedName
			turns := newTurns(func(workload types.NamespacedName) { calls = append(calls, workload) })
			r := &deploymentReconciler{summaries: newSummaries(nil), turns: turns}
			observed := unseenWorkload(2, false) // its template has agent-1
			assigned := &observed.assigned[0]
			assigned.Revision, assigned.judged, assigned.strategy.Partition = test.revision, test.judged, new(intstr.FromInt32(1))
			if test.called != (turn{}) {
				for range 2 {
					turns.put(set, test.called, []types.NamespacedName{{}})
				}
				if len(calls) != 1 {
					t.Errorf("called %d times", len(calls))
				}
			}
			if got := r.awaitsTurn(observed, assigned); got != test.awaits {
				t.Errorf("awaits its turn: %t", got)
			}
			turns.put(set, turn{}, nil)
			if turns.has(set, types.NamespacedName{}, test.called) {
				t.Error("a turn is over when the set says so")
			}
		})
	}
}

// What the API server refuses to let pods go back to is told, and not sent again at every event; the other pods go on.
func TestARefusedReturnIsTold(t *testing.T) {
	now := time.Unix(10000, 0)
	r := &deploymentReconciler{refusals: newRefusals(), now: func() time.Time { return now }}
	observed := unseenWorkload(2, false) // its template has agent-1
	set := &observed.assigned[0]
	set.Revision, set.judged, set.strategy.Partition = "agent-2", true, new(intstr.FromInt32(1))
	observed.workload.Rendered = map[string]*injection.Content{"agent": {Containers: []v1alpha1.SidecarContainer{{Container: corev1.Container{Name: "agent", Image: "agent:1"}}}}}
	observed.pods = []rollout.Pod{{
		Name: "web-1", Revisions: map[string]string{"agent": "agent-1.5"},
		Containers: map[string]rollout.Container{"agent": {Image: "agent:1.5", Failing: &rollout.Waiting{Reason: "ErrImagePull"}, FailingSince: now.Add(-time.Minute)}},
	}}
	isReturning := func() bool {
		result := newOutcome(nil)
		set.stays = false // as in each reconcile
		r.recallRefused(observed)
		result.tellRefused(observed)
		update := observed.podUpdate(&injection.Plan{Revisions: map[string]string{"agent": "agent-2"}})
		if len(update.Sets) != 1 || update.Sets[0].Partition == nil {
			t.Fatalf("%+v", update.Sets)
		}
		returning, told := update.Sets[0].Kept != nil, result.problems["agent"].Reason == v1alpha1.ReasonPreflightFailed
		if returning == told {
			t.Errorf("goes back: %t, told that it can not: %t", returning, told)
		}
		return returning
	}
	if !isReturning() {
		t.Error("nothing was refused, and pods do not go back")
	}
	refusal := apierrors.NewForbidden(corev1.Resource("pods"), "web-1", errors.New("nobody may have agent:1"))
	plan := &injection.Plan{Changed: true, Revisions: map[string]string{"agent": "agent-2"}}
	if err := r.rememberRefused(observed, observed.podUpdate(plan), plan, returnError{refusal, "agent", "agent-1"}); !errors.Is(err, errLookAgain) {
		t.Error("the pods are not looked at again: ", err)
	}
	if isReturning() {
		t.Error("pods go back to what was refused")
	}
	set.strategy.Partition, set.stays = nil, false
	if r.recallRefused(observed); len(observed.refused.returns) > 0 || observed.podUpdate(plan).Sets[0].Partition != nil {
		t.Errorf("no pod is to go back, and that it can not is told: %v", observed.refused.returns)
	}
	set.strategy.Partition = new(intstr.FromInt32(1))
	if now = now.Add(tryAgain); !isReturning() {
		t.Error("it is never tried again")
	}
}

// One attempt that is refused does not make the operator forget another one.
func TestRefusalsAreRememberedByAttempt(t *testing.T) {
	refusals, name, now := newRefusals(), types.NamespacedName{Name: "web"}, time.Unix(10000, 0)
	problems := map[string]injection.Problem{"agent": {Reason: v1alpha1.ReasonPreflightFailed}}
	refusals.remember(name, 1, problems, now)
	refusals.remember(name, 2, problems, now.Add(tryAgain/2))
	for attempt, want := range map[uint64]time.Duration{1: tryAgain / 2, 2: tryAgain, 3: 0} {
		if known, wait := refusals.recall(name, attempt, now.Add(tryAgain/2)); wait != want || (len(known) > 0) != (want > 0) {
			t.Errorf("attempt %d: %v, to be tried again in %v, want %v", attempt, known, wait, want)
		}
	}
	refusals.remember(name, 3, problems, now.Add(tryAgain))
	if known, wait := refusals.recall(name, 1, now.Add(tryAgain)); known != nil || wait != 0 || len(refusals.byWorkload[name]) != 2 {
		t.Errorf("what is due is kept: %v, %v", known, wait)
	}
}

// What somebody took out of a template comes back at the revision that a partition keeps, if it was at that, and stays out while the set is held.
func TestWhatWasTakenOut(t *testing.T) {
	for name, test := range map[string]struct {
		marks []string // of its ReplicaSets, oldest first
		want  string
	}{
		"it never had the set":                            {[]string{""}, "agent-2"},
		"it had the revision that is kept":                {[]string{"agent-1", ""}, "agent-1"},
		"it had the update already":                       {[]string{"agent-1", "agent-2", ""}, "agent-2"},
		"it had the update before the set's old revision": {[]string{"agent-2", "agent-1"}, "agent-1"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, held := range []bool{false, true} {
				observed := unseenWorkload(2, false)
				observed.workload.Template.Annotations = nil
				for _, mark := range test.marks {
					rs := appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{}}}
					if mark != "" {
						rs.Annotations[v1alpha1.RevisionsAnnotation] = injection.EncodeRevisions(map[string]string{"agent": mark})
					}
					observed.replicaSets = append(observed.replicaSets, rs)
				}
				set := &observed.assigned[0]
				set.strategy.Partition, set.proven = new(intstr.FromInt32(1)), &injection.Set{Key: "agent", Revision: "agent-1", Content: &injection.Content{}}
				set.Held = held
				wanted := set.Set
				if observed.keepsPods(set) {
					wanted = observed.templated(set)
				}
				if wanted.Revision != test.want || wanted.Held != held {
					t.Errorf("held %t: it gets %s, held %t", held, wanted.Revision, wanted.Held)
				}
			}
		})
	}
}
