// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var _ = Describe("In-place updates: a partition", func() {
	const old, updated = "web=nginx:1 log-agent=busybox:1", "web=nginx:1 log-agent=busybox:2"

	It("keeps pods and template at the old revision, until it is lowered, and the update of the rest can be paused", func(ctx SpecContext) {
		set := logAgent().atOnce()
		shop.apply(ctx, web("web").Replicas(10).Obj())
		shop.inject(ctx, set, "web")
		before, replicaSets := shop.runs(ctx, "web"), shop.replicaSetsOf(ctx, "web")

		By("updating 5 of 10")
		shop.apply(ctx, set.Partition("50%").Image("log-agent", "busybox:2").Obj())
		Eventually(ctx, shop.images).WithArguments("web").Should(Equal(map[string]int{old: 5, updated: 5}))
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Partitioned"))
		Expect(shop.condition(ctx, "log-agent", "Ready")).To(Equal("False/Partitioned"))
		Consistently(ctx, shop.images).WithArguments("web").Should(Equal(map[string]int{old: 5, updated: 5}))
		Expect(shop.template(ctx, "web")).To(HaveExactElements("web=nginx:1", "log-agent=busybox:1"))

		By("scaling up, and raising the partition")
		shop.kubectl(ctx, "scale", "deployment", "web", "--replicas=11") // of which 50% are 6, rounded up
		Eventually(ctx, shop.images).WithArguments("web").Should(Equal(map[string]int{old: 6, updated: 5}))
		shop.apply(ctx, set.Partition("80%").Obj())
		Consistently(ctx, shop.images).WithArguments("web").Should(Equal(map[string]int{old: 6, updated: 5}))
		shop.kubectl(ctx, "scale", "deployment", "web", "--replicas=10")
		Eventually(ctx, shop.pods).WithArguments("web").Should(HaveLen(10))

		By("lowering the partition, and pausing as soon as that shows")
		set.Partition("0").MaxUnavailable("1")
		shop.apply(ctx, set.Obj())
		Eventually(ctx, shop.images).WithArguments("web").WithPolling(interval / 2).Should(HaveKeyWithValue(updated, BeNumerically(">=", 6)))
		shop.apply(ctx, set.Paused(true).Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Paused"))
		halfway, err := shop.images(ctx, "web")
		Expect(err).NotTo(HaveOccurred())
		Expect(halfway).To(HaveKeyWithValue(old, BeNumerically(">=", 1)))
		Consistently(ctx, shop.images).WithArguments("web").Should(Equal(halfway))
		Expect(shop.template(ctx, "web")).To(HaveExactElements("web=nginx:1", "log-agent=busybox:1"))

		By("resuming")
		shop.apply(ctx, set.Paused(false).Obj())
		shop.comesTo(ctx, "web", 10, "web=nginx:1", "log-agent=busybox:2")
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
		Expect(shop.promotion(ctx, "web")).To(Equal(atRest))
		shop.waitForRollout(ctx, "web")
		Expect(shop.replicaSetsOf(ctx, "web")).To(ConsistOf(replicaSets))
		for pod, containers := range shop.runs(ctx, "web") {
			// Scaling down may have taken any of them: the eleventh has a place among the ten then.
			if was, there := before[pod]; there {
				Expect(containers["web"]).To(Equal(was["web"]))
			}
			Expect(containers["log-agent"].Restarts).To(BeEquivalentTo(1), "each was born old, and updated once")
		}
	})

	It("does not keep a spec from before from reusing its revision, which touches only the pods that differ", func(ctx SpecContext) {
		set := logAgent().atOnce()
		shop.apply(ctx, web("web").Replicas(4).Obj())
		shop.inject(ctx, set, "web")
		before := shop.runs(ctx, "web")
		shop.apply(ctx, set.Partition("50%").Image("log-agent", "busybox:2").Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Partitioned"))
		revisions := shop.revisionNames(ctx)
		Expect(revisions).To(HaveLen(2))

		shop.apply(ctx, set.Partition("0").Image("log-agent", "busybox:1").Obj())
		shop.comesTo(ctx, "web", 4, "web=nginx:1", "log-agent=busybox:1")
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
		Expect(shop.revisionNames(ctx)).To(ConsistOf(revisions))
		restarts := map[int32]int{}
		for pod, containers := range shop.runs(ctx, "web") {
			Expect(before).To(HaveKey(pod))
			Expect(containers["web"]).To(Equal(before[pod]["web"]))
			restarts[containers["log-agent"].Restarts]++
		}
		Expect(restarts).To(Equal(map[int32]int{0: 2, 2: 2}), "two pods went there and back, and the others stayed")
	})
})

func (n *namespace) revisionNames(ctx context.Context) (names []string) {
	GinkgoHelper()
	var list appsv1.ControllerRevisionList
	Expect(k8s.List(ctx, &list, client.InNamespace(n.name))).To(Succeed())
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names
}
