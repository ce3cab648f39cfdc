// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package localcluster_test

import (
	"fmt"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

// The simulated kubelet does what a real one was seen to do with the same pod. What a real one often skips, because it reports
// only when it is done, is always seen here: that a killed container does not run.
func TestKubelet(t *testing.T) {
	g := NewWithT(t)
	c := clientFor(g, startCluster(t, localcluster.Options{}).Config)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "pod"},
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{
				{Name: "proxy", Image: "proxy:1", RestartPolicy: new(corev1.ContainerRestartPolicyAlways)},
				{Name: "migrate", Image: "migrate:1"},
			},
			Containers: []corev1.Container{{Name: "web", Image: "nginx:1"}, {Name: "agent", Image: "agent:1", Resources: cpuRequest("10m")}},
		},
	}
	g.Expect(c.Create(t.Context(), pod)).To(Succeed())
	// follow returns what could be seen of a container, step by step, until it is as it should be. No other container changes.
	follow := func(name, until string) (steps []string) {
		t.Helper()
		before := statuses(pod)
		g.Eventually(func(g Gomega) {
			g.Expect(c.Get(t.Context(), client.ObjectKeyFromObject(pod), pod)).To(Succeed())
			if step := describe(pod, name); len(steps) == 0 || steps[len(steps)-1] != step {
				steps = append(steps, step)
			}
			g.Expect(steps[len(steps)-1]).To(Equal(until))
		}, timeout, "10ms").Should(Succeed())
		after := statuses(pod)
		delete(before, name)
		delete(after, name)
		g.Expect(after).To(Equal(before))
		return steps
	}
	setImage := func(path, image string) {
		patch := []byte(`[{"op":"replace","path":"` + path + `/image","value":"` + image + `"}]`)
		g.Expect(c.Patch(t.Context(), pod, client.RawPatch(types.JSONPatchType, patch))).To(Succeed())
	}
	g.Eventually(func(g Gomega) {
		g.Expect(c.Get(t.Context(), client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		g.Expect(pod.Status.ObservedGeneration).To(Equal(pod.Generation))
	}, timeout, interval).Should(Succeed())
	born := statuses(pod)
	g.Expect(pod.Status.Phase).To(Equal(corev1.PodRunning))
	g.Expect(isPodReady(pod)).To(BeTrue())
	g.Expect(born["proxy"].State.Running).NotTo(BeNil())
	g.Expect(born["migrate"].State.Terminated.Reason).To(Equal("Completed"))
	g.Expect(born["agent"].RestartCount).To(BeZero())

	setImage("/spec/containers/1", "agent:2")
	g.Expect(follow("agent", "saw 2: agent:2 runs, 1 restarts, pod ready")).To(HaveExactElements(
		"saw 1: agent:1 runs, 0 restarts, pod ready",
		"saw 2: agent:1 runs, 0 restarts, pod ready",
		"saw 2: agent:1 ContainerCreating, 0 restarts, pod not ready",
		"saw 2: agent:2 runs, 1 restarts, pod ready",
	))
	updated := statuses(pod)["agent"]
	g.Expect(updated.ContainerID).NotTo(Equal(born["agent"].ContainerID))
	g.Expect(updated.LastTerminationState.Terminated.ContainerID).To(Equal(born["agent"].ContainerID))

	setImage("/spec/initContainers/0", "proxy:missing")
	g.Expect(follow("proxy", "saw 3: proxy:1 ImagePullBackOff, 0 restarts, pod not ready")).To(HaveExactElements(
		"saw 2: proxy:1 runs, 0 restarts, pod ready",
		"saw 3: proxy:1 runs, 0 restarts, pod ready",
		"saw 3: proxy:1 ContainerCreating, 0 restarts, pod not ready",
		"saw 3: proxy:1 ErrImagePull, 0 restarts, pod not ready",
		"saw 3: proxy:1 ImagePullBackOff, 0 restarts, pod not ready",
	))
	setImage("/spec/initContainers/0", "proxy:1")
	g.Expect(follow("proxy", "saw 4: proxy:1 runs, 1 restarts, pod ready")).To(HaveExactElements(
		"saw 3: proxy:1 ImagePullBackOff, 0 restarts, pod not ready",
		"saw 4: proxy:1 ImagePullBackOff, 0 restarts, pod not ready",
		"saw 4: proxy:1 runs, 1 restarts, pod ready",
	))
	g.Expect(statuses(pod)["proxy"].ContainerID).NotTo(Equal(born["proxy"].ContainerID))

	resized := pod.DeepCopy()
	resized.Spec.Containers[1].Resources = cpuRequest("20m")
	g.Expect(c.SubResource("resize").Update(t.Context(), resized)).To(Succeed())
	g.Eventually(func(g Gomega) {
		g.Expect(c.Get(t.Context(), client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		g.Expect(statuses(pod)["agent"].Resources.Requests.Cpu().String()).To(Equal("20m"))
	}, timeout, interval).Should(Succeed())
	g.Expect(describe(pod, "agent")).To(Equal("saw 5: agent:2 runs, 1 restarts, pod ready"))
	g.Expect(statuses(pod)["agent"].ContainerID).To(Equal(updated.ContainerID))

	settled := pod.ResourceVersion
	g.Consistently(func() (string, error) {
		err := c.Get(t.Context(), client.ObjectKeyFromObject(pod), pod)
		return pod.ResourceVersion, err
	}, time.Second, interval).Should(Equal(settled))

	g.Expect(c.Delete(t.Context(), pod)).To(Succeed())
	g.Eventually(func() bool {
		return apierrors.IsNotFound(c.Get(t.Context(), client.ObjectKeyFromObject(pod), pod))
	}, timeout, interval).Should(BeTrue())
}

func TestKubeletWaitsForAnInitContainer(t *testing.T) {
	g := NewWithT(t)
	c := clientFor(g, startCluster(t, localcluster.Options{}).Config)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "pod"},
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "migrate", Image: "missing:1"}},
			Containers:     []corev1.Container{{Name: "web", Image: "nginx:1"}},
		},
	}
	g.Expect(c.Create(t.Context(), pod)).To(Succeed())
	g.Eventually(func(g Gomega) {
		g.Expect(c.Get(t.Context(), client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		g.Expect(describe(pod, "migrate")).To(Equal("saw 1: missing:1 ImagePullBackOff, 0 restarts, pod not ready"))
	}, timeout, interval).Should(Succeed())
	g.Expect(pod.Status.Phase).To(Equal(corev1.PodPending))
	g.Expect(statuses(pod)["web"].State.Waiting.Reason).To(Equal("PodInitializing"))
}

func statuses(pod *corev1.Pod) map[string]corev1.ContainerStatus {
	byName := map[string]corev1.ContainerStatus{}
	for _, status := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		byName[status.Name] = status
	}
	return byName
}

// describe tells what a pod's status says about one of its containers, and about the pod.
func describe(pod *corev1.Pod, name string) string {
	status, does, ready := statuses(pod)[name], "runs", "not ready"
	if status.State.Waiting != nil {
		does = status.State.Waiting.Reason
	}
	if isPodReady(pod) {
		ready = "ready"
	}
	return fmt.Sprintf("saw %d: %s %s, %d restarts, pod %s", pod.Status.ObservedGeneration, status.Image, does, status.RestartCount, ready)
}

func isPodReady(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func cpuRequest(cpu string) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}
}
