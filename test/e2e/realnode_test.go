// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

var _ = Describe("Acceptance 1 to 3 on a real node:", onRealNode, func() {
	const replicas = 3
	var set *sidecarSet
	BeforeEach(func() {
		makeImages("agent:1", "agent:2", "proxy:1", "proxy:2")
		set = MakeSidecarSet("sidecars").Container("agent", "agent:1").NativeSidecar("proxy", "proxy:1")
	})

	It("new images restart the sidecars, one pod after the other, and no request to the application fails", func(ctx SpecContext) {
		shop.apply(ctx, server("web").Replicas(replicas).Obj())
		shop.inject(ctx, set, "web")
		before, replicaSets := shop.runs(ctx, "web"), shop.replicaSetsOf(ctx, "web")
		pods, clients := record[*corev1.Pod](ctx, &corev1.PodList{}), shop.request(ctx, "web")

		shop.apply(ctx, set.Image("agent", "agent:2").Image("proxy", "proxy:2").Obj())
		shop.comesTo(ctx, "web", replicas, "proxy=proxy:2", "web=web:1", "agent=agent:2")
		shop.settle(ctx, "web", "sidecars")
		clients.expectNoFailure(replicas)
		shop.expectRestarts(ctx, "web", before, 1, "proxy", "agent")
		Expect(shop.madeAs(ctx, "web", "proxy")).To(ConsistOf("proxy:2", "proxy:2", "proxy:2"))
		Expect(shop.madeAs(ctx, "web", "agent")).To(ConsistOf("agent:2", "agent:2", "agent:2"))
		Expect(shop.replicaSetsOf(ctx, "web")).To(ConsistOf(replicaSets))
		Expect(mostRestarting(pods.of(shop.name, "web"), before, "proxy", "agent")).To(Equal(1))

		By("deleting a pod")
		var list corev1.PodList
		Expect(k8s.List(ctx, &list, client.InNamespace(shop.name))).To(Succeed())
		shop.kubectl(ctx, "delete", "pod", list.Items[0].Name)
		shop.comesTo(ctx, "web", replicas, "proxy=proxy:2", "web=web:1", "agent=agent:2")
		Expect(shop.madeAs(ctx, "web", "agent")).To(ConsistOf("agent:2", "agent:2", "agent:2"))
		born := shop.runs(ctx, "web")
		for pod := range before {
			delete(born, pod)
		}
		Expect(born).To(HaveLen(1))
		for _, containers := range born {
			Expect(containers).To(HaveEach(HaveField("Restarts", BeZero())), "it was born so")
		}
		Expect(shop.replicaSetsOf(ctx, "web")).To(ConsistOf(replicaSets))
	})

	It("new resources restart nothing", func(ctx SpecContext) {
		shop.apply(ctx, server("web").Replicas(replicas).Obj())
		shop.inject(ctx, set.CPU("10m"), "web")
		before, replicaSets := shop.runs(ctx, "web"), shop.replicaSetsOf(ctx, "web")
		Expect(shop.cpu(ctx, "web", "proxy")).To(ConsistOf("10m", "10m", "10m"))

		shop.apply(ctx, set.CPU("20m").Obj())
		// The operator is content when the API server has the resize; the kubelet reports it when it is done.
		for _, sidecar := range []string{"proxy", "agent"} {
			Eventually(ctx, shop.cpu).WithArguments("web", sidecar).Should(ConsistOf("20m", "20m", "20m"))
		}
		shop.settle(ctx, "web", "sidecars")
		shop.expectRestarts(ctx, "web", before, 0)
		Expect(shop.replicaSetsOf(ctx, "web")).To(ConsistOf(replicaSets))
	})

	DescribeTable("an image by another name restarts the sidecar once and is promoted:",
		func(ctx SpecContext, rename func() string) {
			shop.apply(ctx, server("web").Replicas(2).Obj())
			shop.inject(ctx, set, "web")
			before, replicaSets := shop.runs(ctx, "web"), shop.replicaSetsOf(ctx, "web")

			image := rename()
			shop.apply(ctx, set.Image("agent", image).Obj())
			shop.comesTo(ctx, "web", 2, "proxy=proxy:1", "web=web:1", "agent="+image)
			shop.settle(ctx, "web", "sidecars")
			shop.expectRestarts(ctx, "web", before, 1, "agent")
			Expect(shop.madeAs(ctx, "web", "agent")).To(ConsistOf("agent:1", "agent:1"))
			Expect(shop.replicaSetsOf(ctx, "web")).To(ConsistOf(replicaSets))
		},
		Entry("a second tag of the same image", func() string {
			Expect(cluster.Node.Images.Tag("agent:1", "agent:stable")).To(Succeed())
			return "agent:stable"
		}),
		Entry("its digest", func() string { return "agent@" + makeImages("agent:1")[0] }),
	)

	It("a sidecar is down while its image is pulled, and no longer than a restart where the node has it", func(ctx SpecContext) {
		const pullTime = 5 * time.Second
		makeImage(localcluster.Image{Name: "agent:far", PullTime: pullTime})
		shop.apply(ctx, server("web").Replicas(2).Obj())
		shop.inject(ctx, set, "web")
		shop.apply(ctx, set.Image("agent", "agent:far").Obj())
		shop.comesTo(ctx, "web", 2, "proxy=proxy:1", "web=web:1", "agent=agent:far")
		shop.settle(ctx, "web", "sidecars")
		Expect(shop.downtimes(ctx, "web", "agent")).To(ConsistOf(BeNumerically(">=", pullTime), BeNumerically("<", pullTime)))
	})

	It("once all is as declared, the operator writes nothing", func(ctx SpecContext) {
		shop.apply(ctx, server("web").Replicas(1).Obj())
		shop.inject(ctx, set, "web")
		shop.apply(ctx, set.Image("agent", "agent:2").Obj())
		shop.comesTo(ctx, "web", 1, "proxy=proxy:1", "web=web:1", "agent=agent:2")
		shop.settle(ctx, "web", "sidecars")
		writes := writesFromNow()
		shop.kubectl(ctx, "annotate", "pods,deployments", "--all", "example.com/touched=1")
		Consistently(writes.byOperator).WithArguments(shop.name).WithTimeout(10 * time.Second).WithPolling(time.Second).Should(BeEmpty())
	})
})
