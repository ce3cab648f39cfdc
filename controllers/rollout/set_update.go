// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// SetUpdate is one set's part of a PodUpdate.
type SetUpdate struct {
	Key, Revision string
	// Sidecars are the containers and native sidecars of the revision, Inits its other init containers.
	Sidecars []corev1.Container
	Inits    []corev1.Container
	// Declared are the resources that the pod template asks for, by sidecar. What neither it nor the revision asks for is left in a pod: it came with
	// another revision, or with an admission of the cluster's (a vertical autoscaler, say), and the API server lets nobody take it out again.
	Declared       map[string]corev1.ResourceRequirements
	MaxUnavailable *intstr.IntOrString
	// Partition is nil of what is to come to all pods, and of what the pod template has: pods are born with it. Kept is what pods go back to that
	// it keeps, and that fail with something else; nil when there is no such thing.
	Partition *intstr.IntOrString
	Kept      *SetUpdate
	// AwaitsTurn is true while nothing more goes on in the workload than what is at rest, though the partition would let it: it is others' turn.
	AwaitsTurn bool
	// OfFailed is true of what only pods are to get in which another revision failed.
	OfFailed        bool
	MinReadySeconds int32
	// Unproven is true of a revision that has not reached every workload of the set before.
	Unproven bool
	// PrePull is true when its images have to be on a node before a pod there is updated.
	PrePull bool
	// ProgressDeadline is how long a pod that was updated in place has to become available.
	ProgressDeadline time.Duration
}

// resources are what a set brings to a pod, by container, of those that change.
func (s *SetUpdate) resources(pod *Pod) map[string]corev1.ResourceRequirements {
	resources := map[string]corev1.ResourceRequirements{}
	for _, sidecar := range s.Sidecars {
		live, declared, wanted := pod.Containers[sidecar.Name].Resources, withDefaultRequests(s.Declared[sidecar.Name]), withDefaultRequests(sidecar.Resources)
		wanted.Requests = leave(wanted.Requests, live.Requests, declared.Requests)
		wanted.Limits = leave(wanted.Limits, live.Limits, declared.Limits)
		if !equality.Semantic.DeepEqual(live, wanted) {
			resources[sidecar.Name] = wanted
		}
	}
	return resources
}

// leave adds to what is wanted what is live and nobody declared.
func leave(wanted, live, declared corev1.ResourceList) corev1.ResourceList {
	for name, quantity := range live {
		_, isWanted := wanted[name]
		if _, isDeclared := declared[name]; isWanted || isDeclared {
			continue
		}
		if wanted == nil {
			wanted = corev1.ResourceList{}
		}
		wanted[name] = quantity
	}
	return wanted
}

// withDefaultRequests requests what is limited and not requested, as the API server does (pkg/apis/core/v1/defaults.go, SetDefaults_Pod).
func withDefaultRequests(resources corev1.ResourceRequirements) corev1.ResourceRequirements {
	result := *resources.DeepCopy()
	for name, quantity := range result.Limits {
		if _, requested := result.Requests[name]; requested {
			continue
		}
		if result.Requests == nil {
			result.Requests = corev1.ResourceList{}
		}
		result.Requests[name] = quantity
	}
	return result
}

// provesItself is for how long a sidecar has to run and be ready, in one pod of a workload, before its revision is brought to more of them. One
// without a readiness probe is ready as soon as it runs, and a kubelet takes a second or two to see that it has crashed, restarts it at once,
// and takes its time from the next crash on (pkg/kubelet/pleg, pkg/kubelet/kuberuntime).
const provesItself = 5 * time.Second

// isLacked is true when a pod is to be brought to the set's revision, unless a partition keeps it.
func (s *SetUpdate) isLacked(pod *Pod, now time.Time) bool {
	if !s.OfFailed || s.hasRevision(pod) {
		return !s.isCurrent(pod)
	}
	failure, _ := s.failureOfAnother(pod, now)
	return failure != nil
}

// untilLacked is in how long time alone may make a pod fail with another revision, after which it would lack this one.
func (s *SetUpdate) untilLacked(pod *Pod, now time.Time) time.Duration {
	if s.Kept != nil {
		s = s.Kept
	}
	if !s.OfFailed {
		return 0
	}
	_, recheck := s.failureOfAnother(pod, now)
	return recheck
}

// failureOfAnother is why the revision has failed that a pod has of the set.
func (s *SetUpdate) failureOfAnother(pod *Pod, now time.Time) (problem *Problem, recheck time.Duration) {
	another := *s
	another.Revision = pod.Revisions[s.Key]
	return another.Failure([]Pod{*pod}, Deployment{}, now)
}

// IsBehind is true when some pod is to be brought to the set's revision, unless a partition keeps it.
func (s *SetUpdate) IsBehind(pods []Pod, now time.Time) bool {
	return slices.ContainsFunc(pods, func(pod Pod) bool { return s.isLacked(&pod, now) })
}

// hasRevision is true when a pod says that it is at the set's revision, and its images are the revision's.
func (s *SetUpdate) hasRevision(pod *Pod) bool {
	if pod.Revisions[s.Key] != s.Revision {
		return false
	}
	return !slices.ContainsFunc(s.Sidecars, func(sidecar corev1.Container) bool { return pod.Containers[sidecar.Name].Image != sidecar.Image })
}

// isCurrent is true of a pod that has the set's revision. Its resources are not looked at, because something like a vertical autoscaler may own
// them, but for those that an update left which came to nothing.
func (s *SetUpdate) isCurrent(pod *Pod) bool { return s.hasRevision(pod) && !s.isResized(pod) }

// isResized is true of a pod with other resources than the set's, which an update left that came to nothing.
func (s *SetUpdate) isResized(pod *Pod) bool {
	return slices.Contains(pod.Resized, s.Key) && len(s.resources(pod)) > 0
}

// availableAfter is for how long a sidecar has to run and be ready to be available.
func (s *SetUpdate) availableAfter() time.Duration {
	minReady := time.Duration(s.MinReadySeconds) * time.Second
	if s.Unproven {
		return max(minReady, provesItself)
	}
	return minReady
}

// untilAvailable tells whether the set's sidecars in a pod that is current run and are ready, and how long it takes until they have been so for
// long enough.
func (s *SetUpdate) untilAvailable(pod *Pod, now time.Time) (remaining time.Duration, ready bool) {
	if pod.isRestarting(now) {
		return pod.untilCertain(now), false
	}
	for i := range s.Sidecars {
		since := pod.Containers[s.Sidecars[i].Name].AvailableSince
		if since.IsZero() {
			return 0, false
		}
		remaining = max(remaining, since.Add(s.availableAfter()).Sub(now))
	}
	return remaining, true
}

// isProvenBy is true when a pod shows that the revision's sidecars do not crash as soon as they run.
func (s *SetUpdate) isProvenBy(pod *Pod, now time.Time) bool {
	remaining, ready := s.untilAvailable(pod, now)
	return s.isCurrent(pod) && ready && remaining <= 0
}

// isUpdateOf is true of a pod that was updated in place to the set's revision.
func (s *SetUpdate) isUpdateOf(pod *Pod) bool {
	return pod.Update != nil && pod.Update.Revisions[s.Key] == s.Revision && s.isCurrent(pod)
}
