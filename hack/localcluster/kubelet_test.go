// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package localcluster_test

import (
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

// The simulated kubelet does what a real one was seen to do with the same pod.
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
	observe := func() {
		g.Eventually(func(g Gomega) {
			g.Expect(c.Get(t.Context(), client.ObjectKeyFromObject(pod), pod)).To(Succeed())
			g.Expect(pod.Status.ObservedGeneration).To(Equal(pod.Generation))
		}, timeout, interval).Should(Succeed())
	}
	setImage := func(path, image string) {
		patch := []byte(`[{"op":"replace","path":"` + path + `/image","value":"` + image + `"}]`)
		g.Expect(c.Patch(t.Context(), pod, client.RawPatch(types.JSONPatchType, patch))).To(Succeed())
		observe()
	}
	observe()
	born := statuses(pod)
	g.Expect(pod.Status.Phase).To(Equal(corev1.PodRunning))
	g.Expect(isPodReady(pod)).To(BeTrue())
	g.Expect(born["proxy"].State.Running).NotTo(BeNil())
	g.Expect(born["migrate"].State.Terminated.Reason).To(Equal("Completed"))
	g.Expect(born["agent"].RestartCount).To(BeZero())

	setImage("/spec/containers/1", "agent:2")
	updated := statuses(pod)
	g.Expect(updated["agent"].RestartCount).To(BeEquivalentTo(1))
	g.Expect(updated["agent"].ContainerID).NotTo(Equal(born["agent"].ContainerID))
	for _, untouched := range []string{"web", "proxy", "migrate"} {
		g.Expect(updated[untouched]).To(Equal(born[untouched]))
	}

	setImage("/spec/initContainers/0", "proxy:missing")
	g.Expect(statuses(pod)["proxy"].State.Waiting.Reason).To(Equal("ImagePullBackOff"))
	g.Expect(statuses(pod)["web"]).To(Equal(born["web"]))
	g.Expect(isPodReady(pod)).To(BeFalse())

	setImage("/spec/initContainers/0", "proxy:1")
	g.Expect(statuses(pod)["proxy"].RestartCount).To(BeEquivalentTo(1))
	g.Expect(isPodReady(pod)).To(BeTrue())

	resized := pod.DeepCopy()
	resized.Spec.Containers[1].Resources = cpuRequest("20m")
	g.Expect(c.SubResource("resize").Update(t.Context(), resized)).To(Succeed())
	observe()
	g.Expect(statuses(pod)["agent"].Resources.Requests.Cpu().String()).To(Equal("20m"))
	g.Expect(statuses(pod)["agent"].RestartCount).To(BeEquivalentTo(1))

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
		g.Expect(pod.Status.ObservedGeneration).To(Equal(pod.Generation))
	}, timeout, interval).Should(Succeed())
	g.Expect(pod.Status.Phase).To(Equal(corev1.PodPending))
	g.Expect(statuses(pod)["migrate"].State.Waiting.Reason).To(Equal("ImagePullBackOff"))
	g.Expect(statuses(pod)["web"].State.Waiting.Reason).To(Equal("PodInitializing"))
}

func statuses(pod *corev1.Pod) map[string]corev1.ContainerStatus {
	byName := map[string]corev1.ContainerStatus{}
	for _, status := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		byName[status.Name] = status
	}
	return byName
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
