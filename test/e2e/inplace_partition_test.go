// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
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

	It("keeps the template at the old revision when it is raised after all pods were updated", func(ctx SpecContext) {
		set := logAgent().atOnce()
		shop.apply(ctx, web("web").Obj())
		shop.inject(ctx, set, "web")
		shop.apply(ctx, set.MinReadySeconds(3600).Image("log-agent", "busybox:2").Obj())
		Eventually(ctx, shop.images).WithArguments("web").Should(Equal(map[string]int{updated: 2}))
		shop.apply(ctx, set.MinReadySeconds(0).Partition("1").Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Partitioned"))
		Consistently(ctx, shop.template).WithArguments("web").Should(HaveExactElements("web=nginx:1", "log-agent=busybox:1"))
		shop.apply(ctx, set.Partition("0").Obj())
		shop.comesTo(ctx, "web", 2, "web=nginx:1", "log-agent=busybox:2")
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
	})

	It("keeps a change that replaces pods from all of them, until it is lowered", func(ctx SpecContext) {
		set := logAgent()
		shop.apply(ctx, web("web").Replicas(2).Obj(), web("cart").Replicas(2).Obj())
		shop.inject(ctx, set, "web", "cart")
		before := map[string]map[types.UID]map[string]run{"web": shop.runs(ctx, "web"), "cart": shop.runs(ctx, "cart")}
		shop.apply(ctx, set.Partition("1").PodMetadata(nil, map[string]string{"logs": "all"}).Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Partitioned"))
		Consistently(ctx, func() map[string]map[types.UID]map[string]run {
			return map[string]map[types.UID]map[string]run{"web": shop.runs(ctx, "web"), "cart": shop.runs(ctx, "cart")}
		}).Should(Equal(before))

		shop.apply(ctx, set.Partition("0").Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
		for name, runs := range before {
			for pod := range shop.runs(ctx, name) {
				Expect(runs).NotTo(HaveKey(pod))
			}
		}
	})

	It("lets pods that failed go back to the template, when it withholds the correction", func(ctx SpecContext) {
		set := logAgent().atOnce().OnFailure(v1alpha1.HaltFailurePolicy)
		shop.apply(ctx, web("web").Replicas(3).Obj())
		shop.inject(ctx, set, "web")
		before := shop.runs(ctx, "web")

		By("updating pods in place to an image that is not there")
		shop.apply(ctx, set.Partition("1").Image("log-agent", "missing:1").Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Halted"))
		Expect(shop.images(ctx, "web")).To(Equal(map[string]int{old: 1, "web=nginx:1 log-agent=missing:1": 2}))

		By("correcting it in a way that replaces pods")
		set.Image("log-agent", "busybox:2").PodMetadata(nil, map[string]string{"logs": "all"})
		shop.apply(ctx, set.Obj())
		Eventually(ctx, shop.pods).WithArguments("web").Should(HaveExactElements(old, old, old))
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Partitioned"))
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Degraded").Should(Equal("False/AsExpected"))
		for pod, containers := range shop.runs(ctx, "web") {
			Expect(before).To(HaveKey(pod), "no pod was replaced")
			Expect(containers["web"]).To(Equal(before[pod]["web"]))
		}

		By("letting it")
		shop.apply(ctx, set.Partition("0").Obj())
		shop.comesTo(ctx, "web", 3, "web=nginx:1", "log-agent=busybox:2")
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
	})

	It("says that what it keeps pods at fails", func(ctx SpecContext) {
		set := logAgent().atOnce().OnFailure(v1alpha1.HaltFailurePolicy).Partition("1").Image("log-agent", "missing:1")
		shop.apply(ctx, web("web").Obj(), set.Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Degraded").Should(Equal("True/PodsFailing"))
		set.Image("log-agent", "busybox:2").PodMetadata(nil, map[string]string{"logs": "all"})
		shop.apply(ctx, set.Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Degraded").Should(Equal("True/WorkloadStuck"))
		Expect(shop.problems(ctx, "log-agent")).To(ContainElement(ContainSubstring("set it to 0")))
		shop.apply(ctx, set.Partition("0").Obj())
		shop.comesTo(ctx, "web", 2, "web=nginx:1", "log-agent=busybox:2")
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
	})

	It("has a Deployment that its owner took back to before the set keep what has proven itself", func(ctx SpecContext) {
		set := logAgent().atOnce()
		shop.apply(ctx, web("web").Obj())
		shop.waitForRollout(ctx, "web")
		shop.inject(ctx, set, "web")
		shop.apply(ctx, set.Partition("1").PodMetadata(nil, map[string]string{"logs": "all"}).Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Partitioned"))

		shop.kubectl(ctx, "rollout", "undo", "deployment", "web")
		shop.comesTo(ctx, "web", 2, "web=nginx:1", "log-agent=busybox:1")
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Partitioned"))
		Consistently(ctx, shop.replicaSets).WithArguments("web").Should(Equal(2), "no template has ever had the withheld revision")
	})

	It("does not keep pods from a spec from before, which reuses its revision and touches only the pods that differ", func(ctx SpecContext) {
		set := logAgent().atOnce()
		shop.apply(ctx, web("web").Replicas(4).Obj())
		shop.inject(ctx, set, "web")
		before := shop.runs(ctx, "web")
		shop.apply(ctx, set.Partition("50%").Image("log-agent", "busybox:2").Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Partitioned"))
		revisions := shop.revisionNames(ctx)
		Expect(revisions).To(HaveLen(2))

		shop.apply(ctx, set.Image("log-agent", "busybox:1").Obj())
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
