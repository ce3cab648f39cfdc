// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// A partition may stand open for weeks. In that time other sets change, workloads have troubles of their own, and people make mistakes.
var _ = Describe("In-place updates: while a partition is open", func() {
	const old, updated = "web=nginx:1 log-agent=busybox:1", "web=nginx:1 log-agent=busybox:2"
	proxy := func() *sidecarSet {
		return MakeSidecarSet("proxy").Selecting("logging", "enabled").Container("proxy", "proxy:1").atOnce()
	}

	It("another set keeps to its maxConcurrentWorkloads", func(ctx SpecContext) {
		logs, proxy := logAgent().atOnce(), proxy()
		shop.apply(ctx, web("web").Replicas(1).Obj(), web("cart").Replicas(1).Obj(), web("till").Replicas(1).Obj(), logs.Obj(), proxy.Obj())
		shop.waitUntilReady(ctx, "log-agent", "proxy")
		shop.apply(ctx, logs.Partition("1").Image("log-agent", "busybox:2").Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Partitioned"))

		shop.apply(ctx, proxy.AtATime("1").OnFailure(v1alpha1.HaltFailurePolicy).Image("proxy", "unready:1").Obj())
		reached := func() (workloads int) {
			for _, name := range []string{"web", "cart", "till"} {
				images, err := shop.images(ctx, name)
				Expect(err).NotTo(HaveOccurred())
				workloads += images["web=nginx:1 log-agent=busybox:1 proxy=unready:1"]
			}
			return workloads
		}
		Eventually(reached).Should(Equal(1))
		Consistently(reached).WithTimeout(10*time.Second).Should(Equal(1), "it is not available there")
		Eventually(ctx, shop.condition).WithArguments("proxy", "Progressing").Should(Equal("True/UpdatingPods"))
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Partitioned"))
	})

	It("a workload whose own rollout is stuck delays nobody else", func(ctx SpecContext) {
		logs := logAgent().AtATime("1")
		broken := web("broken").Spec(func(spec *appsv1.DeploymentSpec) { spec.ProgressDeadlineSeconds = new(int32(3)) })
		shop.apply(ctx, broken.Obj(), web("web").Obj(), web("cart").Obj(), web("till").Obj())
		shop.inject(ctx, logs, "broken", "web", "cart", "till")
		shop.apply(ctx, broken.Image("web", "unready:1").Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Degraded").Should(Equal("True/WorkloadStuck"))

		shop.apply(ctx, logs.Partition("1").Image("log-agent", "busybox:2").Obj())
		for _, name := range []string{"web", "cart", "till"} {
			Eventually(ctx, shop.images).WithArguments(name).Should(Equal(map[string]int{old: 1, updated: 1}), name)
		}
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Partitioned"))
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Degraded").Should(Equal("True/WorkloadStuck"))
	})

	It("what somebody takes out of the template comes back there, at the old revision, and goes on in pods", func(ctx SpecContext) {
		logs := logAgent().atOnce()
		shop.apply(ctx, web("web").Obj())
		shop.inject(ctx, logs, "web")
		shop.apply(ctx, logs.Partition("1").Image("log-agent", "busybox:2").Obj())
		Eventually(ctx, shop.images).WithArguments("web").Should(Equal(map[string]int{old: 1, updated: 1}))

		shop.kubectl(ctx, "patch", "deployment", "web", "--type=merge", "--patch", `{"spec":{"template":{"spec":{"containers":[{"name":"web","image":"nginx:1"}]}}}}`)
		Eventually(ctx, shop.template).WithArguments("web").Should(HaveExactElements("web=nginx:1", "log-agent=busybox:1"))
		shop.waitForRollout(ctx, "web")
		Eventually(ctx, shop.images).WithArguments("web").Should(Equal(map[string]int{old: 1, updated: 1}))
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Partitioned"))
	})

	It("what it keeps from running pods, because the API server refuses it there, does not keep another set from them", func(ctx SpecContext) {
		logs, proxy := logAgent().atOnce(), proxy()
		shop.apply(ctx, web("web").Obj(), logs.Obj(), proxy.Obj())
		shop.waitUntilReady(ctx, "log-agent", "proxy")
		before := shop.runs(ctx, "web")
		shop.apply(ctx, logs.Partition("1").Memory("16Mi").Obj()) // which changes the quality of service class
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Degraded").Should(Equal("True/PreflightFailed"))

		for _, partition := range []string{"1", "0"} {
			shop.apply(ctx, proxy.Partition(partition).Image("proxy", "proxy:2").Obj())
			tally := map[string]int{"web=nginx:1 log-agent=busybox:1 proxy=proxy:1": 1, "web=nginx:1 log-agent=busybox:1 proxy=proxy:2": 1}
			if partition == "0" {
				tally = map[string]int{"web=nginx:1 log-agent=busybox:1 proxy=proxy:2": 2}
			}
			Eventually(ctx, shop.tally).WithArguments("web").Should(Equal(tally))
			Eventually(ctx, shop.problems).WithArguments("proxy").Should(BeEmpty())
		}
		Eventually(ctx, shop.condition).WithArguments("proxy", "Ready").Should(Equal("True/AllPodsUpdated"))
		// It is tried again when the template has followed.
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Degraded").Should(Equal("True/PreflightFailed"))
		shop.expectRestarts(ctx, "web", before, 1, "proxy")
	})

	It("pods that failed beyond it go back to the template, when it was raised with the correction", func(ctx SpecContext) {
		logs := logAgent().atOnce().OnFailure(v1alpha1.HaltFailurePolicy)
		shop.apply(ctx, web("web").Replicas(3).Obj())
		shop.inject(ctx, logs, "web")
		shop.apply(ctx, logs.Partition("1").Image("log-agent", "missing:1").Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Halted"))

		shop.apply(ctx, logs.Partition("2").Image("log-agent", "busybox:2").Obj())
		Eventually(ctx, shop.tally).WithArguments("web").Should(Equal(map[string]int{old: 2, updated: 1}))
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Partitioned"))
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Degraded").Should(Equal("False/AsExpected"))
	})

	It("pods that have been updated stay so, when a change comes that it withholds", func(ctx SpecContext) {
		logs := logAgent().atOnce()
		shop.apply(ctx, web("web").Replicas(4).Obj())
		shop.inject(ctx, logs, "web")
		shop.apply(ctx, logs.Partition("2").Image("log-agent", "busybox:2").Obj())
		Eventually(ctx, shop.tally).WithArguments("web").Should(Equal(map[string]int{old: 2, updated: 2}))
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Partitioned"))

		before := shop.runs(ctx, "web")
		shop.apply(ctx, logs.PodMetadata(nil, map[string]string{"logs": "all"}).Obj())
		Eventually(func() string { return shop.kubectl(ctx, "get", "sidecarset", "log-agent", "-o=yaml") }).Should(ContainSubstring("keeps all pods of 1 workload"))
		Consistently(ctx, shop.tally).WithArguments("web").Should(Equal(map[string]int{old: 2, updated: 2}))
		Expect(shop.runs(ctx, "web")).To(Equal(before))
	})
})
