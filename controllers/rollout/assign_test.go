// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

func atMost(value string) *intstr.IntOrString { parsed := intstr.Parse(value); return &parsed }

// rolledBackTo makes a set go back from the update revision to another one.
func rolledBackTo(set *Set, revision string) {
	set.Status.CurrentRevision = revision
	set.Status.Conditions = []metav1.Condition{{Type: "Degraded", Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonRolledBack, ObservedGeneration: set.Generation}}
}

func TestAssign(t *testing.T) {
	crash, stuck := &Problem{v1alpha1.ReasonCrashLoop, "it crashes"}, &Problem{v1alpha1.ReasonWorkloadStuck, "it is stuck"}
	newcomer := makeWorkload("new").selected()
	created := newcomer.rolling().unseen()
	created.New = true
	behind := makeWorkload("behind").selected().assigned(old).at(old, 3, 3, 3)
	another := makeWorkload("another").selected().assigned(old).at(old, 3, 3, 3)
	busy := makeWorkload("busy").selected().assigned(current).at(old, 3, 1, 1).in(UpdatingPods)
	failed := makeWorkload("failed").selected().assigned(current).at(old, 3, 1, 0).in(UpdatingPods).with(crash)
	done := makeWorkload("done").selected().assigned(current).at(current, 3, 3, 3)
	unselected := makeWorkload("unselected").assigned(current).at(current, 3, 3, 3)
	unselectedFailed := makeWorkload("unselected-failed").assigned(current).at(old, 3, 1, 0).in(UpdatingPods).with(crash)
	leaving := makeWorkload("leaving").at(current, 3, 3, 3)
	gone := makeWorkload("gone")
	gone.Leaving = true
	refused := another
	refused.Refused = &Problem{v1alpha1.ReasonPreflightFailed, "nobody may change it"}
	retried := refused
	retried.Retry = true
	partitioned := func(set *Set) { set.Partitioned = true }
	for _, test := range []struct {
		name      string
		set       func(*Set)
		workloads []Workload
		want      string
	}{
		{"as many as there are places", func(set *Set) { set.MaxConcurrentWorkloads = atMost("3") }, []Workload{behind, another, unselected}, "another=set-2 behind=set-2 unselected="},
		{"one by default", nil, []Workload{behind, another}, "another=set-2"},
		{"one that is busy takes the place", nil, []Workload{behind, busy}, ""},
		{"one that was not looked at is taken for busy", nil, []Workload{behind, makeWorkload("new").selected().assigned(current)}, ""},
		{
			"but does not go before its turn for that", func(set *Set) { set.MaxConcurrentWorkloads = atMost("2") },
			[]Workload{another, behind, makeWorkload("new").selected().assigned(old)},
			"another=set-2",
		},
		{"one whose template was cleaned a moment ago takes it, too", nil, []Workload{unselected, gone}, ""},
		{"one that is being cleaned takes it", nil, []Workload{behind, leaving}, ""},
		{"one that waits for its owner does not", nil, []Workload{behind, busy.at(old, 3, 1, 1).with(&Problem{v1alpha1.ReasonWorkloadPaused, ""})}, "behind=set-2"},
		{"one that waits for a disruption budget does not", nil, []Workload{behind, busy.at(old, 3, 0, 0).with(&Problem{v1alpha1.ReasonDisruptionBudget, ""})}, "behind=set-2"},
		{"one that waits for it in the middle does", nil, []Workload{behind, busy.with(&Problem{v1alpha1.ReasonDisruptionBudget, ""})}, ""},
		{"one whose slip was refused does not", nil, []Workload{behind, refused}, "behind=set-2"},
		{"nor is it tried again at once", nil, []Workload{refused}, ""},
		{"only when it is time", nil, []Workload{retried}, "another=set-2"},
		{"one at its partition does not", nil, []Workload{behind, busy.at(old, 3, 1, 1).in(Partitioned)}, "behind=set-2"},
		{"one whose partition withholds a change does not, and no other gets that", nil, []Workload{behind, busy.at(old, 3, 0, 0).in(Withheld)}, ""},
		{"nor when it has a problem, and as many have that as may be changed at the same time", nil, []Workload{behind, busy.at(old, 3, 0, 0).in(Withheld).with(stuck)}, ""},
		{
			"but when others may not have that problem", func(set *Set) { set.MaxConcurrentWorkloads = atMost("2") },
			[]Workload{behind, busy.at(old, 3, 0, 0).in(Withheld).with(stuck)},
			"behind=set-2",
		},
		{
			"those get it in which a revision failed that it corrects", func(set *Set) { set.MaxConcurrentWorkloads = atMost("3") },
			[]Workload{behind, another.assigned("set-1.5").at(old, 3, 1, 0).with(crash), busy.at(old, 3, 0, 0).in(Withheld)},
			"another=set-2",
		},
		{"new ones get what has proven itself meanwhile", nil, []Workload{newcomer, busy.at(old, 3, 0, 0).in(Withheld)}, "new=set-1"},
		{"and others can leave", nil, []Workload{unselected, busy.at(old, 3, 0, 0).in(Withheld)}, "unselected="},
		{"a newer revision comes to it all the same", nil, []Workload{behind, busy.assigned("set-1.5").at(old, 3, 0, 0).in(Withheld)}, "behind=set-2"},
		{"one that is being changed goes over to a newer revision without another place", nil, []Workload{behind, busy.assigned("set-1.5").at(old, 3, 1, 1).in(UpdatingPods)}, "busy=set-2"},
		{"a failure stops all", nil, []Workload{behind, failed, newcomer}, "new=set-1"},
		{"a failure of a revision from before stops nothing", nil, []Workload{another.at(old, 3, 3, 2).with(crash), behind}, "another=set-2"},
		{"one that its owner took away when it failed, at once", nil, []Workload{unselected, unselectedFailed, busy}, "unselected-failed="},
		{"not so when the set goes from everywhere", func(set *Set) { set.Deleting = true }, []Workload{unselectedFailed, leaving}, ""},
		{"canaries go first", nil, []Workload{behind, another.canary()}, "another=set-2"},
		{"others wait for them", func(set *Set) { set.MaxConcurrentWorkloads = atMost("3") }, []Workload{behind, busy.canary()}, ""},
		{"others follow", nil, []Workload{behind, done.canary()}, "behind=set-2"},
		{"a canary at its partition is done", nil, []Workload{behind, busy.canary().at(old, 3, 1, 1).in(Partitioned)}, "behind=set-2"},
		{"a canary that its owner paused is not", nil, []Workload{behind, busy.canary().at(old, 3, 1, 1).with(&Problem{v1alpha1.ReasonWorkloadPaused, ""})}, ""},
		{"no canary is waited for with a revision that all had", func(set *Set) { set.Status.CurrentRevision = current }, []Workload{newcomer, makeWorkload("canary").selected().canary().rolling()}, "canary=set-2 new=set-2"},
		{"a new workload gets what has proven itself", nil, []Workload{newcomer, done}, "new=set-1"},
		{"at once when it is starting", nil, []Workload{newcomer.rolling(), busy}, "new=set-1"},
		{"at once when it was just created", nil, []Workload{created, busy}, "new=set-1"},
		{"not when it was changed, which can not be told apart from starting yet", nil, []Workload{newcomer.rolling().unseen(), busy}, ""},
		{"and comes to its end with that when others are busy", nil, []Workload{newcomer.assigned(old).at(old, 1, 1, 1).rolling(), busy}, ""},
		{"or goes on at once when none is", nil, []Workload{newcomer.assigned(old).at(old, 1, 1, 1).rolling()}, "new=set-2"},
		{"or, with a partition, when its template has that", partitioned, []Workload{newcomer.assigned(old).rolling().at(old, 1, 1, 1)}, "new=set-2"},
		{"not before", partitioned, []Workload{newcomer.assigned(old).at("", 0, 0, 0).rolling()}, ""},
		{"which is so only with a partition", nil, []Workload{newcomer.assigned(old).at("", 0, 0, 0).rolling()}, "new=set-2"},
		{"and not of one that can not have it", partitioned, []Workload{newcomer.assigned(old).at("", 0, 0, 0).with(&Problem{v1alpha1.ReasonFieldConflict, ""})}, "new=set-2"},
		{"a slip that somebody removed is written again", func(set *Set) { set.Status.CurrentRevision = "" }, []Workload{makeWorkload("lost").selected().at(current, 3, 3, 3)}, "lost=set-2"},
		{"when it is its turn if nothing has", func(set *Set) { set.Status.CurrentRevision = "" }, []Workload{newcomer.rolling(), makeWorkload("first").selected().assigned(current).at("", 0, 0, 0)}, ""},
		{"going back, what failed first", func(set *Set) { rolledBackTo(set, old) }, []Workload{done, failed, behind}, "failed=set-1"},
		{"going back, what is being changed at once", func(set *Set) { rolledBackTo(set, old) }, []Workload{done, busy, behind}, "busy=set-1"},
		{"going back in waves", func(set *Set) { rolledBackTo(set, old) }, []Workload{done, another.at(old, 3, 3, 1).rolling()}, ""},
		{"one that does not get well going back holds no other up", func(set *Set) { rolledBackTo(set, old) }, []Workload{done, another.at(old, 3, 3, 1).rolling().with(crash)}, "done=set-1"},
		{"going back from a first injection", func(set *Set) { rolledBackTo(set, "") }, []Workload{failed, newcomer}, "failed="},
		{"going back ends with a new spec", func(set *Set) { rolledBackTo(set, old); set.Generation++ }, []Workload{behind}, "behind=set-2"},
		{"paused", func(set *Set) { set.Paused = true }, []Workload{behind, newcomer, unselected}, ""},
		{"paused while going back", func(set *Set) { rolledBackTo(set, old); set.Paused = true }, []Workload{failed}, ""},
		{"invalid", func(set *Set) { set.Invalid = []string{"x"} }, []Workload{behind, newcomer}, ""},
		{"deleted, in waves", func(set *Set) { set.Deleting = true }, []Workload{behind, done}, "behind="},
		{"deleted, while it goes back", func(set *Set) { rolledBackTo(set, old); set.Deleting = true }, []Workload{failed, busy}, "busy="},
		{"deleted while paused", func(set *Set) { set.Deleting, set.Paused = true, true }, []Workload{done}, "done="},
		{"deleted and retained", func(set *Set) { set.Deleting, set.Retain = true, true }, []Workload{behind, done, newcomer}, ""},
		{"a workload that is not selected any more and never was rendered", nil, []Workload{makeWorkload("x").assigned(old), busy}, "x="},
	} {
		t.Run(test.name, func(t *testing.T) {
			set := makeSet()
			set.Status.CurrentRevision = old
			if test.set != nil {
				test.set(&set)
			}
			slips, _ := Assign(set, test.workloads)
			if got := slipsLine(slips); got != test.want {
				t.Errorf("slips %q, want %q", got, test.want)
			}
		})
	}
	if Released([]Workload{done}) || Released([]Workload{leaving}) || !Released([]Workload{newcomer}) {
		t.Error("a set is released exactly when no slip and no template has anything of it")
	}
}

// After a restart of the operator, a workload that was not looked at yet may only seem to be in the middle of a change.
func TestAssignChangesWhatWasLookedAt(t *testing.T) {
	for name, change := range map[string]func(*Set){
		"an update":                       func(set *Set) { set.Status.CurrentRevision = old },
		"an update from several before":   func(set *Set) { set.Status.CurrentRevision = "set-0" },
		"an update, and none is complete": nil,
		"going back":                      func(set *Set) { rolledBackTo(set, "set-0") },
		"deletion":                        func(set *Set) { set.Deleting = true },
		"pods that failed before": func(set *Set) {
			set.Status.CurrentRevision = old
			set.Status.Conditions = []metav1.Condition{{Type: "Degraded", Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonPodsFailing, ObservedGeneration: set.Generation}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			set := makeSet()
			set.MaxConcurrentWorkloads = atMost("100%")
			if change != nil {
				change(&set)
			}
			var workloads []Workload
			for i := range 10 {
				unseen := makeWorkload(fmt.Sprint("w", i)).selected().assigned(old)
				unseen.Carried = true
				workloads = append(workloads, unseen)
			}
			if slips, called := Assign(set, workloads); len(slips)+len(called) > 0 {
				t.Errorf("slips %q, called %v", slipsLine(slips), called)
			}
			workloads[0] = workloads[0].at(old, 3, 3, 3)
			halted := set.isHalted()
			if slips, _ := Assign(set, workloads); len(slips) > 0 && halted {
				t.Errorf("one was looked at, and changed, though another may have failed: %q", slipsLine(slips))
			}
		})
	}
}

// A partition that was lowered lets no more workloads go on at the same time than any other change.
func TestAssignCallsWorkloads(t *testing.T) {
	waiting := func(name string) Workload {
		return makeWorkload(name).selected().assigned(current).at(old, 3, 1, 1).in(AwaitingTurn)
	}
	called := func(workload Workload) Workload { workload.Called = true; return workload }
	lowered := func(workload Workload) Workload {
		workload.Summary = &Summary{Target: current, Rendered: old, Injected: 3, Phase: Partitioned, RestsAt: "100%"}
		return workload
	}
	partitioned := makeWorkload("partitioned").selected().assigned(current).at(old, 3, 1, 1).in(Partitioned)
	busy := makeWorkload("busy").selected().assigned(current).at(old, 3, 1, 1).in(UpdatingPods)
	behind := makeWorkload("behind").selected().assigned(old).at(old, 3, 3, 3)
	failed := makeWorkload("failed").selected().assigned(current).at(old, 3, 1, 0).in(UpdatingPods).with(&Problem{v1alpha1.ReasonCrashLoop, "it crashes"})
	two := func(set *Set) { set.MaxConcurrentWorkloads = atMost("2") }
	rests := func(name string) Workload { // at a partition that the set had
		workload := lowered(makeWorkload(name).selected().assigned(current))
		workload.Summary.RestsAt = "50%"
		return workload
	}
	for _, test := range []struct {
		name      string
		set       func(*Set)
		workloads []Workload
		want      string
	}{
		{"those at rest go on to another revision in waves, also with another partition", func(set *Set) { set.UpdateRevision = "set-3" }, []Workload{rests("a"), rests("b"), rests("c")}, "a=set-3"},
		{"and go back so", func(set *Set) { set.UpdateRevision, set.Status.CurrentRevision = old, old }, []Workload{rests("a"), rests("b"), rests("c")}, "a=set-1"},
		{"also when it failed", func(set *Set) { rolledBackTo(set, old) }, []Workload{rests("a"), rests("b"), rests("c")}, "a=set-1"},
		{"as many as there are places", two, []Workload{waiting("a"), waiting("b"), waiting("c"), partitioned}, "a b"},
		{"one that is busy takes a place", two, []Workload{waiting("a"), waiting("b"), busy}, "a"},
		{"one that was called takes it until it has gone on", nil, []Workload{waiting("a"), called(waiting("b"))}, "b"},
		{"and no slip is changed meanwhile", nil, []Workload{called(waiting("a")), behind}, "a"},
		{"slips are changed in the same order", nil, []Workload{behind, waiting("a")}, "a"},
		{"and one that only waits takes no place from them", two, []Workload{behind, waiting("a"), waiting("z")}, "a behind=set-2"},
		{"canaries first", two, []Workload{waiting("a"), waiting("b").canary()}, "b"},
		{"one that has not seen the partition yet takes a place", nil, []Workload{waiting("a"), waiting("b"), partitioned.canary(), lowered(partitioned)}, ""},
		{"others after them", two, []Workload{waiting("a"), partitioned.canary()}, "a"},
		{"none after a failure", two, []Workload{waiting("a"), failed}, ""},
		{"none while the set is paused", func(set *Set) { set.Paused = true }, []Workload{called(waiting("a"))}, ""},
		{"none with a revision that the set has moved on from", nil, []Workload{waiting("a").assigned("set-1.5").at(old, 3, 1, 1).in(AwaitingTurn)}, "a=set-2"},
		{
			"nor while a partition withholds that from it", nil,
			[]Workload{waiting("a").assigned("set-1.5").at(old, 3, 1, 1).in(AwaitingTurn), busy.at(old, 3, 0, 0).in(Withheld)},
			"",
		},
		{"going back, one that waits is changed like one at rest", func(set *Set) { rolledBackTo(set, old) }, []Workload{waiting("a"), waiting("b")}, "a=set-1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			set := makeSet()
			set.Status.CurrentRevision = old
			if test.set != nil {
				test.set(&set)
			}
			slips, called := Assign(set, test.workloads)
			words := []string{}
			for _, name := range called {
				words = append(words, name.Name)
			}
			slices.Sort(words)
			if got := strings.TrimSpace(strings.Join(words, " ") + " " + slipsLine(slips)); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func slipsLine(slips []Slip) string {
	var words []string
	for _, slip := range slips {
		words = append(words, slip.Name+"="+slip.Revision)
	}
	return strings.Join(words, " ")
}

func TestMaxConcurrentWorkloads(t *testing.T) {
	for _, test := range []struct {
		value           string
		workloads, want int32
	}{
		{"1", 30, 1}, {"50", 30, 50}, {"10%", 30, 3}, {"10%", 39, 3}, {"10%", 1, 1}, {"100%", 7, 7}, {"50%", 1, 1}, {"50%", 3, 1},
	} {
		if got := MaxConcurrentWorkloads(atMost(test.value), test.workloads); got != test.want {
			t.Errorf("%s of %d is %d, want %d", test.value, test.workloads, got, test.want)
		}
	}
	if MaxConcurrentWorkloads(nil, 30) != 3 || MaxConcurrentWorkloads(nil, 0) != 1 {
		t.Error("the default is not 10%")
	}
}

// fleet simulates workloads that take one to three rounds for a change, with two canaries among them.
type fleet struct {
	t         *testing.T
	set       Set
	workloads []Workload
	// left are the rounds that a change still takes.
	left    map[string]int
	touched []string
	log     []string
}

func makeFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{t: t, set: makeSet(), left: map[string]int{}}
	f.set.Status.CurrentRevision, f.set.MaxConcurrentWorkloads = old, atMost("10%")
	for i := range 30 {
		workload := makeWorkload(fmt.Sprintf("w%02d", i)).selected().assigned(old)
		workload.Replicas, workload.ReadyReplicas, workload.UID = 4, 4, types.UID(fmt.Sprintf("uid-%d", i))
		workload.Canary = i == 11 || i == 22
		f.workloads = append(f.workloads, workload.at(old, 4, 4, 4))
	}
	return f
}

// round assigns, and lets every workload that is being changed go on.
func (f *fleet) round() bool {
	slips, _ := Assign(f.set, f.workloads)
	for _, slip := range slips {
		index := slices.IndexFunc(f.workloads, func(workload Workload) bool { return workload.Name == slip.Name })
		f.workloads[index].Slip = slip.Revision
		hasher := fnv.New32a()
		_, _ = hasher.Write([]byte(slip.Name))
		f.left[slip.Name] = 1 + int(hasher.Sum32()%3)
		f.touched = append(f.touched, slip.Name)
	}
	busy := 0
	for i := range f.workloads {
		workload := &f.workloads[i]
		if workload.Summary != nil && workload.isBusy(&f.set) {
			busy++
		}
		switch left := f.left[workload.Name]; {
		case left > 1:
			*workload = workload.at(old, 4, int32(4-left), int32(4-left)).in(UpdatingPods)
		case left == 1:
			*workload = workload.at(workload.Slip, 4, 4, 4)
		case workload.Summary == nil: // the operator was restarted, and looks at it again.
			*workload = workload.at(workload.Slip, 4, 4, 4)
		}
		f.left[workload.Name] = max(0, f.left[workload.Name]-1)
	}
	if busy > 3 {
		f.t.Errorf("%d workloads are busy at the same time, and 10%% of 30 are 3", busy)
	}
	f.set.Status = Status(f.set, f.workloads)
	f.log = append(f.log, strings.TrimSpace(fmt.Sprintf("%d up to date: %s", f.set.Status.UpdatedWorkloads, slipsLine(slips))))
	return f.set.Status.CurrentRevision != f.set.UpdateRevision
}

func TestAWholeRollout(t *testing.T) {
	f := makeFleet(t)
	for f.round() {
		if len(f.log) > 100 {
			t.Fatalf("no end: %v", f.log)
		}
	}
	if diff := cmp.Diff(goldenRollout, strings.Join(f.log, "\n")); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	if len(f.touched) != 30 {
		t.Errorf("%d slips were written for 30 workloads", len(f.touched))
	}

	restarted := makeFleet(t)
	for going := true; going; going = restarted.round() {
		if len(restarted.log)%5 == 4 {
			for i := range restarted.workloads {
				if restarted.left[restarted.workloads[i].Name] == 0 {
					restarted.workloads[i].Summary = nil
				}
			}
		}
		if len(restarted.log) > 100 {
			t.Fatalf("no end: %v", restarted.log)
		}
	}
	if diff := cmp.Diff(f.touched, restarted.touched); diff != "" {
		t.Errorf("the order is another one with restarts in the middle (-without +with):\n%s", diff)
	}
}

const goldenRollout = `2 up to date: w22=set-2 w11=set-2
4 up to date: w06=set-2 w09=set-2 w05=set-2
4 up to date: w28=set-2 w01=set-2
7 up to date:
9 up to date: w29=set-2 w08=set-2 w26=set-2
10 up to date: w13=set-2 w16=set-2
13 up to date: w03=set-2
13 up to date: w21=set-2 w07=set-2 w20=set-2
14 up to date:
16 up to date: w19=set-2
18 up to date: w24=set-2 w04=set-2
20 up to date: w27=set-2 w15=set-2
22 up to date: w00=set-2 w14=set-2
23 up to date: w25=set-2 w12=set-2
24 up to date: w23=set-2
26 up to date: w18=set-2
27 up to date: w17=set-2 w02=set-2
28 up to date: w10=set-2
29 up to date:
30 up to date:`
