// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// bind puts the pods of a world on nodes, one on each, in the order of their names.
func (w *world) bind(ctx context.Context) {
	GinkgoHelper()
	var pods corev1.PodList
	Expect(k8s.List(ctx, &pods, client.InNamespace(w.namespace))).To(Succeed())
	for i := range pods.Items {
		binding := &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: fmt.Sprint("node-", i)}}
		Expect(k8s.SubResource("binding").Create(ctx, &pods.Items[i], binding)).To(Succeed())
	}
}

// pulls returns the pre-pull pods by node.
func (w *world) pulls(ctx context.Context) map[string]*corev1.Pod {
	GinkgoHelper()
	var pods corev1.PodList
	Expect(k8s.List(ctx, &pods, client.InNamespace(w.namespace), client.MatchingLabels{v1alpha1.InjectedLabel: v1alpha1.PrePullLabelValue})).To(Succeed())
	result := map[string]*corev1.Pod{}
	for i := range pods.Items {
		result[pods.Items[i].Spec.NodeName] = &pods.Items[i]
	}
	return result
}

// reportPulls does what the kubelets do with pre-pull pods: an image that is missing can not be pulled.
func (w *world) reportPulls(ctx context.Context) {
	GinkgoHelper()
	for _, pod := range w.pulls(ctx) {
		container := &pod.Spec.Containers[0]
		status := corev1.ContainerStatus{Name: container.Name, Image: container.Image}
		if strings.Contains(container.Image, "missing") {
			status.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "not found"}
		} else {
			status.ImageID, status.State.Terminated = "sha256:1", &corev1.ContainerStateTerminated{ExitCode: 128}
			pod.Status.Phase = corev1.PodFailed
		}
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{status}
		Expect(k8s.Status().Update(ctx, pod)).To(Succeed())
	}
}

// pullOn is a pull of an image on a node.
func pullOn(node string) *rollout.Pull {
	return &rollout.Pull{Node: node, Images: map[string]rollout.PullImage{"agent": {Image: "agent:2"}}}
}

// prePulled is the spec of a set with images that are pulled ahead, for all pods at once.
func prePulled(rest string) string {
	return "{selector: {matchLabels: {logging: enabled}}, updateStrategy: {prePull: BeforeUpdate, maxUnavailable: 100%}, " + rest + "}"
}

var _ = Describe("Pre-pull", func() {
	var w *world
	missing := prePulled(strings.ReplaceAll(modestAgent, "agent:1", "missing:1"))
	// count is how many pods have an image.
	count := func(ctx context.Context, image string) (count int) {
		GinkgoHelper()
		var pods corev1.PodList
		Expect(k8s.List(ctx, &pods, client.InNamespace(w.namespace), client.MatchingLabels{"app": "web"})).To(Succeed())
		for i := range pods.Items {
			if pods.Items[i].Spec.Containers[1].Image == image {
				count++
			}
		}
		return count
	}

	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		w.restrict(ctx)
		w.createDeployment(ctx, "web", "{serviceAccountName: web, imagePullSecrets: [{name: regcred}], "+modestPod+"}")
		w.editDeployment(ctx, "web", "owner", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(3)) })
		w.createSet(ctx, "agent", prePulled(modestAgent))
		w.converge(ctx)
		w.rollOut(ctx, "web", 3)
		w.bind(ctx)
		Expect(w.pulls(ctx)).To(BeEmpty(), "new pods pull by themselves")
		w.writes = nil
	})

	It("is no standstill, though the application fails in a pod meanwhile", func(ctx context.Context) {
		w.failApplication(ctx)
		w.updateSet(ctx, "agent", prePulled(upgraded(modestAgent)))
		w.carryOn(ctx, "web")
		Expect(w.pulls(ctx)).To(HaveLen(3))
		Expect(w.deployments.summaries.get(w.key("web"), "agent").Problem).To(BeNil())
	})

	It("makes pods that may do nothing, and pull as the workload's pods do", func(ctx context.Context) {
		w.updateSet(ctx, "agent", prePulled(upgraded(modestAgent)))
		w.carryOn(ctx, "web")
		pulls := w.pulls(ctx)
		Expect(pulls).To(HaveLen(3))
		pod := pulls["node-0"]
		Expect(pod.Labels).To(Equal(map[string]string{v1alpha1.InjectedLabel: "pre-pull"}), "nobody selects it")
		Expect(pod.OwnerReferences).To(HaveExactElements(And(HaveField("Kind", "Deployment"), HaveField("UID", w.deployment(ctx, "web").UID))))
		Expect(pod.Spec.ServiceAccountName).To(Equal("web"))
		Expect(pod.Spec.ImagePullSecrets).To(Equal([]corev1.LocalObjectReference{{Name: "regcred"}}))
		Expect(*pod.Spec.AutomountServiceAccountToken).To(BeFalse())
		Expect(pod.Spec.RestartPolicy).To(Equal(corev1.RestartPolicyNever))
		Expect(*pod.Spec.ActiveDeadlineSeconds).To(BeNumerically(">", 0))
		Expect(pod.Spec.Containers).To(HaveExactElements(And(HaveField("Image", "agent:2"), HaveField("Command", []string{runsNothing}))))
	})

	It("lets pods be updated when their node has the image, and leaves nothing", func(ctx context.Context) {
		w.updateSet(ctx, "agent", prePulled(upgraded(modestAgent)))
		w.carryOn(ctx, "web")
		Expect(w.pulls(ctx)).To(HaveLen(3))
		Expect(count(ctx, "agent:1")).To(Equal(3))
		w.writes = nil
		w.reconcileAll(ctx)
		Expect(w.writes).To(BeEmpty(), "it waits for events")

		w.reportPulls(ctx)
		w.converge(ctx)
		Expect(count(ctx, "agent:2")).To(Equal(3))
		Expect(w.pulls(ctx)).To(BeEmpty())
	})

	It("goes on while the update of another pod is not seen yet", func(ctx context.Context) {
		w.updateSet(ctx, "agent", prePulled(upgraded(modestAgent)))
		w.carryOn(ctx, "web")
		Expect(w.pulls(ctx)).To(HaveLen(3))
		var pods corev1.PodList
		Expect(k8s.List(ctx, &pods, client.InNamespace(w.namespace), client.MatchingLabels{"app": "web"})).To(Succeed())
		w.deployments.unseen.remember(client.ObjectKeyFromObject(w.deployment(ctx, "web")), pods.Items[0].UID, rollout.InPlaceUpdate{}, w.deployments.now())

		w.writes = nil
		w.reconcileAll(ctx)
		Expect(w.writes).To(BeEmpty())
	})

	It("of an image that can not be pulled takes the revision back", func(ctx context.Context) {
		w.converge(ctx)
		w.updateSet(ctx, "agent", missing)
		w.carryOn(ctx, "web")
		w.reportPulls(ctx)
		w.converge(ctx)
		Expect(meta.FindStatusCondition(w.set(ctx, "agent").Status.Conditions, v1alpha1.ConditionDegraded)).To(And(
			HaveField("Reason", v1alpha1.ReasonRolledBack), HaveField("Message", ContainSubstring("node-0 (and 2 more) can not pull image"))))
		Expect(count(ctx, "agent:1")).To(Equal(3))
		Expect(w.pulls(ctx)).To(BeEmpty())
	})

	It("leaves pods alone where the image can not be pulled, tells why, and goes on with a corrected image", func(ctx context.Context) {
		w.updateSet(ctx, "agent", strings.Replace(missing, "{prePull", "{onFailure: Halt, prePull", 1))
		w.carryOn(ctx, "web")
		w.reportPulls(ctx)
		w.converge(ctx)
		Expect(w.set(ctx, "agent").Status.Problems).To(HaveExactElements(And(
			HaveField("Reason", v1alpha1.ReasonImagePullFailed),
			HaveField("Message", `node node-0 (and 2 more) can not pull image "missing:1" of container "agent" ahead, so the pods there keep the sidecar that they have; correct the image or its pull secrets: not found`))))
		Expect(count(ctx, "agent:1")).To(Equal(3))
		w.writes = nil
		w.reconcileAll(ctx)
		Expect(w.writes).To(BeEmpty())

		w.updateSet(ctx, "agent", prePulled(upgraded(modestAgent)))
		w.carryOn(ctx, "web")
		w.reportPulls(ctx)
		w.converge(ctx)
		Expect(count(ctx, "agent:2")).To(Equal(3))
		Expect(w.pulls(ctx)).To(BeEmpty())
		Expect(w.set(ctx, "agent").Status.Problems).To(BeEmpty())
	})

	DescribeTable("leaves no pod behind when in the middle",
		func(ctx context.Context, interfere func(ctx context.Context)) {
			w.updateSet(ctx, "agent", missing)
			w.carryOn(ctx, "web")
			w.reportPulls(ctx)
			Expect(w.pulls(ctx)).To(HaveLen(3))
			interfere(ctx)
			w.reconcileSets(ctx)
			_, err := w.deployments.Reconcile(ctx, requestFor(w.userManifest("web", webPod)))
			Expect(err).NotTo(HaveOccurred())
			Expect(w.pulls(ctx)).To(BeEmpty())
		},
		Entry("the set is paused", func(ctx context.Context) {
			w.updateSet(ctx, "agent", strings.Replace(missing, "{prePull", "{paused: true, prePull", 1))
		}),
		Entry("the set goes back", func(ctx context.Context) { w.updateSet(ctx, "agent", prePulled(modestAgent)) }),
		Entry("it is switched off", func(ctx context.Context) {
			w.updateSet(ctx, "agent", strings.Replace(missing, "BeforeUpdate", "Never", 1))
		}),
		Entry("the change becomes a structural one", func(ctx context.Context) {
			w.updateSet(ctx, "agent", strings.Replace(missing, "{prePull", "{type: RollingUpdate, prePull", 1))
		}),
		Entry("the set is deleted", func(ctx context.Context) { w.deleteSet(ctx, "agent") }),
		Entry("the set is deleted, and its content stays", func(ctx context.Context) {
			w.updateSet(ctx, "agent", strings.Replace(missing, "{selector", "{deletionPolicy: Retain, selector", 1))
			w.deleteSet(ctx, "agent")
			_, err := w.deployments.Reconcile(ctx, requestFor(w.deployment(ctx, "web")))
			Expect(err).NotTo(HaveOccurred())
		}),
		Entry("its owner rolls the Deployment out", func(ctx context.Context) {
			w.editDeployment(ctx, "web", "owner", func(d *appsv1.Deployment) { d.Spec.Template.Labels["v"] = "2" })
		}),
		Entry("the Deployment is deleted", func(ctx context.Context) { Expect(k8s.Delete(ctx, w.deployment(ctx, "web"))).To(Succeed()) }),
		Entry("the pods are gone with their nodes", func(ctx context.Context) {
			Expect(k8s.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(w.namespace), client.MatchingLabels{"app": "web"}, client.GracePeriodSeconds(0))).To(Succeed())
		}),
	)

	It("tells of a namespace that does not let it, and does not ask again and again", func(ctx context.Context) {
		w.fillQuota(ctx)
		Eventually(func() error {
			pod := prePullPod(w.deployment(ctx, "web"), pullOn("node-0"))
			return k8s.Create(ctx, pod, client.DryRunAll)
		}).Should(MatchError(ContainSubstring("exceeded quota")))
		w.updateSet(ctx, "agent", prePulled(upgraded(modestAgent)))
		w.carryOn(ctx, "web")
		Expect(w.set(ctx, "agent").Status.Problems).To(HaveExactElements(And(
			HaveField("Reason", v1alpha1.ReasonPreflightFailed),
			HaveField("Message", And(HavePrefix("the API server refuses the pod that is to pull images ahead, so no pod is updated"), ContainSubstring("exceeded quota"))))))
		Expect(count(ctx, "agent:1")).To(Equal(3))
		w.writes = nil
		w.reconcileAll(ctx)
		Expect(w.writes).To(BeEmpty())
	})

	It("is asked for by an event of a pod that outlived its Deployment", func(ctx context.Context) {
		pod := prePullPod(w.deployment(ctx, "web"), pullOn("node-0"))
		Expect(w.deployments.observer.deploymentForPod(ctx, pod)).To(HaveExactElements(requestFor(w.deployment(ctx, "web"))))
		Expect(metav1.GetControllerOf(pod).BlockOwnerDeletion).To(BeNil())
	})
})
