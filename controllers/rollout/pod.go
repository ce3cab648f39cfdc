// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"encoding/json"
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
	// Revisions are the pod's marks, by set, and RevisionsMark is the annotation that says so.
	Revisions     map[string]string
	RevisionsMark string
	// Containers are its containers and init containers by name.
	Containers map[string]Container
	// ReadySince is when the pod became ready; zero while it is not.
	ReadySince time.Time
	// Observed is true when the kubelet has seen the pod's spec as it is. It says so before it acts.
	Observed bool
	// Update is the last in-place update; nil when there was none.
	Update *InPlaceUpdate
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
	// AvailableSince is since when it runs and is ready; zero while it is not.
	AvailableSince time.Time
	// Failing is true while it can not be started.
	Failing bool
}

// failingReasons are those for which a container waits that will not start by waiting (pkg/kubelet/images, pkg/kubelet/kuberuntime).
var failingReasons = []string{
	"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CrashLoopBackOff",
	"CreateContainerConfigError", "CreateContainerError", "RunContainerError",
}

// InPlaceUpdate is what a pod's annotation sidecarset.io/in-place records.
type InPlaceUpdate struct {
	// Revisions are those that the update brought, by set.
	Revisions map[string]string `json:"revisions"`
	StartedAt time.Time         `json:"startedAt"`
	// Containers are those that it restarts: they have restarted when they have other IDs than these.
	Containers map[string]StartedContainer `json:"containers"`
}

// StartedContainer is a container as it ran before an in-place update.
type StartedContainer struct {
	ID    string `json:"id"`
	Image string `json:"image"`
}

// PodOf reads a pod.
func PodOf(pod *corev1.Pod) Pod {
	result := Pod{
		Name: pod.Name, UID: pod.UID, Version: pod.ResourceVersion, CreatedAt: pod.CreationTimestamp.Time,
		Revisions:     injection.Revisions(pod.Annotations[v1alpha1.RevisionsAnnotation]),
		RevisionsMark: pod.Annotations[v1alpha1.RevisionsAnnotation],
		Containers:    map[string]Container{},
		ReadySince:    conditionTime(pod, corev1.PodReady),
		Observed:      pod.Status.ObservedGeneration >= pod.Generation,
	}
	if record := (&InPlaceUpdate{}); json.Unmarshal([]byte(pod.Annotations[v1alpha1.InPlaceAnnotation]), record) == nil {
		result.Update = record
	}
	for list, containers := range map[string][]corev1.Container{"initContainers": pod.Spec.InitContainers, "containers": pod.Spec.Containers} {
		for i := range containers {
			result.Containers[containers[i].Name] = Container{List: list, Index: i, Image: containers[i].Image, Resources: containers[i].Resources}
		}
	}
	containersReady := conditionTime(pod, corev1.ContainersReady)
	for list, statuses := range map[string][]corev1.ContainerStatus{
		"initContainerStatuses": pod.Status.InitContainerStatuses, "containerStatuses": pod.Status.ContainerStatuses,
	} {
		for i := range statuses {
			status := &statuses[i]
			container := result.Containers[status.Name]
			container.ID, container.StatusList, container.StatusIndex = status.ContainerID, list, i
			container.Failing = status.State.Waiting != nil && slices.Contains(failingReasons, status.State.Waiting.Reason)
			if status.Ready && status.State.Running != nil {
				// A container does not tell since when it is ready. All of them being ready is a later bound.
				container.AvailableSince = latest(status.State.Running.StartedAt.Time, containersReady)
			}
			result.Containers[status.Name] = container
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

// restarts returns the containers that new images restart, as they are. A container that an earlier update was to restart and that still
// runs as before does not restart when it gets its image back.
func (p *Pod) restarts(images map[string]string) map[string]StartedContainer {
	result := map[string]StartedContainer{}
	for name, image := range images {
		container := p.Containers[name]
		running := StartedContainer{ID: container.ID, Image: container.Image}
		if p.Update != nil {
			if before, pending := p.Update.Containers[name]; pending && before.ID == container.ID {
				running.Image = before.Image
			}
		}
		if running.Image != image {
			result[name] = running
		}
	}
	return result
}

// isRestarting is true from an in-place update on until the kubelet has started each container anew whose image changed. The pod's status
// may say that it is ready meanwhile: the kubelet reports a generation as observed before it acts on it.
func (p *Pod) isRestarting() bool {
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
	return false
}

// isReady is false of a pod that is about to restart.
func (p *Pod) isReady() bool { return !p.ReadySince.IsZero() && !p.isRestarting() }

// untilAvailable is how long a ready pod has to stay so to be available; ready is false of one that is not ready, or about to restart.
func (p *Pod) untilAvailable(minReadySeconds int32, now time.Time) (remaining time.Duration, ready bool) {
	if !p.isReady() {
		return 0, false
	}
	return p.ReadySince.Add(time.Duration(minReadySeconds) * time.Second).Sub(now), true
}

// isSettledWithKubelet is false from an in-place update on until the kubelet has seen it. Another one in that time could not tell which container
// it finds: the kubelet may still start one from the older spec.
func (p *Pod) isSettledWithKubelet() bool { return p.Update == nil || p.Observed }

func (p *Pod) isAvailable(minReadySeconds int32, now time.Time) bool {
	remaining, ready := p.untilAvailable(minReadySeconds, now)
	return ready && remaining <= 0
}
