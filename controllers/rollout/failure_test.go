// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// makeUpdated is a pod that was updated in place so long ago, and whose sidecar runs since then.
func makeUpdated(name string, ago time.Duration) Pod {
	pod := makePod(name, current)
	pod.Update = &InPlaceUpdate{
		Revisions: map[string]string{"set": current}, StartedAt: noon.Add(-ago), Restarts: map[string]int32{"agent": 1},
		Containers: map[string]StartedContainer{"agent": {ID: "before"}},
	}
	return pod.with("agent", func(c *Container) { c.AvailableSince, c.Restarts = noon.Add(-ago), 1 })
}

func (p Pod) with(container string, change func(*Container)) Pod {
	changed := p.Containers[container]
	change(&changed)
	p.Containers[container] = changed
	return p
}

// waits makes a container wait for a reason since so long ago.
func (p Pod) waits(container, reason string, ago time.Duration) Pod {
	return p.with(container, func(c *Container) {
		c.RunningSince, c.AvailableSince = time.Time{}, time.Time{}
		c.Failing, c.FailingSince = &Waiting{reason, "no luck"}, noon.Add(-ago)
	})
}

// ended is a container that was started so often, and ended so long ago.
func (p Pod) ended(restarts int32, ago time.Duration) Pod {
	return p.with("agent", func(c *Container) {
		c.RunningSince, c.AvailableSince, c.Restarts = time.Time{}, time.Time{}, restarts
		c.Ended = &corev1.ContainerStateTerminated{ExitCode: 7, FinishedAt: metav1.NewTime(noon.Add(-ago))}
	})
}

func TestFailure(t *testing.T) {
	unavailable := func(c *Container) { c.AvailableSince = time.Time{} }
	unseen := makeUpdated("a", time.Hour).waits("agent", "ErrImagePull", time.Hour)
	unseen.Observed = false
	stale := makeUpdated("a", 5*time.Second).waits("agent", "ImagePullBackOff", 5*time.Second)
	stale.Update.Containers["agent"] = StartedContainer{ID: "before", Stopped: true}
	never := makeUpdated("a", 5*time.Minute).with("agent", unavailable)
	born := makePod("a", current).with("agent", unavailable)
	born.CreatedAt = noon.Add(-time.Minute)
	aged := makePod("a", current).with("agent", func(c *Container) { c.RunningSince, c.AvailableSince = noon.Add(-5*time.Minute), time.Time{} })
	broken := makePod("a", current).with("agent", func(c *Container) { c.RunningSince, c.AvailableSince = noon.Add(-time.Hour), time.Time{} }).
		waits("web", "CrashLoopBackOff", time.Minute)
	waiting := makePod("a", current).with("agent", func(c *Container) { c.RunningSince, c.AvailableSince = time.Time{}, time.Time{} })
	for _, test := range []struct {
		name       string
		pods       []Pod
		deployment Deployment
		reason     string
		message    string
		recheck    time.Duration
	}{
		{name: "all is well", pods: []Pod{makeUpdated("a", time.Minute), makePod("b", old)}},
		{
			name: "an image that can not be pulled", pods: []Pod{makeUpdated("a", time.Minute).waits("agent", "ErrImagePull", 3*time.Second)}, reason: v1alpha1.ReasonImagePullFailed,
			message: `container "agent" of pod a with image "set-2" waits in ErrImagePull: no luck`,
		},
		{name: "not yet for three seconds", pods: []Pod{makeUpdated("a", time.Minute).waits("agent", "ErrImagePull", time.Second)}, recheck: 2 * time.Second},
		{
			name: "a crash loop", pods: []Pod{makeUpdated("a", time.Minute).waits("agent", "CrashLoopBackOff", time.Minute)}, reason: v1alpha1.ReasonCrashLoop,
			message: `container "agent" of pod a with image "set-2" waits in CrashLoopBackOff: no luck`,
		},
		{name: "the application's crash loop", pods: []Pod{makeUpdated("a", time.Minute).waits("web", "CrashLoopBackOff", time.Minute)}},
		{name: "a pod of another revision", pods: []Pod{makePod("a", old).waits("agent", "CrashLoopBackOff", time.Minute)}},
		{name: "a pod that its kubelet has not seen", pods: []Pod{unseen}},
		{name: "one that could not start before either", pods: []Pod{stale}, recheck: 55 * time.Second},
		{
			name: "the first by name", pods: []Pod{makeUpdated("b", time.Minute).waits("agent", "CrashLoopBackOff", time.Minute), makeUpdated("a", time.Minute).waits("agent", "RunContainerError", time.Minute)},
			reason: v1alpha1.ReasonCrashLoop, message: `container "agent" of pod a with image "set-2" waits in RunContainerError: no luck`,
		},
		{
			name: "a third restart", pods: []Pod{makeUpdated("a", time.Minute).with("agent", func(c *Container) { c.Restarts = 4; unavailable(c) })}, reason: v1alpha1.ReasonCrashLoop,
			message: `container "agent" of pod a with image "set-2" was restarted 3 times: look at its log`, recheck: 30 * time.Second,
		},
		{
			name: "it ended again, and the kubelet does not say that it backs off", pods: []Pod{makeUpdated("a", time.Minute).ended(2, 3*time.Second)}, reason: v1alpha1.ReasonCrashLoop,
			message: `container "agent" of pod a with image "set-2" ends with exit code 7: look at its log`,
		},
		{name: "not yet for three seconds either", pods: []Pod{makeUpdated("a", time.Minute).ended(2, time.Second)}, recheck: 2 * time.Second},
		{name: "it ended for the first time, which the kubelet starts again at once", pods: []Pod{makeUpdated("a", time.Minute).ended(1, time.Minute)}, recheck: 4 * time.Minute},
		{name: "two restarts", pods: []Pod{makeUpdated("a", time.Minute).with("agent", func(c *Container) { c.Restarts = 3; unavailable(c) })}, recheck: 4 * time.Minute},
		{name: "restarts that it has recovered from", pods: []Pod{makeUpdated("a", time.Minute).with("agent", func(c *Container) { c.Restarts = 9 })}},
		{
			name: "and not recovered yet", pods: []Pod{makeUpdated("a", 20*time.Second).with("agent", func(c *Container) { c.Restarts = 9 })}, reason: v1alpha1.ReasonCrashLoop,
			message: `container "agent" of pod a with image "set-2" was restarted 8 times: look at its log`, recheck: 10 * time.Second,
		},
		{
			name: "it goes on crashing, and ended just now", pods: []Pod{makeUpdated("a", time.Minute).ended(7, time.Second)}, reason: v1alpha1.ReasonCrashLoop,
			message: `container "agent" of pod a with image "set-2" ends with exit code 7: look at its log`,
		},
		{
			name: "it goes on crashing, and backs off since just now", reason: v1alpha1.ReasonCrashLoop,
			pods:    []Pod{makeUpdated("a", time.Minute).ended(7, time.Second).waits("agent", "CrashLoopBackOff", 0)},
			message: `container "agent" of pod a with image "set-2" waits in CrashLoopBackOff: no luck`,
		},
		{
			name: "never available", pods: []Pod{never}, reason: v1alpha1.ReasonProgressDeadlineExceeded,
			message: `container "agent" of pod a is not available within updateStrategy.progressDeadlineSeconds: look at its readiness probe and its log`,
		},
		{name: "ready, and only waiting for minReadySeconds", pods: []Pod{makeUpdated("a", 5*time.Minute).with("agent", func(c *Container) { c.AvailableSince = noon })}},
		{name: "not available yet", pods: []Pod{makeUpdated("a", 4*time.Minute).with("agent", unavailable)}, recheck: time.Minute},
		{name: "a new pod has the Deployment's time", pods: []Pod{born}, deployment: Deployment{Replicas: 1}},
		{
			name: "until its deadline", pods: []Pod{born}, deployment: Deployment{Stuck: true}, reason: v1alpha1.ReasonProgressDeadlineExceeded,
			message: `container "agent" of pod a is not available within the Deployment's progressDeadlineSeconds: look at its readiness probe and its log`,
		},
		{name: "one that has no deadline leaves it to the set's", pods: []Pod{born}, deployment: Deployment{Endless: true}, recheck: 4 * time.Minute},
		{name: "from when its sidecars run", pods: []Pod{waiting}, deployment: Deployment{Endless: true}},
		{
			name: "until that is over", pods: []Pod{aged}, deployment: Deployment{Endless: true}, reason: v1alpha1.ReasonProgressDeadlineExceeded,
			message: `container "agent" of pod a is not available within updateStrategy.progressDeadlineSeconds: look at its readiness probe and its log`,
		},
		{name: "also there, unless the application fails", pods: []Pod{broken}, deployment: Deployment{Endless: true}},
		{name: "unless the application fails in it", pods: []Pod{makePod("a", current).with("agent", unavailable).waits("web", "CrashLoopBackOff", time.Minute)}, deployment: Deployment{Stuck: true}},
		{name: "a stuck rollout with available sidecars is the application's", pods: []Pod{makePod("a", current)}, deployment: Deployment{Stuck: true}},
		{name: "an init container", pods: []Pod{func() Pod {
			pod := makePod("a", current)
			pod.Containers["setup"] = Container{Image: "s:1"}
			return pod.waits("setup", "CreateContainerConfigError", time.Minute)
		}()}, reason: v1alpha1.ReasonCrashLoop, message: `container "setup" of pod a with image "s:1" waits in CreateContainerConfigError: no luck`},
	} {
		t.Run(test.name, func(t *testing.T) {
			set := SetUpdate{
				Key: "set", Revision: current, ProgressDeadline: 5 * time.Minute, MinReadySeconds: 10,
				Sidecars: []corev1.Container{{Name: "agent"}}, Inits: []corev1.Container{{Name: "setup"}},
			}
			problem, recheck := set.Failure(test.pods, test.deployment, noon)
			got := Problem{}
			if problem != nil {
				got = *problem
			}
			if want := (Problem{test.reason, test.message}); got != want {
				t.Errorf("problem %+v, want %+v", got, want)
			}
			if recheck != test.recheck {
				t.Errorf("recheck in %v, want %v", recheck, test.recheck)
			}
			if problem != nil && !problem.IsFailure() {
				t.Error("it is no failure")
			}
		})
	}
}

// A pod has the deadline's time from when its sidecars could become available, however long ago its update was.
func TestLateSince(t *testing.T) {
	const deadline = 5 * time.Minute
	set := SetUpdate{Key: "set", Revision: current, ProgressDeadline: deadline, Sidecars: []corev1.Container{{Name: "agent"}}}
	unready := func(pod Pod, ago time.Duration) Pod {
		pod.UnreadySince = noon.Add(-ago)
		return notReady(pod).with("agent", func(c *Container) { c.AvailableSince = time.Time{} })
	}
	born := func(pod Pod, running time.Duration) Pod {
		pod.Update.Containers["agent"] = StartedContainer{Stopped: true}
		return pod.with("agent", func(c *Container) {
			if c.RunningSince = noon.Add(-running); running == 0 {
				c.RunningSince = time.Time{}
			}
		})
	}
	stalled := unready(makeUpdated("a", time.Hour), time.Hour)
	stalled.Stalled = Stall{"no node", noon}
	for name, test := range map[string]struct {
		pod     Pod
		isLate  bool
		recheck time.Duration
	}{
		"it has not been available since its update":         {unready(makeUpdated("a", time.Hour), time.Hour), true, 0},
		"it was available until a moment ago":                {unready(makeUpdated("a", time.Hour), time.Minute), false, deadline - time.Minute},
		"none of its containers can be started":              {stalled, false, 0},
		"it had started nothing, and pulls images":           {born(unready(makeUpdated("a", time.Hour), time.Hour), 0), false, 0},
		"it had started nothing, and runs since a moment":    {born(unready(makeUpdated("a", time.Hour), time.Hour), time.Minute), false, deadline - time.Minute},
		"it had started nothing, and runs for long, unready": {born(unready(makeUpdated("a", time.Hour), time.Hour), 6*time.Minute), true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			problem, recheck := set.Failure([]Pod{test.pod}, Deployment{Complete: true}, noon)
			if (problem != nil) != test.isLate || recheck != test.recheck {
				t.Errorf("%+v, in %v", problem, recheck)
			}
		})
	}
}

// What an update restarts is no crash, and what it finds broken may look so for a while.
func TestARecordTellsWhatCameBefore(t *testing.T) {
	pod := makePod("a", old).waits("agent", "CrashLoopBackOff", time.Minute).with("agent", func(c *Container) { c.Restarts = 7 })
	patch := PodPatch{Pod: pod, Sets: []SetUpdate{{Key: "set", Revision: current, Sidecars: []corev1.Container{{Name: "agent", Image: current}}}}}
	record := patch.Record(noon)
	if record.Restarts["agent"] != 8 || !record.Containers["agent"].Stopped {
		t.Errorf("the record is %+v", record)
	}
	resized := PodPatch{Pod: pod, Sets: []SetUpdate{{Key: "set", Revision: current, Sidecars: []corev1.Container{{Name: "agent", Image: old}}}}}
	if record := resized.Record(noon); record.Restarts["agent"] != 7 {
		t.Errorf("the record of an update that restarts nothing is %+v", record)
	}
	pod.Update = &InPlaceUpdate{Revisions: map[string]string{"other": "other-2"}, Restarts: map[string]int32{"proxy": 4}}
	after := PodPatch{Pod: pod, Sets: patch.Sets}
	if record := after.Record(noon); record.Restarts["proxy"] != 4 || record.Revisions["other"] != "other-2" {
		t.Errorf("another set's update is forgotten in the record %+v", record)
	}
}
