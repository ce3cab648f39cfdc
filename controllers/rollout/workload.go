// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// Deployment is what decisions need to know of a Deployment's own rollout.
type Deployment struct {
	// Observed is true when its controller has seen today's spec.
	Observed bool
	// Complete is true when its last rollout has come to its end, whatever happened to pods afterwards.
	Complete bool
	// Stuck is true when its rollout exceeded its own progress deadline.
	Stuck bool
	// Paused is true when its owner paused it.
	Paused bool
	// Replicas and ReadyReplicas count its pods, terminating ones excluded.
	Replicas, ReadyReplicas int32
}

// Pod is what decisions need to know of a pod.
type Pod struct {
	// Revisions are the pod's marks, by set.
	Revisions map[string]string
	// AvailableSince holds, for each running and ready container, since when.
	AvailableSince map[string]time.Time
}

// PodOf reads a pod.
func PodOf(pod *corev1.Pod, revisions map[string]string) Pod {
	result := Pod{Revisions: revisions, AvailableSince: map[string]time.Time{}}
	containersReady := conditionTime(pod, corev1.ContainersReady)
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range statuses {
			if status := &statuses[i]; status.Ready && status.State.Running != nil {
				// A container does not tell since when it is ready. All of them being ready is a later bound.
				result.AvailableSince[status.Name] = latest(status.State.Running.StartedAt.Time, containersReady)
			}
		}
	}
	return result
}

func conditionTime(pod *corev1.Pod, conditionType corev1.PodConditionType) time.Time {
	for i := range pod.Status.Conditions {
		if condition := &pod.Status.Conditions[i]; condition.Type == conditionType && condition.Status == corev1.ConditionTrue {
			return condition.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Problem is why a workload is not as declared, for one set.
type Problem struct {
	Reason, Message string
}

// degrades is false for the reasons that only say why a workload waits.
func (p *Problem) degrades() bool {
	waits := []string{v1alpha1.ReasonDisruptionBudget, v1alpha1.ReasonWorkloadRollingOut, v1alpha1.ReasonWorkloadPaused}
	return p != nil && !slices.Contains(waits, p.Reason)
}

// Summary is what a workload's controller saw of one set in it.
type Summary struct {
	// Target is the revision on the slip that was acted upon.
	Target string
	// Rendered is the revision that the template holds; empty when it holds none.
	Rendered string
	// Injected, Updated and Available count pods: with any revision of the set, with Target, and those whose sidecars are available.
	Injected, Updated, Available int32
	// Problem is nil when all is well.
	Problem *Problem
}

// Equal is true of summaries that say the same.
func (s Summary) Equal(other Summary) bool {
	a, b := s.Problem, other.Problem
	s.Problem, other.Problem = nil, nil
	return s == other && (a == b || (a != nil && b != nil && *a == *b))
}

// Assignment is what the workload's controller was told about one set.
type Assignment struct {
	Key             string
	Revision        string
	Sidecars        []string
	MinReadySeconds int32
}

// Summarize counts what became of an assignment in a workload. recheck is in how long a pod becomes available without any
// event; zero when none does.
func Summarize(assignment Assignment, rendered string, deployment Deployment, pods []Pod, problem *Problem, now time.Time) (summary Summary, recheck time.Duration) {
	summary = Summary{Target: assignment.Revision, Rendered: rendered, Problem: problem}
	for _, pod := range pods {
		revision, injected := pod.Revisions[assignment.Key]
		if !injected {
			continue
		}
		summary.Injected++
		if revision != assignment.Revision {
			continue
		}
		summary.Updated++
		remaining, running := assignment.untilAvailable(pod, now)
		switch {
		case running && remaining <= 0:
			summary.Available++
		case running && (recheck == 0 || remaining < recheck):
			recheck = remaining
		}
	}
	if problem == nil {
		summary.Problem = deploymentProblem(deployment)
	}
	return summary, recheck
}

// untilAvailable tells whether all sidecars of a pod run and are ready, and how long it takes until they are available.
func (a Assignment) untilAvailable(pod Pod, now time.Time) (remaining time.Duration, running bool) {
	for _, name := range a.Sidecars {
		since, ready := pod.AvailableSince[name]
		if !ready {
			return 0, false
		}
		remaining = max(remaining, since.Add(time.Duration(a.MinReadySeconds)*time.Second).Sub(now))
	}
	return remaining, true
}

func deploymentProblem(deployment Deployment) *Problem {
	switch {
	case deployment.Stuck:
		return &Problem{v1alpha1.ReasonWorkloadStuck, "its rollout exceeded the Deployment's progressDeadlineSeconds: look at the pods of its newest ReplicaSet"}
	case deployment.Paused && !deployment.Complete:
		return &Problem{v1alpha1.ReasonWorkloadPaused, "its owner paused the Deployment: pods follow the template when it is resumed"}
	}
	return nil
}

// Workload is one set's view of a Deployment.
type Workload struct {
	Namespace, Name string
	// Selected is true when the set selects it and it is not excluded.
	Selected bool
	// Slip is the revision that it was assigned; empty when none.
	Slip string
	// Carried is true when its template still holds something of the set.
	Carried bool
	Deployment
	// Summary is nil until the workload's controller has seen it.
	Summary *Summary
}

func (w *Workload) compare(other *Workload) int {
	return compareNames(w.Namespace, w.Name, other.Namespace, other.Name)
}

// current returns the summary if it speaks of the slip as it is, and an empty one otherwise.
func (w *Workload) current() Summary {
	if w.Summary == nil || w.Summary.Target != w.Slip {
		return Summary{}
	}
	return *w.Summary
}

// hasSettled is true when the template holds the revision, and every pod was born with it and was available at least once.
func (w *Workload) hasSettled(revision string) bool {
	summary := w.current()
	if summary.Rendered != revision || summary.Target != revision || !w.Observed {
		return false
	}
	if summary.Updated < w.Replicas || summary.Updated < summary.Injected {
		return false
	}
	return w.Complete || (!w.Paused && summary.Available >= w.Replicas)
}
