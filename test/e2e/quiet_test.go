// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

// quietFor is the window of the acceptance line.
const quietFor = 30 * time.Second

var _ = Describe("Acceptance 8: once all is as declared, the operator", func() {
	const workloads = 5

	BeforeEach(func(ctx SpecContext) {
		for i := range workloads {
			shop.apply(ctx, web(fmt.Sprintf("web-%d", i)).Obj())
		}
		mesh := MakeSidecarSet("mesh").NativeSidecar("proxy", "proxy:1").PodMetadata(map[string]string{"team": "platform"}, nil)
		idle := MakeSidecarSet("idle").Selecting("no", "workload").Container("idle", "idle:1")
		all := writesFromNow()
		shop.apply(ctx, logAgent().Obj(), mesh.Obj(), idle.Obj())
		for i := range workloads {
			Eventually(ctx, shop.template).WithArguments(fmt.Sprintf("web-%d", i)).Should(HaveLen(3))
			shop.waitForRollout(ctx, fmt.Sprintf("web-%d", i))
		}
		shop.waitUntilReady(ctx, "log-agent", "mesh", "idle")
		Eventually(settledWrites(all)).WithTimeout(timeout).WithPolling(settled).Should(BeTrue())
		Expect(all.byOperator(shop.name)).To(HaveKey("patch deployments"), "what the audit log says of the operator")
	})

	It("writes nothing for 30 s, whatever in the objects is touched that is not its own", func(ctx SpecContext) {
		writes := writesFromNow()
		shop.kubectl(ctx, "annotate", "scs", "log-agent", "example.com/touched=1")
		shop.kubectl(ctx, "label", "scs", "idle", "example.com/touched=1")
		shop.kubectl(ctx, "annotate", "deployment", "web-0", "example.com/touched=1")
		shop.kubectl(ctx, "label", "deployment", "web-1", "example.com/touched=1")
		shop.kubectl(ctx, "annotate", "pods", "-l", "app=web-2", "example.com/touched=1")
		shop.kubectl(ctx, "annotate", "replicasets", "-l", "app=web-3", "example.com/touched=1")
		shop.kubectl(ctx, "annotate", "controllerrevisions", "--all", "example.com/touched=1")
		shop.kubectl(ctx, "set", "env", "deployment", "web-4", "--list")

		Consistently(writes.byOperator).WithArguments(shop.name).WithTimeout(quietFor).WithPolling(time.Second).Should(BeEmpty())
		Expect(writes.outsideSpecs()).To(BeEmpty())
		Expect(operator.Done()).NotTo(BeClosed())
	})

	DescribeTable("writes nothing when it is started again",
		func(ctx SpecContext, end func(*localcluster.Process) error) {
			writes := writesFromNow()
			takeOperatorAway(end)
			startOperator(ctx)

			By("working again: it does what it is told in the neighbourhood")
			neighbour := newNamespace(ctx)
			neighbour.apply(ctx, web("web").Obj(), logAgent().Obj())
			Eventually(ctx, neighbour.template).WithArguments("web").Should(HaveExactElements("web=nginx:1", "log-agent=busybox:1"))
			neighbour.waitUntilReady(ctx, "log-agent")

			Consistently(writes.byOperator).WithArguments(shop.name).WithPolling(time.Second).Should(BeEmpty())
			Expect(writes.outsideSpecs()).To(BeEmpty())
		},
		Entry("after SIGTERM", (*localcluster.Process).Stop),
		Entry("after SIGKILL", (*localcluster.Process).Kill),
	)
})

// settledWrites is true when the operator wrote nothing to the spec's namespace since the last time it was asked.
func settledWrites(log writeLog) func() (bool, error) {
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
