// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

func seconds(n int64) metav1.Time { return metav1.Unix(n, 0) }

func status(name string, ready bool, startedAt int64) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: name, Ready: ready, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: seconds(startedAt)}}}
}

func TestPodOf(t *testing.T) {
	pod := &corev1.Pod{
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "proxy", Image: "p:1"}},
			Containers:     []corev1.Container{{Name: "web", Image: "w:1"}, {Name: "agent", Image: "a:1"}, {Name: "starting"}, {Name: "crashed"}},
		},
		Status: corev1.PodStatus{
			InitContainerStatuses: []corev1.ContainerStatus{status("proxy", true, 10)},
			ContainerStatuses: []corev1.ContainerStatus{
				status("agent", true, 20), status("starting", false, 20),
				{Name: "crashed", Ready: true, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}},
			},
		},
	}
	since := func(pod Pod) map[string]time.Time {
		result := map[string]time.Time{}
		for name, container := range pod.Containers {
			if !container.AvailableSince.IsZero() {
				result[name] = container.AvailableSince
			}
		}
		return result
	}
	read := PodOf(pod)
	want := map[string]time.Time{"proxy": time.Unix(10, 0), "agent": time.Unix(20, 0)}
	if diff := cmp.Diff(want, since(read)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if agent := read.Containers["agent"]; agent.List != "containers" || agent.Index != 1 || agent.Image != "a:1" {
		t.Errorf("agent is %+v", agent)
	}
	if read.Containers["agent"].Failing != nil || read.Containers["crashed"].Failing == nil {
		t.Error("the container that crashed, and no other, fails")
	}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.ContainersReady, Status: corev1.ConditionTrue, LastTransitionTime: seconds(15)}}
	want["proxy"] = time.Unix(15, 0)
	if diff := cmp.Diff(want, since(PodOf(pod))); diff != "" {
		t.Errorf("all are ready since 15 (-want +got):\n%s", diff)
	}
}

func TestPodOfTellsThatItWasResizedForNothing(t *testing.T) {
	write := func(manager, subresource string, second int64) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Manager: manager, Subresource: subresource, Time: new(metav1.Unix(second, 0))}
	}
	const autoscaler, kubelet = "autoscaler", "kubelet"
	all, left := []string{"a", "b", "c"}, []string{"b", "c"} // left is what the last update did not bring
	for name, test := range map[string]struct {
		writes []metav1.ManagedFieldsEntry
		want   []string
	}{
		"never":                              {nil, left},
		"with the marks":                     {[]metav1.ManagedFieldsEntry{write(v1alpha1.FieldManager, ResizeSubresource, 5), write(v1alpha1.FieldManager, "", 5)}, left},
		"before the marks":                   {[]metav1.ManagedFieldsEntry{write(v1alpha1.FieldManager, "", 6), write(v1alpha1.FieldManager, ResizeSubresource, 5)}, left},
		"after the marks":                    {[]metav1.ManagedFieldsEntry{write(v1alpha1.FieldManager, "", 4), write(v1alpha1.FieldManager, ResizeSubresource, 5)}, all},
		"without marks of an earlier update": {[]metav1.ManagedFieldsEntry{write(v1alpha1.FieldManager, ResizeSubresource, 5)}, all},
		"by somebody else":                   {[]metav1.ManagedFieldsEntry{write(v1alpha1.FieldManager, "", 4), write(autoscaler, ResizeSubresource, 5)}, left},
		"a status after the marks":           {[]metav1.ManagedFieldsEntry{write(v1alpha1.FieldManager, "", 4), write(kubelet, "status", 5)}, left},
		"at a time that nobody knows":        {[]metav1.ManagedFieldsEntry{{Manager: v1alpha1.FieldManager, Subresource: ResizeSubresource}}, left},
	} {
		t.Run(name, func(t *testing.T) {
			pod := PodOf(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{ManagedFields: test.writes, Annotations: map[string]string{
				v1alpha1.RevisionsAnnotation: `{"a":"a-1","b":"b-1","c":"c-1"}`, v1alpha1.InPlaceAnnotation: `{"resized":["b","c"]}`,
			}}})
			if diff := cmp.Diff(test.want, pod.Resized); diff != "" {
				t.Errorf("resized for nothing (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSummarize(t *testing.T) {
	pod := func(revision string, since ...int64) Pod {
		result := Pod{Revisions: map[string]string{"set": revision}, Containers: map[string]Container{}, Observed: true}
		for i, second := range since {
			result.Containers[[]string{"agent", "proxy"}[i]] = Container{ID: "x", AvailableSince: time.Unix(second, 0)}
		}
		return result
	}
	restarting := pod(current, 1, 1)
	restarting.Update = &InPlaceUpdate{Containers: map[string]StartedContainer{"agent": {ID: "x"}}}
	resized := pod(current, 1, 1)
	resized.Resized = []string{"set"}
	resized.Containers["agent"] = Container{ID: "x", AvailableSince: time.Unix(1, 0), Resources: cpu("20m")}
	pods := []Pod{
		pod(current, 10, 20), // available at 30
		pod(current, 10, 24), // available at 34
		pod(current, 10, 27), // available at 37
		pod(current, 10),     // one sidecar is not ready
		restarting,
		resized,
		pod(old, 1, 1),
		{Revisions: map[string]string{"other": "other-1"}},
	}
	set := SetUpdate{Key: "set", Revision: current, Sidecars: []corev1.Container{{Name: "agent", Resources: cpu("10m")}, {Name: "proxy"}}, MinReadySeconds: 10}
	summary, recheck := Summarize(set, pods, time.Unix(31, 0))
	if diff := cmp.Diff(Summary{Target: current, Injected: 7, Updated: 5, Available: 1, Restarting: 1, PodRevisions: "set-1,set-2"}, summary); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
	if recheck != 3*time.Second {
		t.Errorf("the next pod becomes available in 3s, not in %v", recheck)
	}
	if _, recheck := Summarize(set, pods, time.Unix(40, 0)); recheck != 0 {
		t.Errorf("nothing becomes available by itself any more, and %v is waited for", recheck)
	}
}

func TestProblemsOfTheDeployment(t *testing.T) {
	for _, test := range []struct {
		name       string
		deployment Deployment
		want       string
		degrades   bool
	}{
		{"none", Deployment{Replicas: 3}, "", false},
		{"stuck", Deployment{Stuck: true, Replicas: 3}, v1alpha1.ReasonWorkloadStuck, true},
		{"paused in a rollout", Deployment{Paused: true, Replicas: 4}, v1alpha1.ReasonWorkloadPaused, false},
		{"paused at rest", Deployment{Paused: true, Replicas: 3}, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			problem := DeploymentProblem(test.deployment, Summary{Target: current, Rendered: current, Updated: 3})
			reason := ""
			if problem != nil {
				reason = problem.Reason
			}
			if reason != test.want || problem.degrades() != test.degrades {
				t.Errorf("problem %q, degrades %v", reason, problem.degrades())
			}
		})
	}
}

func TestSummariesAreEqualByWhatTheySay(t *testing.T) {
	a, b := Summary{Problem: &Problem{"r", "m"}}, Summary{Problem: &Problem{"r", "m"}}
	if !a.Equal(b) || a.Equal(Summary{}) || a.Equal(Summary{Problem: &Problem{"r", "n"}}) || a.Equal(Summary{Updated: 1, Problem: a.Problem}) {
		t.Error("Equal does not compare what a summary says")
	}
}

func TestHasSettled(t *testing.T) {
	base := makeWorkload("web").selected().assigned(current).at(current, 3, 3, 3)
	for name, test := range map[string]struct {
		change func(*Workload)
		before string // the set's current revision
		want   bool
	}{
		"as it is":                  {func(*Workload) {}, old, true},
		"at another revision":       {func(w *Workload) { w.Summary.Rendered = old }, old, false},
		"seen before the slip":      {func(w *Workload) { w.Summary.Target = old }, old, false},
		"not observed":              {func(w *Workload) { w.Observed = false }, old, false},
		"a pod without it":          {func(w *Workload) { w.Summary.Updated, w.Summary.Injected = 2, 2 }, old, false},
		"an old pod more":           {func(w *Workload) { w.Summary.Injected = 4 }, old, false},
		"pods may lack the set":     {func(w *Workload) { w.Rolling = true }, "", false},
		"its owner replaces pods":   {func(w *Workload) { w.Rolling = true }, old, true},
		"one not available":         {func(w *Workload) { w.Summary.Available = 2 }, old, false},
		"it came to its end before": {func(w *Workload) { w.Summary.Available, w.Summary.CameToEnd = 2, true }, old, true},
		"its owner replaces some": {func(w *Workload) {
			w.Complete, w.Rolling, w.Summary.Available, w.Summary.CameToEnd = false, true, 2, true
		}, old, true},
		"its old pods terminate": {func(w *Workload) { w.Empty, w.Replicas, w.Summary.Injected, w.Summary.Updated = true, 0, 0, 0 }, old, false},
		"when it came to its end": {func(w *Workload) {
			w.Empty, w.Replicas, *w.Summary = true, 0, Summary{Target: current, Rendered: current, CameToEnd: true}
		}, old, true},
		"it never had a pod": {func(w *Workload) {
			w.Empty, w.Replicas, *w.Summary = true, 0, Summary{Target: current, Rendered: current}
		}, current, false},
		"one restarts for another":  {func(w *Workload) { w.Summary.Available, w.Summary.Restarting, w.Summary.CameToEnd = 2, 1, true }, old, true},
		"in a promotion":            {func(w *Workload) { w.Summary.Phase = Promoting }, old, false},
		"paused by its owner":       {func(w *Workload) { w.Complete, w.Paused = false, true }, old, true},
		"one restarts afterwards":   {func(w *Workload) { w.Summary.Available = 2 }, current, true},
		"one is being taken back":   {func(w *Workload) { w.Summary.Available, w.Summary.Restarting = 2, 1 }, current, false},
		"one restarts in a rollout": {func(w *Workload) { w.Complete, w.Summary.Available = false, 2 }, current, false},
		"scaled to nothing":         {func(w *Workload) { w.Replicas, *w.Summary = 0, Summary{Target: current, Rendered: current} }, old, true},
	} {
		t.Run(name, func(t *testing.T) {
			workload := base
			summary := *base.Summary
			workload.Summary = &summary
			test.change(&workload)
			if got := workload.hasSettled(current, test.before); got != test.want {
				t.Errorf("settled: %v", got)
			}
		})
	}
}

// That a workload has come to its end is told further on while it has the same revision, on its slip and in its template.
func TestRememberEnd(t *testing.T) {
	deployment := Deployment{Observed: true, Complete: true, Replicas: 3}
	whole := Summary{Target: current, Rendered: current, Injected: 3, Updated: 3, Available: 3}
	part := Summary{Target: current, Rendered: current, Injected: 3, Updated: 3, Available: 2}
	ended := part
	ended.CameToEnd = true
	other, taken, promoting := ended, ended, whole
	other.Target, taken.Rendered, promoting.Phase = old, "", Promoting
	for name, test := range map[string]struct {
		summary    Summary
		last       *Summary
		deployment Deployment
		failed     bool
		want       bool
	}{
		"all pods are available":            {whole, nil, deployment, false, true},
		"one is not, nor were all ever":     {part, &part, deployment, false, false},
		"one is not any more":               {part, &ended, deployment, false, true},
		"one has failed":                    {part, &ended, deployment, true, false},
		"it was so with another revision":   {part, &other, deployment, false, false},
		"somebody had taken it out":         {part, &taken, deployment, false, false},
		"in a promotion":                    {promoting, nil, deployment, false, false},
		"pods may be there that none count": {whole, nil, Deployment{Observed: true, Rolling: true, Replicas: 3}, false, false},
		"there is none yet":                 {Summary{Target: current, Rendered: current}, nil, Deployment{Observed: true, Complete: true, Empty: true}, false, false},
		"there is to be none":               {Summary{Target: current, Rendered: current}, nil, Deployment{Observed: true, Complete: true}, false, false},
		"its owner has none for a while":    {Summary{Target: current, Rendered: current}, &ended, Deployment{Observed: true, Complete: true, Empty: true}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			summary := test.summary
			if summary.RememberEnd(test.last, test.deployment, test.failed); summary.CameToEnd != test.want {
				t.Errorf("came to its end: %t", summary.CameToEnd)
			}
		})
	}
}

// A workload goes on to where it rested, and where it was assigned to or called to go; not to a partition that was lowered, nor after a restart.
func TestAwaitsTurn(t *testing.T) {
	at := func(phase Phase, restsAt string) *Summary {
		return &Summary{Target: current, Phase: phase, RestsAt: restsAt}
	}
	for _, test := range []struct {
		name      string
		last      *Summary
		partition string
		awaits    bool
		phase     Phase
		restsAt   string
	}{
		{"it was just assigned", &Summary{Target: old, RestsAt: "50%"}, "50%", false, UpdatingPods, ""},
		{"it was just assigned, with another partition", &Summary{Target: old, RestsAt: "50%"}, "20%", false, UpdatingPods, ""},
		{"it comes to rest", at(UpdatingPods, ""), "50%", false, Partitioned, "50%"},
		{"a pod was born old since", at(Partitioned, "50%"), "50%", false, UpdatingPods, "50%"},
		{"the partition is lowered", at(Partitioned, "50%"), "20%", true, AwaitingTurn, "50%"},
		{"and once more", at(AwaitingTurn, "50%"), "0", true, AwaitingTurn, "50%"},
		{"or back", at(AwaitingTurn, "50%"), "50%", false, Partitioned, "50%"},
		{"its owner's rollout comes between", at("", "50%"), "20%", true, "", "50%"},
		{"it is lowered under way", at(UpdatingPods, ""), "20%", false, UpdatingPods, ""},
		{"it is raised", at(Partitioned, "50%"), "80%", true, Partitioned, "80%"},
		{"the operator restarted", nil, "50%", true, AwaitingTurn, "unknown"},
		{"and looks once more", at(AwaitingTurn, "unknown"), "50%", true, AwaitingTurn, "unknown"},
		{"and finds it at rest", nil, "50%", true, Partitioned, "50%"},
	} {
		t.Run(test.name, func(t *testing.T) {
			summary := at(test.phase, "")
			summary.Updated, summary.Available = 2, 2
			if got := summary.AwaitsTurn(test.last, test.partition); got != test.awaits {
				t.Errorf("awaits its turn: %v", got)
			}
			summary.Available = 1
			if summary.AwaitsTurn(test.last, test.partition) {
				t.Error("awaits its turn with a pod that is not done")
			}
			summary.RememberRest(test.last, test.partition, test.awaits)
			if summary.RestsAt != test.restsAt {
				t.Errorf("rests at %q, want %q", summary.RestsAt, test.restsAt)
			}
		})
	}
	called := at(UpdatingPods, "")
	called.RememberRest(at(AwaitingTurn, "50%"), "20%", false)
	if called.RestsAt != "" {
		t.Errorf("one that was called rests at %q", called.RestsAt)
	}
}

func TestStayAtRest(t *testing.T) {
	for name, test := range map[string]struct {
		last       *Summary
		awaitsTurn bool
		want       Summary
	}{
		"where it was":                     {&Summary{Target: current, Phase: Partitioned, RestsAt: "50%"}, false, Summary{Phase: Partitioned, RestsAt: "50%"}},
		"not when it was under way":        {&Summary{Target: current, Phase: UpdatingPods}, true, Summary{}},
		"not with another revision":        {&Summary{Target: old, Phase: Partitioned, RestsAt: "50%"}, false, Summary{}},
		"until it is called, if not known": {nil, true, Summary{Phase: AwaitingTurn}},
		"not with pods that are not done":  {nil, false, Summary{}},
	} {
		t.Run(name, func(t *testing.T) {
			summary := Summary{Target: current}
			summary.StayAtRest(test.last, test.awaitsTurn)
			test.want.Target = current
			if diff := cmp.Diff(test.want, summary); diff != "" {
				t.Errorf("rests (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPodOfTellsWhatEnded(t *testing.T) {
	ended := func(name string, exitCode int32) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: name, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: exitCode}}}
	}
	always := corev1.ContainerRestartPolicyAlways
	read := PodOf(&corev1.Pod{
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "done"}, {Name: "failed"}, {Name: "proxy", RestartPolicy: &always}},
			Containers:     []corev1.Container{{Name: "agent"}},
		},
		Status: corev1.PodStatus{
			InitContainerStatuses: []corev1.ContainerStatus{ended("done", 0), ended("failed", 1), ended("proxy", 0)},
			ContainerStatuses:     []corev1.ContainerStatus{ended("agent", 0)},
		},
	})
	for name, want := range map[string]bool{"done": false, "failed": true, "proxy": true, "agent": true} {
		if got := read.Containers[name].Ended != nil; got != want {
			t.Errorf("%s is to be started again: %t", name, got)
		}
	}
}
