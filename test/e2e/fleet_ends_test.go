// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

var _ = Describe("A fleet: a workload's turn", func() {
	It("is not over while a Deployment of strategy Recreate has no pod, and is lost when that takes too long", func(ctx SpecContext) {
		names := []string{"web-00", "web-01"}
		for _, name := range names {
			shop.apply(ctx, web(name).Replicas(1).Spec(func(spec *appsv1.DeploymentSpec) {
				spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
				spec.Template.Spec.TerminationGracePeriodSeconds = new(int64(1))
			}).Obj())
		}
		set := logAgent().AtATime("1")
		shop.inject(ctx, set, names...)
		held := []*corev1.Pod{shop.podOf(ctx, names[0]), shop.podOf(ctx, names[1])}
		hold(ctx, held)

		set.object.Spec.Containers[0].Args = []string{"--verbose"}
		shop.apply(ctx, set.Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("False/RollingWorkloads"))
		Eventually(ctx, shop.assigned).WithArguments("log-agent").Should(HaveLen(1))
		turn, err := shop.assigned(ctx, "log-agent")
		Expect(err).NotTo(HaveOccurred())
		Eventually(ctx, shop.counted).WithArguments(turn[0]).Should(BeZero())
		Consistently(ctx, shop.assigned).WithArguments("log-agent").WithTimeout(10 * interval).Should(Equal(turn))
		Expect(shop.condition(ctx, "log-agent", "Ready")).To(Equal("False/RollingWorkloads"))

		Eventually(ctx, shop.problems).WithArguments("log-agent").WithTimeout(2 * timeout).Should(HaveExactElements(HavePrefix(turn[0] + ": WorkloadStuck: it has no pod")))
		Eventually(ctx, shop.assigned).WithArguments("log-agent").Should(HaveExactElements(names))
		Expect(shop.condition(ctx, "log-agent", "Ready")).To(Equal("False/WorkloadStuck"))

		release(ctx, held)
		shop.waitUntilReady(ctx, "log-agent")
		Expect(shop.problems(ctx, "log-agent")).To(BeEmpty())
	})

	It("comes when the one before is over, also when a new sidecar comes to pods that have run for long without it", func(ctx SpecContext) {
		objects, names := fleet(4, 1)
		shop.apply(ctx, objects...)
		set := logAgent().AtATime("100%").ProgressDeadline(30)
		shop.inject(ctx, set, names...)
		injected := time.Now()
		Eventually(ctx, func() time.Duration { return time.Since(injected) }).WithTimeout(2 * timeout).Should(BeNumerically(">", time.Minute))

		most := shop.watch(ctx, isBeingUpdated)
		shop.apply(ctx, set.AtATime("1").Container("shipper", "busybox:1").Obj())
		shop.waitUntilReady(ctx, "log-agent")
		Expect(most()).To(Equal(1))
	})

	It("stays over, whatever its pods do while others have theirs", func(ctx SpecContext) {
		objects, names := fleet(2, 1)
		shop.apply(ctx, objects...)
		set := logAgent().AtATime("100%")
		shop.inject(ctx, set, names...)
		shop.kubectl(ctx, "create", "poddisruptionbudget", "none", "--selector=app=web-01", "--max-unavailable=0")
		Eventually(ctx, shop.disruptionsAllowed).WithArguments("none").Should(BeZero())

		shop.apply(ctx, set.Image("log-agent", "busybox:2").Obj())
		Eventually(ctx, shop.updatedWorkloads).WithArguments("log-agent").Should(BeEquivalentTo(1))
		Eventually(ctx, shop.problems).WithArguments("log-agent").Should(HaveExactElements(HavePrefix("web-01: DisruptionBudget: ")))
		shop.fail(ctx, shop.podOf(ctx, "web-00").Name, "log-agent")
		shop.kubectl(ctx, "delete", "poddisruptionbudget", "none")
		shop.waitUntilReady(ctx, "log-agent")
		Expect(shop.pods(ctx, "web-00")).To(ConsistOf("not ready"))
	})

	It("waits for the sidecar of another set, and says so", func(ctx SpecContext) {
		shop.apply(ctx, web("web").Replicas(2).Obj())
		set, other := logAgent(), MakeSidecarSet("exporter").Selecting("logging", "enabled").Container("exporter", "exporter:1")
		shop.inject(ctx, other, "web")
		shop.inject(ctx, set, "web")
		pod := shop.podOf(ctx, "web")
		shop.fail(ctx, pod.Name, "exporter")

		shop.apply(ctx, set.Image("log-agent", "busybox:2").Obj())
		Eventually(ctx, shop.problems).WithArguments("log-agent").WithTimeout(2 * timeout).Should(HaveExactElements(
			HavePrefix("web: WorkloadStuck: pod " + pod.Name + " is not ready, although the set's sidecars in it are available")))
		Expect(shop.problems(ctx, "exporter")).To(BeEmpty())

		Expect(k8s.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		Expect(makeReady(ctx, pod)).To(Succeed())
		shop.waitUntilReady(ctx, "log-agent")
	})
})

// podOf returns a pod of a Deployment.
func (n *namespace) podOf(ctx context.Context, deployment string) *corev1.Pod {
	GinkgoHelper()
	var pods corev1.PodList
	Expect(k8s.List(ctx, &pods, client.InNamespace(n.name), client.MatchingLabels{"app": deployment})).To(Succeed())
	Expect(pods.Items).NotTo(BeEmpty())
	return &pods.Items[0]
}

// hold keeps pods from going when they are deleted, until they are released, at the end of the spec at the latest.
func hold(ctx context.Context, pods []*corev1.Pod) {
	GinkgoHelper()
	for _, pod := range pods {
		held := pod.DeepCopy()
		held.Finalizers = []string{"example.com/held"}
		Expect(k8s.Patch(ctx, held, client.MergeFrom(pod))).To(Succeed())
	}
	DeferCleanup(release, pods)
}

func release(ctx context.Context, pods []*corev1.Pod) {
	GinkgoHelper()
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))
	for _, pod := range pods {
		Expect(client.IgnoreNotFound(k8s.Patch(ctx, pod.DeepCopy(), patch))).To(Succeed())
	}
}

// counted is how many pods a Deployment's status counts.
func (n *namespace) counted(ctx context.Context, name string) (int32, error) {
	deployment := &appsv1.Deployment{}
	err := k8s.Get(ctx, n.key(name), deployment)
	return deployment.Status.Replicas, err
}

func (n *namespace) updatedWorkloads(ctx context.Context, set string) (int32, error) {
	object := &v1alpha1.SidecarSet{}
	err := k8s.Get(ctx, n.key(set), object)
	return object.Status.UpdatedWorkloads, err
}
