// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

var _ = Describe("In-place updates: a change of", func() {
	It("images reaches the running pods, and nothing else moves", func(ctx SpecContext) {
		set := logAgent().NativeSidecar("proxy", "proxy:1")
		shop.apply(ctx, web("web").Replicas(3).Obj())
		shop.inject(ctx, set, "web")
		before, writes := shop.runs(ctx, "web"), writesFromNow()
		replicaSets := shop.replicaSetsOf(ctx, "web")

		shop.apply(ctx, set.Image("proxy", "proxy:2").Image("log-agent", "busybox:2").Obj())
		shop.comesTo(ctx, "web", 3, "proxy=proxy:2", "web=nginx:1", "log-agent=busybox:2")
		Eventually(ctx, shop.promotion).WithArguments("web").Should(Equal(atRest))
		shop.waitForRollout(ctx, "web")
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
		shop.expectRestarts(ctx, "web", before, 1, "proxy", "log-agent")
		Expect(shop.replicaSetsOf(ctx, "web")).To(ConsistOf(replicaSets))
		deployment := shop.deployment(ctx, "web")
		Expect(deployment.Status.ObservedGeneration).To(Equal(deployment.Generation))

		counts, err := writes.byOperator(shop.name)
		Expect(err).NotTo(HaveOccurred())
		Expect(counts["patch pods"]).To(Equal(3), "one write per pod")
		Expect(counts["patch deployments"] + counts["patch replicasets"] + counts["delete replicasets"]).To(BeNumerically("<=", 5))

		By("deleting a pod")
		var pods corev1.PodList
		Expect(k8s.List(ctx, &pods, client.InNamespace(shop.name))).To(Succeed())
		shop.kubectl(ctx, "delete", "pod", pods.Items[0].Name)
		Eventually(ctx, shop.pods).WithArguments("web").Should(And(HaveLen(3), HaveEach("proxy=proxy:2 web=nginx:1 log-agent=busybox:2")))
		Expect(shop.runs(ctx, "web")).To(ContainElement(HaveKeyWithValue("log-agent", HaveField("Restarts", BeZero()))), "it was born so")
		Expect(shop.replicaSetsOf(ctx, "web")).To(ConsistOf(replicaSets))
	})

	It("images goes on after a rollback to a ReplicaSet that had followed its pods", func(ctx SpecContext) {
		set := logAgent().atOnce()
		shop.apply(ctx, web("web").Obj())
		shop.inject(ctx, set, "web")
		shop.apply(ctx, set.Image("log-agent", "busybox:2").Obj())
		shop.comesTo(ctx, "web", 2, "web=nginx:1", "log-agent=busybox:2")
		Eventually(ctx, shop.promotion).WithArguments("web").Should(Equal(atRest))
		shop.kubectl(ctx, "set", "image", "deployment/web", "web=nginx:2")
		shop.waitForRollout(ctx, "web")

		shop.kubectl(ctx, "rollout", "undo", "deployment/web")
		shop.comesTo(ctx, "web", 2, "web=nginx:1", "log-agent=busybox:2")
		Eventually(ctx, shop.promotion).WithArguments("web").Should(Equal(atRest))
		shop.apply(ctx, set.Image("log-agent", "busybox:3").Obj())
		shop.comesTo(ctx, "web", 2, "web=nginx:1", "log-agent=busybox:3")
		Eventually(ctx, shop.promotion).WithArguments("web").Should(Equal(atRest))
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
		Expect(shop.replicaSets(ctx, "web")).To(Equal(3))
	})

	Context("what does not restart, and what does not go in place:", Ordered, func() {
		shareNamespace()
		agent := func(name string) *sidecarSet {
			return MakeSidecarSet(name).Selecting("app", name).Container("agent", "agent:1").Memory("16Mi").atOnce()
		}
		names := []string{"resources", "structure", "rolling"} // each Deployment has a set of its own, by the same name
		before := map[string]map[types.UID]map[string]run{}
		var writes writeLog

		BeforeAll(func(ctx SpecContext) {
			for _, name := range names {
				shop.apply(ctx, MakeDeployment(name).Label("app", name).Container("web", "nginx:1").Obj(), agent(name).Obj())
			}
			for _, name := range names {
				shop.inject(ctx, agent(name), name)
				before[name] = shop.runs(ctx, name)
			}
			writes = writesFromNow()
			structure := agent("structure").Image("agent", "agent:2")
			env("NEW", "1")(&structure.object.Spec.Containers[0].Container)
			shop.apply(ctx, agent("resources").Memory("32Mi").Obj(), structure.Obj(),
				agent("rolling").Image("agent", "agent:2").Type(v1alpha1.RollingUpdateUpdateStrategyType).Obj())
		})

		It("resources change in running containers", func(ctx SpecContext) {
			memoryOf := func() (string, error) {
				return shop.run(shop.command(ctx, "get", "deployment", "resources", "-o", "jsonpath={..containers[1].resources.requests.memory}"))
			}
			Eventually(memoryOf).Should(Equal("32Mi"))
			Eventually(ctx, shop.promotion).WithArguments("resources").Should(Equal(atRest))
			Eventually(func() string {
				return shop.kubectl(ctx, "get", "pods", "-l", "app=resources", "-o", "jsonpath={..containerStatuses[1].resources.requests.memory}")
			}).Should(Equal("32Mi 32Mi"))
			shop.waitForRollout(ctx, "resources")
			shop.expectRestarts(ctx, "resources", before["resources"], 0)
			Expect(shop.replicaSets(ctx, "resources")).To(Equal(2))
			Eventually(ctx, shop.condition).WithArguments("resources", "Ready").Should(Equal("True/AllPodsUpdated"))
			Expect(writes.byOperator(shop.name)).To(HaveKeyWithValue("patch pods/resize", 2))
		})

		DescribeTable("the Deployment rolls out",
			func(ctx SpecContext, name string) {
				shop.comesTo(ctx, name, 2, "web=nginx:1", "agent=agent:2")
				shop.waitForRollout(ctx, name)
				for pod := range shop.runs(ctx, name) {
					Expect(before[name]).NotTo(HaveKey(pod), "all pods are new")
				}
				Expect(shop.replicaSets(ctx, name)).To(Equal(3))
				Expect(shop.promotion(ctx, name)).To(Equal(atRest))
				Eventually(ctx, shop.condition).WithArguments(name, "Ready").Should(Equal("True/AllPodsUpdated"))
			},
			Entry("a structural change, which takes the image along", "structure"),
			Entry("an image of a set of type RollingUpdate", "rolling"),
		)
	})
})
