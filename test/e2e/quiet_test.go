// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

// quietFor is the window of the acceptance line.
const quietFor = 30 * time.Second

var _ = Describe("Acceptance 8: once all is as declared, the operator", func() {
	BeforeEach(func(ctx SpecContext) {
		writes := writesFromNow()
		mesh := MakeSidecarSet("mesh").NativeSidecar("proxy", "proxy:1").PodMetadata(map[string]string{"team": "platform"}, nil)
		idle := MakeSidecarSet("idle").Selecting("no", "workload").Container("idle", "idle:1")
		collides := web("collides").Container("log-agent", "fluentd:1")
		shop.apply(ctx, web("web").Obj(), web("cart").InitContainer("migrate", "app:1").Obj(), collides.Obj(), logAgent().Obj(), mesh.Obj(), idle.Obj())
		for _, name := range []string{"web", "cart"} {
			Eventually(ctx, shop.template).WithArguments(name).Should(ContainElements("proxy=proxy:1", "log-agent=busybox:1"))
			shop.waitForRollout(ctx, name)
		}
		shop.waitUntilReady(ctx, "mesh", "idle")
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Complete"))
		Eventually(nothingMoreSinceLastAsked(writes)).WithPolling(time.Second).Should(BeTrue())
		Expect(writes.byOperator(shop.name)).To(HaveKey("patch deployments"), "the audit log tells the operator's writes")
	})

	It("writes nothing for 30 s, whatever is touched of the objects that is not its own", func(ctx SpecContext) {
		writes := writesFromNow()
		for _, objects := range []string{"sidecarsets", "deployments", "replicasets", "pods", "controllerrevisions"} {
			shop.kubectl(ctx, "annotate", objects, "--all", "example.com/touched=1")
			shop.kubectl(ctx, "label", objects, "--all", "example.com/touched=1")
		}
		Consistently(writes.byOperator).WithArguments(shop.name).WithTimeout(quietFor).WithPolling(time.Second).Should(BeEmpty())
		Expect(writes.outsideSpecs()).To(BeEmpty())
		Expect(operator.Done()).NotTo(BeClosed())
	})

	It("writes nothing when it is started again, after SIGTERM and after SIGKILL", func(ctx SpecContext) {
		writes := writesFromNow()
		for signal, end := range map[string]func(*localcluster.Process) error{
			"SIGTERM": (*localcluster.Process).Stop,
			"SIGKILL": (*localcluster.Process).Kill,
		} {
			By("starting it after " + signal)
			takeOperatorAway(end)
			startOperator(ctx)
			By("seeing it at work again, in the neighbourhood")
			neighbour := newNamespace(ctx)
			neighbour.apply(ctx, web("web").Obj(), logAgent().Obj())
			Eventually(ctx, neighbour.template).WithArguments("web").Should(HaveExactElements("web=nginx:1", "log-agent=busybox:1"))
			neighbour.waitUntilReady(ctx, "log-agent")
			Expect(writes.byOperator(shop.name)).To(BeEmpty())
		}
		Expect(writes.outsideSpecs()).To(BeEmpty())
	})
})

// nothingMoreSinceLastAsked is true when the operator wrote nothing to the spec's namespace between two calls.
func nothingMoreSinceLastAsked(log writeLog) func() (bool, error) {
	before := -1
	return func() (bool, error) {
		counts, err := log.byOperator(shop.name)
		total := 0
		for _, count := range counts {
			total += count
		}
		same := total == before
		before = total
		return same, err
	}
}
