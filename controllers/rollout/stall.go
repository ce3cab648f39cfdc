// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// Stall is why there are no containers of a pod that ought to be there, and since when. Its zero value is none.
type Stall struct {
	Message string
	Since   time.Time
}

// stallOf reads why no container of a pod can be started: it has no node, or has no sandbox there, for want of a volume or a network, say. The image of
// a container has no part in that: it is pulled into the sandbox.
func stallOf(pod *corev1.Pod) (stall Stall) {
	for i := range pod.Status.Conditions {
		switch condition := &pod.Status.Conditions[i]; {
		case condition.Status != corev1.ConditionFalse:
		case condition.Type == corev1.PodScheduled:
			return Stall{fmt.Sprintf("pod %s has no node: %s", pod.Name, condition.Message), condition.LastTransitionTime.Time}
		case condition.Type == corev1.PodReadyToStartContainers:
			stall = Stall{fmt.Sprintf("node %s can not start pod %s: look at its events", pod.Spec.NodeName, pod.Name), condition.LastTransitionTime.Time}
		}
	}
	return stall
}

// stall is why none of a pod's containers can be started, or none be started anew. A kubelet may have taken up an update and not something that came later.
func (p *Pod) stall() Stall {
	if p.Stalled != (Stall{}) || p.Update == nil || p.Observed {
		return p.Stalled
	}
	for name, before := range p.Update.Containers {
		if p.Containers[name].ID == before.ID {
			message := fmt.Sprintf("node %s has not taken up the update of pod %s", p.Node, p.Name)
			if p.Node == "" { // and no scheduler said why
				message = fmt.Sprintf("pod %s has no node", p.Name)
			}
			return Stall{message, p.Update.StartedAt}
		}
	}
	return Stall{}
}

// problem is that of a workload with such a stall, after so much patience, and recheck is in how long it is one; both are zero without a stall.
func (s Stall) problem(patience time.Duration, now time.Time) (problem *Problem, recheck time.Duration) {
	if s == (Stall{}) || patience == 0 {
		return nil, 0
	}
	if remaining := s.Since.Add(patience).Sub(now); remaining > 0 {
		return nil, remaining
	}
	return stuck(s.Message), 0
}

func stuck(message string) *Problem {
	return &Problem{v1alpha1.ReasonWorkloadStuck, message + ": the workload goes on when that is over"}
}

// patience is how long a workload waits for what is not its sets' before it is stuck; zero while its Deployment's own deadline tells that.
func (d *Deployment) patience() time.Duration {
	switch {
	case d.Complete || d.Paused:
		return othersFollow
	case d.Endless:
		return defaultDeadline
	}
	return 0
}

// StuckProblem is why a workload comes no further with a set for reasons that are not the set's: pods of it are not created, started or updated, a
// container of something else can not be started, or a pod is not ready although the set's sidecars in it are available. It is nil while another pod
// is getting its update. all are the sets of the workload. recheck is in how long time alone may change that.
func (s *SetUpdate) StuckProblem(all []SetUpdate, pods []Pod, deployment Deployment, now time.Time) (problem *Problem, recheck time.Duration) {
	patience := deployment.patience()
	problem, recheck = deployment.Stalled.problem(patience, now)
	for _, pod := range byName(pods) {
		if pod.Replaced {
			continue
		}
		ofPod, untilStuck := s.stuckPod(all, pod, patience, now)
		recheck = soonest(recheck, untilStuck)
		if wait, isUnderWay := s.isUnderWay(pod, now); ofPod == nil && isUnderWay {
			return nil, soonest(recheck, wait)
		}
		if problem == nil {
			problem = ofPod
		}
	}
	return problem, recheck
}

func byName(pods []Pod) []*Pod {
	sorted := make([]*Pod, 0, len(pods))
	for i := range pods {
		sorted = append(sorted, &pods[i])
	}
	slices.SortFunc(sorted, func(a, b *Pod) int { return strings.Compare(a.Name, b.Name) })
	return sorted
}

// isUnderWay is true of a pod that was updated in place to the set's revision, until its sidecars are available, or late, and what follows from that has
// had its time. wait is how long time alone takes to end it.
func (s *SetUpdate) isUnderWay(pod *Pod, now time.Time) (wait time.Duration, isUnderWay bool) {
	if !s.isUpdateOf(pod) {
		return 0, false
	}
	if remaining, ready := s.untilAvailable(pod, now); ready {
		wait = max(remaining, s.availableSince(pod).Add(stepFollows).Sub(now))
		return max(0, wait), wait > 0
	}
	since, counts := s.lateSince(pod)
	wait = since.Add(s.ProgressDeadline).Sub(now)
	return max(0, wait), counts && wait > 0
}

// stuckPod is why a pod keeps its workload from getting on with the set, for reasons that are not the set's.
func (s *SetUpdate) stuckPod(all []SetUpdate, pod *Pod, patience time.Duration, now time.Time) (problem *Problem, recheck time.Duration) {
	if container := s.failingOther(pod); container != "" {
		return stuck(fmt.Sprintf("container %q of pod %s, which is not the set's, can not be started", container, pod.Name)), 0
	}
	stall := pod.stall()
	remaining, available := s.untilAvailable(pod, now)
	switch {
	case stall != (Stall{}):
	case available && remaining > 0:
		return nil, remaining
	case available && pod.ReadySince.IsZero():
		for i := range all {
			if wait, isUnderWay := all[i].isUnderWay(pod, now); isUnderWay {
				return nil, wait
			}
		}
		stall = Stall{fmt.Sprintf("pod %s is not ready, although the set's sidecars in it are available", pod.Name), latest(s.availableSince(pod), pod.UnreadySince)}
	case patience > 0 && s.awaitsStart(pod):
		stall = Stall{fmt.Sprintf("sidecars of pod %s have not been started, perhaps because of its init containers", pod.Name), pod.changedAt()}
		patience = max(patience, s.ProgressDeadline)
	}
	return stall.problem(patience, now)
}

// awaitsStart is true of a pod that is to have the set's revision, and in which some sidecar has never been started though nothing is wrong with it.
func (s *SetUpdate) awaitsStart(pod *Pod) bool {
	return pod.Revisions[s.Key] == s.Revision && slices.ContainsFunc(s.Sidecars, func(sidecar corev1.Container) bool {
		container := pod.Containers[sidecar.Name]
		return container.ID == "" && container.Failing == nil
	})
}

// availableSince is since when the set's sidecars are available in a pod.
func (s *SetUpdate) availableSince(pod *Pod) (since time.Time) {
	for i := range s.Sidecars {
		since = latest(since, pod.Containers[s.Sidecars[i].Name].AvailableSince)
	}
	return since
}

// failingOther names the first container of a pod, by name, that can not be started and is not of the set; empty when there is none.
func (s *SetUpdate) failingOther(pod *Pod) string {
	first := ""
	for name, container := range pod.Containers {
		if container.Failing == nil || (first != "" && first < name) {
			continue
		}
		if !slices.ContainsFunc(slices.Concat(s.Inits, s.Sidecars), func(sidecar corev1.Container) bool { return sidecar.Name == name }) {
			first = name
		}
	}
	return first
}
