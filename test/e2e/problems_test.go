// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("Acceptance 6 and 9: a workload that a set does not fit", func() {
	It("is left as it is, named as a problem and done when the cause goes, while all others are done", func(ctx SpecContext) {
		own := web("own").Container("log-agent", "fluentd:1")
		shop.apply(ctx, own.Obj(), web("fits").Obj(), logAgent().Obj())
		Eventually(ctx, shop.template).WithArguments("fits").Should(HaveExactElements("web=nginx:1", "log-agent=busybox:1"))
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("False/NameConflict"))
		Expect(shop.condition(ctx, "log-agent", "Degraded")).To(Equal("True/NameConflict"))
		Expect(shop.problems(ctx, "log-agent")).To(HaveExactElements(
			`own: NameConflict: container "log-agent" is the application's own`))
		Expect(shop.template(ctx, "own")).To(HaveExactElements("web=nginx:1", "log-agent=fluentd:1"))
		Expect(shop.deployment(ctx, "own").Spec.Template.Spec.Volumes).To(BeEmpty(), "the set is left out whole")

		shop.apply(ctx, own.Rename("log-agent", "fluentd").Obj())
		Eventually(ctx, shop.template).WithArguments("own").Should(ConsistOf("web=nginx:1", "fluentd=fluentd:1", "log-agent=busybox:1"))
		shop.waitUntilReady(ctx, "log-agent")
		Expect(shop.problems(ctx, "log-agent")).To(BeEmpty())
	})

	It("because of an older set shows it in the younger one only, until the older one is gone", func(ctx SpecContext) {
		older := MakeSidecarSet("audit").Container("agent", "audit:1") // and the first one by name, if both are made in the same second
		younger := MakeSidecarSet("metrics").Container("agent", "metrics:1").Container("exporter", "metrics:1")
		shop.apply(ctx, web("web").Obj(), older.Obj(), younger.Obj())
		Eventually(ctx, shop.template).WithArguments("web").Should(HaveExactElements("web=nginx:1", "agent=audit:1"))
		shop.waitUntilReady(ctx, "audit")
		Eventually(ctx, shop.problems).WithArguments("metrics").Should(HaveExactElements(
			`web: NameConflict: container "agent" is rendered by SidecarSet audit, which goes before`))

		shop.kubectl(ctx, "delete", "scs", "audit", "--timeout=60s")
		Eventually(ctx, shop.template).WithArguments("web").Should(HaveExactElements("web=nginx:1", "agent=metrics:1", "exporter=metrics:1"))
		Eventually(ctx, shop.condition).WithArguments("metrics", "Ready").Should(Equal("True/AllPodsUpdated"))
	})

	It("because the API server refuses the result shows the API server's words, and the other set is done", func(ctx SpecContext) {
		small := web("small").MemoryOfPod("32Mi")
		greedy := MakeSidecarSet("greedy").Container("greedy", "greedy:1", memory("64Mi"))
		shop.apply(ctx, small.Obj(), web("large").Obj(), greedy.Obj(), logAgent().Obj())
		Eventually(ctx, shop.template).WithArguments("large").Should(ConsistOf("web=nginx:1", "greedy=greedy:1", "log-agent=busybox:1"))
		Eventually(ctx, shop.template).WithArguments("small").Should(HaveExactElements("web=nginx:1", "log-agent=busybox:1"))
		shop.waitUntilReady(ctx, "log-agent")
		Eventually(ctx, shop.condition).WithArguments("greedy", "Degraded").Should(Equal("True/PreflightFailed"))
		Expect(shop.problems(ctx, "greedy")).To(HaveExactElements(
			And(HavePrefix("small: PreflightFailed: the API server refuses it: "), ContainSubstring("aggregate container requests"))))

		shop.apply(ctx, small.MemoryOfPod("256Mi").Obj())
		Eventually(ctx, shop.template).WithArguments("small").Should(ConsistOf("web=nginx:1", "log-agent=busybox:1", "greedy=greedy:1"))
		Eventually(ctx, shop.condition).WithArguments("greedy", "Ready").Should(Equal("True/AllPodsUpdated"))
	})
})
