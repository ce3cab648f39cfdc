// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

var _ = Describe("While the operator is away", func() {
	It("a deleted set waits for it, and is released when it comes back", func(ctx SpecContext) {
		shop.apply(ctx, web("web").Obj())
		before := shop.spec(ctx, "web")
		shop.apply(ctx, logAgent().Obj())
		Eventually(ctx, shop.template).WithArguments("web").Should(HaveExactElements("web=nginx:1", "log-agent=busybox:1"))

		takeOperatorAway((*localcluster.Process).Stop)
		shop.kubectl(ctx, "delete", "scs", "log-agent", "--wait=false")
		Expect(shop.sets(ctx)).To(ConsistOf("log-agent"))

		startOperator(ctx)
		Eventually(ctx, shop.sets).Should(BeEmpty())
		Expect(shop.traces(ctx, "web")).To(BeEmpty())
		Expect(shop.spec(ctx, "web")).To(Equal(before))
	})

	It("labels, workloads and sets change, and it makes up for all of it", func(ctx SpecContext) {
		shop.apply(ctx, web("loses-label").Obj(), web("goes").Obj(), web("stays").Obj(), logAgent().Obj())
		for _, name := range []string{"loses-label", "goes", "stays"} {
			Eventually(ctx, shop.template).WithArguments(name).Should(HaveExactElements("web=nginx:1", "log-agent=busybox:1"))
		}
		takeOperatorAway((*localcluster.Process).Kill)
		shop.kubectl(ctx, "label", "deployment", "loses-label", "logging-")
		shop.kubectl(ctx, "delete", "deployment", "goes")
		shop.apply(ctx, logAgent().Image("log-agent", "busybox:2").Obj(), web("comes").Obj())

		startOperator(ctx)
		for _, name := range []string{"comes", "stays"} {
			Eventually(ctx, shop.template).WithArguments(name).Should(HaveExactElements("web=nginx:1", "log-agent=busybox:2"), name)
		}
		Eventually(ctx, shop.traces).WithArguments("loses-label").Should(BeEmpty())
		Expect(shop.template(ctx, "loses-label")).To(HaveExactElements("web=nginx:1"))
		shop.waitUntilReady(ctx, "log-agent")
	})

	It("what it was doing when it was killed is finished, with one new ReplicaSet each", func(ctx SpecContext) {
		const workloads = 10
		name := func(i int) string { return fmt.Sprintf("web-%d", i) }
		var applications []client.Object
		for i := range workloads {
			applications = append(applications, web(name(i)).Replicas(1).Obj())
		}
		shop.apply(ctx, applications...)
		writes := writesFromNow()
		shop.apply(ctx, logAgent().Obj())
		Eventually(writes.byOperator).WithArguments(shop.name).WithPolling(interval / 10).Should(HaveKeyWithValue("patch deployments", BeNumerically(">=", workloads/2)))
		takeOperatorAway((*localcluster.Process).Kill)
		Expect(shop.condition(ctx, "log-agent", "Ready")).NotTo(HavePrefix("True"))

		startOperator(ctx)
		for i := range workloads {
			Eventually(ctx, shop.template).WithArguments(name(i)).Should(HaveExactElements("web=nginx:1", "log-agent=busybox:1"))
			shop.waitForRollout(ctx, name(i))
			Expect(shop.replicaSets(ctx, name(i))).To(Equal(2))
		}
		shop.waitUntilReady(ctx, "log-agent")
	})
})
