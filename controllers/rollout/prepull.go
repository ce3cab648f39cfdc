// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

const (
	// maxPulls is on how many nodes at most a workload has images pulled, or kept for its pods, at the same time.
	maxPulls = 5
	// PullDeadline is after how long a pull is given up, and begun anew if it is still wanted. Kubelets try again by themselves meanwhile.
	PullDeadline = 30 * time.Minute
	// pullRetry is after how long a pull is begun anew that a kubelet did not take on.
	pullRetry = time.Minute
	// pullPatience is after how long people are told of a pull that has not come to an end.
	pullPatience = 5 * time.Minute
)

// Pull is a pod that is there to have a node pull images before an update needs them: the kubelet stops a container first and pulls its new image
// then. The pod runs nothing; while it exists, it also says that the images are there.
type Pull struct {
	// Name and UID are those of a pod that exists.
	Name string
	UID  types.UID
	Node string
	// Images are what it pulls, by sidecar.
	Images    map[string]PullImage
	CreatedAt time.Time
	// Pulled is true when all images are on the node.
	Pulled bool
	// Failures are the kubelet's words on images that it can not pull, by sidecar.
	Failures map[string]string
	// Rejected is why the node did not take the pod on; empty when it did.
	Rejected string
	// Terminating is true of a pod that somebody deletes.
	Terminating bool
	// late is true of a pull that has not come to an end in good time.
	late bool
}

// PullImage is an image, and when the node is to ask a registry for it.
type PullImage struct {
	Image  string
	Policy corev1.PullPolicy
}

// PrePullStep is what to do about images ahead of the pods' updates.
type PrePullStep struct {
	// Delete comes before Create: one may replace another on its node.
	Delete, Create []Pull
	// Kept are the pulls that go on, or whose images are still waited for, by node.
	Kept []Pull
	// Recheck is after how long time alone changes something; zero when it does not.
	Recheck time.Duration
}

// pullFailures are the reasons for which a container waits whose image can not be pulled (pkg/kubelet/images/types.go).
var pullFailures = []string{
	"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed",
}

// afterPull are the reasons for which a container waits whose image is there (pkg/kubelet/kuberuntime).
var afterPull = []string{"CreateContainerConfigError", "CreateContainerError", "PreCreateHookError", "PreStartHookError", "RunContainerError", "CrashLoopBackOff"}

// PullOf reads a pre-pull pod. Its mark names our containers: an admission may have put others into it.
func PullOf(pod *corev1.Pod) Pull {
	ours := strings.Split(pod.Annotations[v1alpha1.ContainersAnnotation], ",")
	pull := Pull{
		Name: pod.Name, UID: pod.UID, Node: pod.Spec.NodeName, CreatedAt: pod.CreationTimestamp.Time, Terminating: !pod.DeletionTimestamp.IsZero(),
		Images: map[string]PullImage{}, Failures: map[string]string{}, Pulled: true,
	}
	for i := range pod.Spec.Containers {
		container := &pod.Spec.Containers[i]
		if !slices.Contains(ours, container.Name) {
			continue
		}
		pull.Images[container.Name] = PullImage{container.Image, container.ImagePullPolicy}
		index := slices.IndexFunc(pod.Status.ContainerStatuses, func(status corev1.ContainerStatus) bool { return status.Name == container.Name })
		if index < 0 {
			pull.Pulled = false
			continue
		}
		status := &pod.Status.ContainerStatuses[index]
		waiting := cmp.Or(status.State.Waiting, &corev1.ContainerStateWaiting{})
		if slices.Contains(pullFailures, waiting.Reason) {
			pull.Failures[container.Name] = kubeletWords(waiting)
		}
		pull.Pulled = pull.Pulled && (status.ImageID != "" || slices.Contains(afterPull, waiting.Reason))
	}
	if ended := pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded; ended && !pull.Pulled {
		pull.Rejected = strings.Trim(pod.Status.Reason+": "+pod.Status.Message, ": ")
	}
	return pull
}

// kubeletWords are what a kubelet says of a pull that failed. It says the same differently while it waits for its next try; the words are
// to be the same.
func kubeletWords(waiting *corev1.ContainerStateWaiting) string {
	_, cause, _ := strings.Cut(waiting.Message, "ErrImagePull: ")
	return cmp.Or(cause, waiting.Message, waiting.Reason)
}

// pulls finds out, pod by pod in the order of their updates, which images have to be on which nodes.
type pulls struct {
	now      time.Time
	existing []Pull
	wanted   map[string]map[string]PullImage
	// order has the nodes of wanted in the order of their pods.
	order []string
}

// admits takes down what an update needs, and is true when it is on the pod's node.
func (p *pulls) admits(patch *PodPatch) bool {
	images := patch.imagesToPull()
	if len(images) == 0 {
		return true
	}
	node := patch.Pod.Node
	if p.wanted[node] == nil {
		p.wanted[node] = map[string]PullImage{}
		p.order = append(p.order, node)
	}
	maps.Copy(p.wanted[node], images)
	return slices.ContainsFunc(p.existing, func(pull Pull) bool {
		return pull.Node == node && pull.Pulled && !pull.Terminating && pull.covers(images)
	})
}

// imagesToPull are the images that an update brings to a container that has something to lose: it runs, or may.
func (p *PodPatch) imagesToPull() map[string]PullImage {
	images := map[string]PullImage{}
	if p.Pod.Node == "" {
		return images
	}
	for i := range p.Sets {
		if !p.Sets[i].PrePull {
			continue
		}
		for _, sidecar := range p.Sets[i].Sidecars {
			if container := p.Pod.Containers[sidecar.Name]; container.Image != sidecar.Image && container.Failing == nil {
				images[sidecar.Name] = PullImage{sidecar.Image, sidecar.ImagePullPolicy}
			}
		}
	}
	return images
}

// covers is true of a pull that has all these images. The API server fills policies in, and a policy alone brings no image.
func (p *Pull) covers(images map[string]PullImage) bool {
	for name, wanted := range images {
		if p.Images[name].Image != wanted.Image {
			return false
		}
	}
	return true
}

// step keeps the pulls that are wanted and good for something, deletes all others, and begins as many as there may be.
func (p *pulls) step() PrePullStep {
	var step PrePullStep
	byNode := slices.SortedFunc(slices.Values(p.existing), func(a, b Pull) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), strings.Compare(a.Name, b.Name))
	})
	for i := range byNode {
		pull := &byNode[i]
		wanted, isWanted := p.wanted[pull.Node]
		remaining := pull.deadline().Sub(p.now)
		if !isWanted || remaining <= 0 || pull.Terminating || !pull.covers(wanted) || step.keeps(pull.Node) {
			step.Delete = append(step.Delete, *pull)
			continue
		}
		patience := pull.CreatedAt.Add(pullPatience).Sub(p.now)
		pull.late = !pull.Pulled && patience <= 0
		step.Kept = append(step.Kept, *pull)
		step.Recheck = soonest(step.Recheck, remaining, patience)
	}
	for _, node := range p.order {
		if len(step.Kept)+len(step.Create) >= maxPulls {
			break
		}
		if !step.keeps(node) {
			step.Create = append(step.Create, Pull{Node: node, Images: p.wanted[node]})
		}
	}
	return step
}

// deadline is when a pull has to be begun anew.
func (p *Pull) deadline() time.Time {
	if p.Rejected != "" {
		return p.CreatedAt.Add(pullRetry)
	}
	return p.CreatedAt.Add(PullDeadline)
}

// IsUnderWay is true while images are being pulled, and nothing is wrong with that.
func (s *PrePullStep) IsUnderWay() bool {
	return len(s.Create) > 0 || slices.ContainsFunc(s.Kept, func(pull Pull) bool {
		return !pull.Pulled && !pull.late && pull.Rejected == "" && len(pull.Failures) == 0
	})
}

func (s *PrePullStep) keeps(node string) bool {
	return slices.ContainsFunc(s.Kept, func(pull Pull) bool { return pull.Node == node })
}

// Problem is why a set's pods wait for images; nil when there is no cause to worry. An image that can not be pulled goes before a node that does
// not get on.
func (s *PrePullStep) Problem(set *SetUpdate) *Problem {
	var failing, late []Pull
	for _, pull := range s.Kept {
		switch {
		case !set.PrePull || pull.Pulled:
		case pull.failedSidecar(set) != "":
			failing = append(failing, pull)
		case pull.Rejected != "" || pull.late:
			late = append(late, pull)
		}
	}
	switch {
	case len(failing) > 0:
		sidecar := failing[0].failedSidecar(set)
		return &Problem{v1alpha1.ReasonImagePullFailed, fmt.Sprintf(
			"node %s%s can not pull image %q of container %q ahead, so the pods there keep the sidecar that they have; correct the image or its pull secrets: %s",
			failing[0].Node, andMore(failing), failing[0].Images[sidecar].Image, sidecar, failing[0].Failures[sidecar])}
	case len(late) > 0:
		return &Problem{v1alpha1.ReasonPrePullWaiting, fmt.Sprintf(
			"node %s%s has not pulled the new images ahead, so the pods there are not updated: %s",
			late[0].Node, andMore(late), cmp.Or(late[0].Rejected, fmt.Sprintf("nothing is heard of it for more than %v; look at pod %s", pullPatience, late[0].Name)))}
	}
	return nil
}

// failedSidecar is the first of a set's sidecars, by name, whose image a node can not pull; empty when there is none.
func (p *Pull) failedSidecar(set *SetUpdate) string {
	for _, name := range slices.Sorted(maps.Keys(p.Failures)) {
		if slices.ContainsFunc(set.Sidecars, func(sidecar corev1.Container) bool { return sidecar.Name == name }) {
			return name
		}
	}
	return ""
}

// andMore tells of the pulls besides the first one.
func andMore(pulls []Pull) string {
	if len(pulls) == 1 {
		return ""
	}
	return fmt.Sprintf(" (and %d more)", len(pulls)-1)
}
