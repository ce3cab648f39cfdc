// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

func makeSetUpdate() SetUpdate {
	return SetUpdate{Key: "set", Revision: current, ProgressDeadline: 5 * time.Minute, Sidecars: []corev1.Container{{Name: "agent", Image: current}}}
}

// What keeps a workload from getting on with one set is whatever else is in its pods, the sidecars of other sets included.
func TestStuckProblem(t *testing.T) {
	isNot := "pod b is not ready, although the set's sidecars in it are available"
	restarting := notReady(makeUpdated("c", 10*time.Second)).with("agent", func(c *Container) { c.RunningSince, c.AvailableSince = noon, time.Time{} })
	unready := notReady(makePod("b", current))
	soon := unready
	soon.UnreadySince = noon.Add(-20 * time.Second)
	fresh := notReady(makePod("b", current)).with("agent", func(c *Container) { c.AvailableSince = noon.Add(-20 * time.Second) })
	blocked := notReady(makePod("b", current)).with("agent", func(c *Container) { *c = Container{Image: current} })
	blocked.CreatedAt = noon.Add(-5 * time.Minute)
	other := SetUpdate{Key: "other", Revision: "other-2", ProgressDeadline: time.Hour, Sidecars: []corev1.Container{{Name: "proxy"}}}
	ofOther := notReady(makePod("b", current)).with("proxy", func(c *Container) { *c = Container{ID: "new", RunningSince: noon} })
	ofOther.Revisions = map[string]string{"set": current, "other": "other-2"}
	ofOther.Update = &InPlaceUpdate{Revisions: map[string]string{"other": "other-2"}, StartedAt: noon.Add(-time.Minute)}
	late := ofOther
	late.Update = &InPlaceUpdate{Revisions: ofOther.Update.Revisions, StartedAt: noon.Add(-time.Hour)}
	lacks := notReady(makePod("b", old)).with("agent", func(c *Container) { *c = Container{} })
	replaced := unready
	replaced.Replaced = true
	complete := Deployment{Complete: true}
	for name, test := range map[string]struct {
		pods       []Pod
		deployment Deployment
		want       string
		recheck    time.Duration
	}{
		"all is well":                             {[]Pod{makePod("b", current)}, complete, "", 0},
		"the application fails":                   {[]Pod{makePod("b", current).waits("web", "CrashLoopBackOff", 0)}, Deployment{}, `container "web" of pod b, which is not the set's, can not be started`, 0},
		"the sidecar fails":                       {[]Pod{makePod("b", current).waits("agent", "CrashLoopBackOff", time.Minute)}, complete, "", 0},
		"others are not ready":                    {[]Pod{unready}, complete, isNot, 0},
		"of two pods, the first":                  {[]Pod{notReady(makePod("c", current)), unready}, complete, isNot, 0},
		"in whatever order":                       {[]Pod{unready, notReady(makePod("c", current))}, complete, isNot, 0},
		"another set is being updated in it":      {[]Pod{ofOther}, complete, "", 59 * time.Minute},
		"which takes too long":                    {[]Pod{late}, complete, isNot, 0},
		"others were ready until a moment ago":    {[]Pod{soon}, complete, "", 40 * time.Second},
		"the sidecars are for a moment":           {[]Pod{fresh}, complete, "", 40 * time.Second},
		"the Deployment replaces it":              {[]Pod{unready}, Deployment{}, "", 0},
		"it may do so for ever":                   {[]Pod{unready}, Deployment{Endless: true}, "", 9 * time.Minute},
		"another pod is being updated":            {[]Pod{unready, restarting}, complete, "", 290 * time.Second},
		"the containers were never started":       {[]Pod{blocked}, complete, "sidecars of pod b have not been started, perhaps because of its init containers", 0},
		"the Deployment brings them":              {[]Pod{blocked}, Deployment{}, "", 0},
		"they are to come with the next revision": {[]Pod{lacks}, complete, "", 0},
		"the Deployment takes the pod away":       {[]Pod{replaced}, complete, "", 0},
		"a pod was updated a moment ago":          {[]Pod{unready, makeUpdated("c", 4*time.Second)}, complete, "", 6 * time.Second},
		"they have to be started within deadline": {[]Pod{created(blocked, time.Minute)}, complete, "", 4 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			set := makeSetUpdate()
			problem, recheck := set.StuckProblem([]SetUpdate{set, other}, append([]Pod{makePod("a", current)}, test.pods...), test.deployment, noon)
			got := ""
			if problem != nil {
				got = strings.TrimSuffix(problem.Message, ": the workload goes on when that is over")
			}
			if got != test.want || recheck != test.recheck || (problem != nil && problem.Reason != v1alpha1.ReasonWorkloadStuck) {
				t.Errorf("%+v, in %v; want %q, in %v", problem, recheck, test.want, test.recheck)
			}
		})
	}
}

// Pods that are missing, and those of which nothing is started, are waited for by no set; nobody's revision has failed with them.
func TestStalls(t *testing.T) {
	set := makeSetUpdate()
	pending := func(since time.Duration) Pod {
		pod := notReady(makePod("b", current)).with("agent", func(c *Container) { *c = Container{Image: current} })
		pod.Stalled = Stall{"pod b has no node: none is large enough", noon.Add(-since)}
		pod.Update = &InPlaceUpdate{Revisions: pod.Revisions, StartedAt: noon.Add(-time.Hour)}
		return pod
	}
	silent := makePod("b", current)
	silent.Node, silent.Observed, silent.Update = "node-1", false, &InPlaceUpdate{
		Revisions: silent.Revisions, StartedAt: noon.Add(-time.Minute), Containers: map[string]StartedContainer{"agent": {ID: silent.Containers["agent"].ID}},
	}
	unscheduled := silent
	unscheduled.Node = ""
	resized := makeUpdated("b", time.Hour)
	resized.Observed = false
	for name, test := range map[string]struct {
		pod        Pod
		deployment Deployment
		want       string
		recheck    time.Duration
	}{
		"no node for a minute":                            {pending(time.Minute), Deployment{Complete: true}, "pod b has no node: none is large enough", 0},
		"no node, and the owner's pause":                  {pending(time.Minute), Deployment{Paused: true}, "pod b has no node: none is large enough", 0},
		"no node for a moment":                            {pending(20 * time.Second), Deployment{Complete: true}, "", 40 * time.Second},
		"no node for what is rolled out":                  {pending(time.Minute), Deployment{Rolling: true}, "", 0},
		"a kubelet that does not answer":                  {silent, Deployment{Complete: true}, "node node-1 has not taken up the update of pod b", 0},
		"no node, and no scheduler that says so":          {unscheduled, Deployment{Complete: true}, "pod b has no node", 0},
		"a kubelet that has to answer to something later": {resized, Deployment{Complete: true}, "", 0},
		"a quota":                         {makePod("b", current), Deployment{Complete: true, Stalled: Stall{"no room", noon.Add(-time.Minute)}}, "no room", 0},
		"a quota for a moment":            {makePod("b", current), Deployment{Complete: true, Stalled: Stall{"no room", noon}}, "", time.Minute},
		"a quota in the midst of rollout": {makePod("b", current), Deployment{Rolling: true, Stalled: Stall{"no room", noon.Add(-time.Minute)}}, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			problem, recheck := set.StuckProblem([]SetUpdate{set}, []Pod{makePod("a", current), test.pod}, test.deployment, noon)
			got := ""
			if problem != nil {
				got = strings.TrimSuffix(problem.Message, ": the workload goes on when that is over")
			}
			if got != test.want || recheck != test.recheck || (problem != nil && problem.Reason != v1alpha1.ReasonWorkloadStuck) {
				t.Errorf("%+v, in %v; want %q, in %v", problem, recheck, test.want, test.recheck)
			}
			if failure, _ := set.Failure([]Pod{test.pod}, test.deployment, noon); failure != nil {
				t.Errorf("the revision has failed: %v", failure)
			}
		})
	}
}
