// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("Acceptance 2: a SidecarSet reaches", func() {
	const plain, injected = "web=nginx:1", "web=nginx:1 log-agent=busybox:1"

	It("a Deployment with running pods, one created later, and none that lacks the label", func(ctx SpecContext) {
		shop.apply(ctx, web("running").Obj(), MakeDeployment("other").Container("web", "nginx:1").Obj())
		Eventually(ctx, shop.pods).WithArguments("running").Should(HaveExactElements(plain, plain))

		shop.apply(ctx, logAgent().Obj())
		Eventually(ctx, shop.pods).WithArguments("running").Should(HaveExactElements(injected, injected))

		shop.apply(ctx, web("later").Obj())
		Eventually(ctx, shop.pods).WithArguments("later").Should(HaveExactElements(injected, injected))
		Expect(shop.pods(ctx, "other")).To(HaveExactElements(plain, plain))
		shop.waitUntilReady(ctx, "log-agent")
	})

	It("a Deployment no more that loses the label, and again when it has it back", func(ctx SpecContext) {
		shop.apply(ctx, web("web").Obj(), web("stays").Obj(), logAgent().Obj())
		for _, name := range []string{"web", "stays"} {
			Eventually(ctx, shop.pods).WithArguments(name).Should(HaveExactElements(injected, injected))
		}

		shop.kubectl(ctx, "label", "deployment", "web", "logging-")
		Eventually(ctx, shop.pods).WithArguments("web").Should(HaveExactElements(plain, plain))
		Eventually(ctx, shop.traces).WithArguments("web").Should(BeEmpty())
		Expect(shop.pods(ctx, "stays")).To(HaveExactElements(injected, injected))

		shop.kubectl(ctx, "label", "deployment", "web", "logging=enabled")
		Eventually(ctx, shop.pods).WithArguments("web").Should(HaveExactElements(injected, injected))
	})

	It("no Deployment whose owner excluded it: from every set, or from those named", func(ctx SpecContext) {
		shop.apply(ctx,
			web("without-all").Annotation("sidecarset.io/exclude", "true").Obj(),
			web("without-two").Annotation("sidecarset.io/exclude", "metrics, log-agent").Obj(),
			web("with-all").Obj(),
			logAgent().Obj(),
			MakeSidecarSet("proxy").Container("proxy", "proxy:1").Obj(),
		)
		Eventually(ctx, shop.template).WithArguments("with-all").Should(ConsistOf("web=nginx:1", "log-agent=busybox:1", "proxy=proxy:1"))
		Eventually(ctx, shop.template).WithArguments("without-two").Should(HaveExactElements("web=nginx:1", "proxy=proxy:1"))
		shop.waitUntilReady(ctx, "log-agent", "proxy")
		Expect(shop.template(ctx, "without-all")).To(HaveExactElements("web=nginx:1"))
		Expect(shop.traces(ctx, "without-all")).To(BeEmpty())

		By("letting sets in again, and taking a name off the list")
		shop.kubectl(ctx, "annotate", "deployment", "without-all", "sidecarset.io/exclude-")
		shop.kubectl(ctx, "annotate", "--overwrite", "deployment", "without-two", "sidecarset.io/exclude=metrics")
		By("excluding a Deployment that has sidecars")
		shop.kubectl(ctx, "annotate", "deployment", "with-all", "sidecarset.io/exclude=true")
		for _, let := range []string{"without-all", "without-two"} {
			Eventually(ctx, shop.template).WithArguments(let).Should(ConsistOf("web=nginx:1", "log-agent=busybox:1", "proxy=proxy:1"), let)
		}
		Eventually(ctx, shop.pods).WithArguments("with-all").Should(HaveExactElements(plain, plain))
		Eventually(ctx, shop.traces).WithArguments("with-all").Should(BeEmpty())
	})

	It("nothing when it selects nothing, and is Ready with reason NoWorkloads", func(ctx SpecContext) {
		shop.apply(ctx, logAgent().Obj(), MakeDeployment("other").Container("web", "nginx:1").Obj())
		shop.waitUntilReady(ctx, "log-agent")
		Expect(shop.condition(ctx, "log-agent", "Ready")).To(Equal("True/NoWorkloads"))
		Expect(shop.condition(ctx, "log-agent", "Progressing")).To(Equal("False/Complete"))
		Expect(shop.condition(ctx, "log-agent", "Degraded")).To(Equal("False/AsExpected"))

		shop.kubectl(ctx, "delete", "scs", "log-agent", "--timeout=60s")
		Expect(shop.template(ctx, "other")).To(HaveExactElements("web=nginx:1"))
	})
})
