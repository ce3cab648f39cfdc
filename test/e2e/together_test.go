// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("Acceptance 7: sets that are created together", func() {
	It("make one new ReplicaSet, and go on in it when their images are changed together", func(ctx SpecContext) {
		shop.apply(ctx, web("web").Obj())
		shop.waitForRollout(ctx, "web")
		proxy := MakeSidecarSet("proxy").NativeSidecar("proxy", "proxy:1")

		shop.apply(ctx, logAgent().Obj(), proxy.Obj())
		Eventually(ctx, shop.template).WithArguments("web").Should(HaveExactElements("proxy=proxy:1", "web=nginx:1", "log-agent=busybox:1"))
		shop.waitForRollout(ctx, "web")
		shop.waitUntilReady(ctx, "log-agent", "proxy")
		Expect(shop.replicaSets(ctx, "web")).To(Equal(2))

		shop.apply(ctx, logAgent().Image("log-agent", "busybox:2").Obj(), proxy.Image("proxy", "proxy:2").Obj())
		Eventually(ctx, shop.template).WithArguments("web").Should(HaveExactElements("proxy=proxy:2", "web=nginx:1", "log-agent=busybox:2"))
		shop.waitForRollout(ctx, "web")
		Consistently(ctx, shop.replicaSets).WithArguments("web").Should(Equal(2))
	})

	It("replace the pods once when the image of another set is changed with them, and restart nothing in pods that are replaced anyway", func(ctx SpecContext) {
		agent := logAgent().atOnce()
		shop.apply(ctx, web("web").Obj())
		shop.inject(ctx, agent, "web")
		writes := writesFromNow()

		shop.apply(ctx, agent.Image("log-agent", "busybox:2").Obj(), MakeSidecarSet("proxy").NativeSidecar("proxy", "proxy:1").atOnce().Obj())
		shop.comesTo(ctx, "web", 2, "proxy=proxy:1", "web=nginx:1", "log-agent=busybox:2")
		shop.waitForRollout(ctx, "web")
		shop.waitUntilReady(ctx, "log-agent", "proxy")
		Expect(shop.replicaSets(ctx, "web")).To(Equal(3))
		counts, err := writes.byOperator(shop.name)
		Expect(err).NotTo(HaveOccurred())
		Expect(counts).NotTo(HaveKey("patch pods"), "their sidecars were restarted, and then they were replaced")
	})
})
