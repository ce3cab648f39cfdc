// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
)

// Pod is what decisions need to know of a pod.
type Pod struct {
	Name string
	UID  types.UID
	// Version is the version that was observed.
	Version   string
	CreatedAt time.Time
	// Node is where it runs; empty until it is scheduled.
	Node string
	// Stalled is why none of its containers can be started; zero when they can.
	Stalled Stall
	// Revisions are the pod's marks, by set, and RevisionsMark is the annotation that says so.
	Revisions     map[string]string
	RevisionsMark string
	// Containers are its containers and init containers by name.
	Containers map[string]Container
	// ReadySince is when the pod became ready, zero while it is not, and UnreadySince since when some container of it is not ready, zero while all are.
	ReadySince, UnreadySince time.Time
	// Replaced is true when the Deployment's rollout is to replace it, because its ReplicaSet has another template. It may be gone already: nothing
	// is built on its being available.
	Replaced bool
	// Observed is true when the kubelet has seen the pod's spec as it is. It says so before it acts.
	Observed bool
	// Update is the last in-place update; nil when there was none.
	Update *InPlaceUpdate
	// Resized are the sets, by key, of which it may have the resources of another revision than it is marked with: an update gave it other resources,
	// and came to nothing before it marked it.
	Resized []string
}

// Container is what decisions need to know of a container in a pod.
type Container struct {
	// List and Index say where it stands in the pod's spec: "containers" or "initContainers".
	List  string
	Index int
	// Image and Resources are those of the pod's spec.
	Image     string
	Resources corev1.ResourceRequirements
	// ID is the runtime's name for the container; every start makes a new one. StatusList and StatusIndex say where it stands in the pod's status.
	ID          string
	StatusList  string
	StatusIndex int
	// RunningSince is since when it runs, and AvailableSince since when it is ready besides; zero while it does not.
	RunningSince, AvailableSince time.Time
	// Failing is why it can not be started, in the kubelet's words; nil when it can. FailingSince is when that was seen first, with this image.
	Failing      *Waiting
	FailingSince time.Time
	// Restarts counts how often it was started anew in this pod, whatever the cause.
	Restarts int32
	// Ended is how it ended that is to be started again; nil while it runs or waits. A kubelet that backs off from starting it tells that it waits
	// only when it next looks at the pod, which may be when the time is over.
	Ended *corev1.ContainerStateTerminated
}

// Waiting is what the kubelet says of a container that does not run.
type Waiting struct{ Reason, Message string }

// failingReasons are those for which a container waits that will not start by waiting (pkg/kubelet/images, pkg/kubelet/kuberuntime).
var failingReasons = []string{
	"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CrashLoopBackOff",
	"CreateContainerConfigError", "CreateContainerError", "RunContainerError",
}

// InPlaceUpdate is what a pod's annotation sidecarset.io/in-place records.
type InPlaceUpdate struct {
	// Revisions are those that this update and earlier ones brought, by set.
	Revisions map[string]string `json:"revisions"`
	StartedAt time.Time         `json:"startedAt"`
	// Containers are those that it restarts, as they were: they have restarted when they have other IDs.
	Containers map[string]StartedContainer `json:"containers"`
	// Restarts is how often each sidecar of these sets is started anew by the end of its update; what comes on top are crashes.
	Restarts map[string]int32 `json:"restarts,omitempty"`
	// Resized are those of the sets in Pod.Resized that it does not bring.
	Resized []string `json:"resized,omitempty"`
}

// Equal is true of records of the same update. There is none that equals nil.
func (u *InPlaceUpdate) Equal(other *InPlaceUpdate) bool {
	return other != nil && u.StartedAt.Equal(other.StartedAt) && maps.Equal(u.Revisions, other.Revisions) && maps.Equal(u.Containers, other.Containers)
}

// changedAt is when a pod was updated in place last, or else created.
func (p *Pod) changedAt() time.Time {
	if p.Update == nil {
		return p.CreatedAt
	}
	return p.Update.StartedAt
}

// isBirth is true of an update of a pod that had started none of these containers: it came into the world with what the update brought.
func (u *InPlaceUpdate) isBirth() bool {
	for _, before := range u.Containers {
		if before.ID != "" {
			return false
		}
	}
	return len(u.Containers) > 0
}

// StartedContainer is a container as it was before an in-place update.
type StartedContainer struct {
	ID string `json:"id"`
	// Stopped is true of one that did not run. The kubelet may have been about to start it from the older spec, and may go on to tell of its
	// old image while it pulls the new one.
	Stopped bool `json:"stopped,omitempty"`
}

// startsFromOlderSpec is for how long after an in-place update the kubelet may still start a container from the spec as it was: for as long as
// it takes to hear of the update, and to stop what it started.
const startsFromOlderSpec = 5 * time.Second

// startsAgain is how long a container that was stopped in order to restart is given to do so. Longer takes the pull of a large image.
const startsAgain = time.Minute

// ResizeSubresource is what resources of running pods are changed through.
const ResizeSubresource = "resize"

// PodReader reads pods that have most of their marks in common. Nobody may change the maps of what it returns.
type PodReader struct {
	revisions map[string]map[string]string // by the annotation that says so
}

// PodOf reads a pod.
func PodOf(pod *corev1.Pod) Pod { return (&PodReader{}).PodOf(pod) }

// PodOf reads a pod.
func (r *PodReader) PodOf(pod *corev1.Pod) Pod {
	result := Pod{
		Name: pod.Name, UID: pod.UID, Version: pod.ResourceVersion, CreatedAt: pod.CreationTimestamp.Time, Node: pod.Spec.NodeName,
		Revisions:     r.revisionsOf(pod.Annotations[v1alpha1.RevisionsAnnotation]),
		RevisionsMark: pod.Annotations[v1alpha1.RevisionsAnnotation],
		Containers:    map[string]Container{},
		ReadySince:    conditionTime(pod, corev1.PodReady, corev1.ConditionTrue),
		UnreadySince:  conditionTime(pod, corev1.ContainersReady, corev1.ConditionFalse),
		Observed:      pod.Status.ObservedGeneration >= pod.Generation,
		Stalled:       stallOf(pod),
	}
	result.readUpdates(pod)
	oneShot := map[string]bool{}
	for list, containers := range map[string][]corev1.Container{"initContainers": pod.Spec.InitContainers, "containers": pod.Spec.Containers} {
		for i := range containers {
			oneShot[containers[i].Name] = list == "initContainers" && containers[i].RestartPolicy == nil
			result.Containers[containers[i].Name] = Container{List: list, Index: i, Image: containers[i].Image, Resources: containers[i].Resources}
		}
	}
	containersReady := conditionTime(pod, corev1.ContainersReady, corev1.ConditionTrue)
	for list, statuses := range map[string][]corev1.ContainerStatus{
		"initContainerStatuses": pod.Status.InitContainerStatuses, "containerStatuses": pod.Status.ContainerStatuses,
	} {
		for i := range statuses {
			status := &statuses[i]
			container := result.Containers[status.Name]
			container.ID, container.StatusList, container.StatusIndex = status.ContainerID, list, i
			container.Restarts = status.RestartCount
			if waiting := status.State.Waiting; waiting != nil && slices.Contains(failingReasons, waiting.Reason) {
				container.Failing = &Waiting{Reason: waiting.Reason, Message: waiting.Message}
			}
			if ended := status.State.Terminated; ended != nil && (ended.ExitCode != 0 || !oneShot[status.Name]) {
				container.Ended = ended
			}
			if status.State.Running != nil {
				container.RunningSince = status.State.Running.StartedAt.Time
			}
			if status.Ready && status.State.Running != nil {
				// A container does not tell since when it is ready. All of them being ready is a later bound.
				container.AvailableSince = latest(container.RunningSince, containersReady)
			}
			result.Containers[status.Name] = container
		}
	}
	return result
}

// readUpdates reads what updates in place left in a pod.
func (p *Pod) readUpdates(pod *corev1.Pod) {
	if record := (&InPlaceUpdate{}); json.Unmarshal([]byte(pod.Annotations[v1alpha1.InPlaceAnnotation]), record) == nil {
		p.Update, p.Resized = record, record.Resized
	}
	if isResizedSinceMarked(pod) {
		p.Resized = slices.Sorted(maps.Keys(p.Revisions))
	}
}

// isResizedSinceMarked is true when we resized a pod after we last wrote to it otherwise, as its managed fields tell it: in whole seconds, so that
// this may miss a resize that followed an update at once.
func isResizedSinceMarked(pod *corev1.Pod) bool {
	var resized, marked time.Time
	for i := range pod.ManagedFields {
		entry := &pod.ManagedFields[i]
		switch {
		case entry.Manager != v1alpha1.FieldManager || entry.Time == nil:
		case entry.Subresource == ResizeSubresource:
			resized = entry.Time.Time
		case entry.Subresource == "":
			marked = entry.Time.Time
		}
	}
	return resized.After(marked)
}

func (r *PodReader) revisionsOf(mark string) map[string]string {
	revisions, ok := r.revisions[mark]
	if !ok {
		if r.revisions == nil {
			r.revisions = map[string]map[string]string{}
		}
		revisions = injection.Revisions(mark)
		r.revisions[mark] = revisions
	}
	return revisions
}

func conditionTime(pod *corev1.Pod, conditionType corev1.PodConditionType, status corev1.ConditionStatus) time.Time {
	for i := range pod.Status.Conditions {
		if condition := &pod.Status.Conditions[i]; condition.Type == conditionType && condition.Status == status {
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

// isRestarting is true from an in-place update on until the kubelet has started each container anew whose image changed. The pod's status
// may say that it is ready meanwhile: the kubelet reports a generation as observed before it acts on it.
func (p *Pod) isRestarting(now time.Time) bool {
	if p.Update == nil {
		return false
	}
	if !p.Observed {
		return true
	}
	for name, before := range p.Update.Containers {
		if id := p.Containers[name].ID; id == "" || id == before.ID {
			return true
		}
	}
	return p.untilCertain(now) > 0
}

// untilCertain is for how long it can not be told what a container was started from that did not run when its image was changed.
func (p *Pod) untilCertain(now time.Time) time.Duration {
	if p.Update == nil {
		return 0
	}
	for _, before := range p.Update.Containers {
		if before.Stopped {
			return max(0, p.Update.StartedAt.Add(startsFromOlderSpec).Sub(now))
		}
	}
	return 0
}

// untilUpdatable tells whether a pod may be updated, and when it may not be, after how long it may without any event. From an in-place update on,
// it may not be until the kubelet has seen that update and started anew what was to restart: it may be about to start that from the spec
// of this update, and what it starts could not be told from what the next one asks for. A container that can not be started does not
// keep its pod from the update that puts it right; nor does one that nobody starts, because another one has to be put right first.
func (p *Pod) untilUpdatable(now time.Time) (wait time.Duration, updatable bool) {
	if p.Update == nil {
		return 0, true
	}
	if !p.Observed {
		return 0, false
	}
	for name, before := range p.Update.Containers {
		container := p.Containers[name]
		switch {
		case container.ID != before.ID || before.Stopped || container.Failing != nil:
		case !container.RunningSince.IsZero():
			return 0, false
		default:
			wait = max(wait, p.Update.StartedAt.Add(startsAgain).Sub(now))
		}
	}
	wait = max(wait, p.untilCertain(now))
	return wait, wait <= 0
}

// isReady is false of a pod that is about to restart.
func (p *Pod) isReady(now time.Time) bool { return !p.ReadySince.IsZero() && !p.isRestarting(now) }

// untilAvailable is how long a ready pod has to stay so to be available; ready is false of one that is not ready, or about to restart.
func (p *Pod) untilAvailable(minReadySeconds int32, now time.Time) (remaining time.Duration, ready bool) {
	if !p.isReady(now) {
		return 0, false
	}
	return p.ReadySince.Add(time.Duration(minReadySeconds) * time.Second).Sub(now), true
}

func (p *Pod) isAvailable(minReadySeconds int32, now time.Time) bool {
	remaining, ready := p.untilAvailable(minReadySeconds, now)
	return ready && remaining <= 0
}
