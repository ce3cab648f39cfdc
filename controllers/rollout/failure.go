// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

const (
	// failingFor is how long a container has to be unable to start before it has failed.
	failingFor = 3 * time.Second
	// StaleFor is the same for one that could not start before its update either: the kubelet's words may still be about the old image, for as
	// long as it pulls the new one.
	StaleFor = time.Minute
	// restartsToFail is how many restarts after its update make a container a failed one.
	restartsToFail = 3
	// othersFollow is how long all else in a pod has to become ready after a set's sidecars, and a pod to be created, started or taken up by its node,
	// before that is what a workload waits for. defaultDeadline is the same while a Deployment without a deadline of its own rolls out: what others
	// have by default (pkg/apis/apps/v1/defaults.go).
	othersFollow    = time.Minute
	defaultDeadline = 10 * time.Minute
	// stepFollows is how long it takes at most from when an updated pod is available until the next one is updated, if it may be: the controller of
	// PodDisruptionBudgets has to see that first.
	stepFollows = 10 * time.Second
	// recoversAfter is how long such a container has to be available to have recovered.
	recoversAfter = 30 * time.Second
)

// pullReasons are those of failingReasons that are about the image.
var pullReasons = []string{"ErrImagePull", "ImagePullBackOff", "InvalidImageName"}

// failureReasons are the reasons of problems that say that a revision has failed in a workload.
var failureReasons = []string{v1alpha1.ReasonImagePullFailed, v1alpha1.ReasonCrashLoop, v1alpha1.ReasonProgressDeadlineExceeded}

// IsFailure is true of a problem that says that the revision itself has failed in a workload.
func (p *Problem) IsFailure() bool { return p != nil && slices.Contains(failureReasons, p.Reason) }

// Failure is why the set's revision has failed in a workload, judged by the first pod, by name, that failed; nil when none has. What an
// application container does is not judged. recheck is in how long time alone may make a pod fail, or recover; zero when it does not.
func (s *SetUpdate) Failure(pods []Pod, deployment Deployment, now time.Time) (problem *Problem, recheck time.Duration) {
	first := ""
	for i := range pods {
		pod := &pods[i]
		if pod.Revisions[s.Key] != s.Revision || (pod.Update != nil && !pod.Observed) {
			continue // a kubelet that does not answer says nothing about a revision.
		}
		failure, wait := s.podFailure(pod, deployment, now)
		recheck = soonest(recheck, wait)
		if failure != nil && (first == "" || pod.Name < first) {
			problem, first = failure, pod.Name
		}
	}
	return problem, recheck
}

func (s *SetUpdate) podFailure(pod *Pod, deployment Deployment, now time.Time) (problem *Problem, recheck time.Duration) {
	for _, sidecars := range [][]corev1.Container{s.Inits, s.Sidecars} {
		for i := range sidecars {
			failure, wait := pod.containerFailure(sidecars[i].Name, now)
			if failure != nil {
				return failure, wait
			}
			recheck = soonest(recheck, wait)
		}
	}
	late, wait := s.lateness(pod, deployment, now)
	return late, soonest(recheck, wait)
}

// containerFailure judges a container by what the kubelet says of it, and by how often it was restarted.
func (p *Pod) containerFailure(name string, now time.Time) (problem *Problem, recheck time.Duration) {
	container := p.Containers[name]
	restarts, untilRecovered := p.restartsOf(name), p.untilRecovered(name, now)
	isCrashing := untilRecovered > 0
	if container.Failing != nil && !container.FailingSince.IsZero() {
		patience := failingFor
		if p.Update != nil && p.Update.Containers[name].Stopped {
			patience = StaleFor
		}
		if remaining := container.FailingSince.Add(patience).Sub(now); remaining > 0 && !isCrashing {
			return nil, remaining
		}
		reason := v1alpha1.ReasonCrashLoop
		if slices.Contains(pullReasons, container.Failing.Reason) {
			reason = v1alpha1.ReasonImagePullFailed
		}
		return &Problem{reason, fmt.Sprintf("container %q of pod %s with image %q waits in %s: %s",
			name, p.Name, container.Image, container.Failing.Reason, container.Failing.Message)}, 0
	}
	// The kubelet starts it again at once when it ended for the first time.
	if container.Ended != nil && restarts > 0 {
		if remaining := container.Ended.FinishedAt.Add(failingFor).Sub(now); remaining > 0 && !isCrashing {
			return nil, remaining
		}
		return &Problem{v1alpha1.ReasonCrashLoop, fmt.Sprintf("container %q of pod %s with image %q ends with exit code %d: look at its log",
			name, p.Name, container.Image, container.Ended.ExitCode)}, 0
	}
	if !isCrashing {
		return nil, 0
	}
	return &Problem{v1alpha1.ReasonCrashLoop, fmt.Sprintf("container %q of pod %s with image %q was restarted %d times: look at its log",
		name, p.Name, container.Image, restarts)}, untilRecovered
}

// restartsOf is how often a container was restarted since its update.
func (p *Pod) restartsOf(name string) int32 {
	if p.Update == nil {
		return p.Containers[name].Restarts
	}
	return p.Containers[name].Restarts - p.Update.Restarts[name]
}

// untilRecovered is for how long a container that goes on crashing has to be available still, until it does not any more; zero when it does not. It has
// failed all that time, whatever it does at the moment.
func (p *Pod) untilRecovered(name string, now time.Time) time.Duration {
	available := p.Containers[name].AvailableSince
	switch {
	case p.restartsOf(name) < restartsToFail:
		return 0
	case available.IsZero():
		return recoversAfter
	}
	return max(0, available.Add(recoversAfter).Sub(now))
}

// lateness judges a pod whose sidecars are not available in time: a pod that was updated in place by the set's deadline, one that came with the
// revision by that of its Deployment, if it has one, and unless something else is what fails in it.
func (s *SetUpdate) lateness(pod *Pod, deployment Deployment, now time.Time) (problem *Problem, recheck time.Duration) {
	if _, ready := s.untilAvailable(pod, now); ready {
		return nil, 0 // to wait for minReadySeconds is not to be late.
	}
	deadline := "the Deployment's progressDeadlineSeconds"
	isUpdated := pod.Update != nil && pod.Update.Revisions[s.Key] == s.Revision && s.ProgressDeadline > 0
	switch {
	case !isUpdated && s.failingOther(pod) != "":
		return nil, 0
	case isUpdated || deployment.Endless && s.ProgressDeadline > 0:
		since, counts := s.lateSince(pod)
		if !counts {
			return nil, 0
		}
		if remaining := since.Add(s.ProgressDeadline).Sub(now); remaining > 0 {
			return nil, remaining
		}
		deadline = "updateStrategy.progressDeadlineSeconds"
	case !deployment.Stuck:
		return nil, 0
	}
	return &Problem{v1alpha1.ReasonProgressDeadlineExceeded, fmt.Sprintf("container %q of pod %s is not available within %s: look at its readiness probe and its log",
		s.firstUnavailable(pod), pod.Name, deadline)}, 0
}

// lateSince is since when a pod has had time for the set's sidecars: from its update in place on, or from when it was ready last. An update has no
// part in that none of its containers can be started; a pod that had started none before, or was not updated, has time from when they run.
func (s *SetUpdate) lateSince(pod *Pod) (since time.Time, counts bool) {
	since = latest(pod.changedAt(), pod.UnreadySince)
	if pod.Update == nil || pod.Update.isBirth() {
		for i := range s.Sidecars {
			running := pod.Containers[s.Sidecars[i].Name].RunningSince
			if running.IsZero() {
				return since, false
			}
			since = latest(since, running)
		}
	}
	return since, pod.Stalled == (Stall{})
}

// firstUnavailable names the first sidecar of a pod that is not available, or the first one when all wait for minReadySeconds.
func (s *SetUpdate) firstUnavailable(pod *Pod) string {
	index := slices.IndexFunc(s.Sidecars, func(sidecar corev1.Container) bool { return pod.Containers[sidecar.Name].AvailableSince.IsZero() })
	if len(s.Sidecars) == 0 {
		return ""
	}
	return s.Sidecars[max(0, index)].Name
}
