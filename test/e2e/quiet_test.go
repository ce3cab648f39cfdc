// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

// quietFor is the window of the acceptance line.
const quietFor = 30 * time.Second

var _ = Describe("Acceptance 8: once all is as declared, the operator", func() {
	const workloads = 3

	BeforeEach(func(ctx SpecContext) {
		writes := writesFromNow()
		mesh := MakeSidecarSet("mesh").NativeSidecar("proxy", "proxy:1").PodMetadata(map[string]string{"team": "platform"}, nil)
		idle := MakeSidecarSet("idle").Selecting("no", "workload").Container("idle", "idle:1")
		collides := web("collides").Container("log-agent", "fluentd:1")
		objects := []client.Object{logAgent().Obj(), mesh.Obj(), idle.Obj(), collides.Obj()}
		for i := range workloads {
			objects = append(objects, web(fmt.Sprintf("web-%d", i)).InitContainer("migrate", "app:1").Replicas(1).Obj())
		}
		shop.apply(ctx, objects...)
		for i := range workloads {
			name := fmt.Sprintf("web-%d", i)
			Eventually(ctx, shop.template).WithArguments(name).Should(HaveExactElements("proxy=proxy:1", "migrate=app:1", "web=nginx:1", "log-agent=busybox:1"))
		}
		shop.waitUntilReady(ctx, "mesh", "idle")

		By("updating in place")
		shop.apply(ctx, mesh.Image("proxy", "proxy:2").Obj())
		for i := range workloads {
			name := fmt.Sprintf("web-%d", i)
			shop.comesTo(ctx, name, 1, "proxy=proxy:2", "migrate=app:1", "web=nginx:1", "log-agent=busybox:1")
			Eventually(ctx, shop.promotion).WithArguments(name).Should(Equal(atRest))
		}
		shop.waitUntilReady(ctx, "mesh")
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Complete"))
		Eventually(nothingMoreSinceLastAsked(writes)).WithPolling(time.Second).Should(BeTrue())
		Expect(writes.byOperator(shop.name)).To(And(HaveKey("patch deployments"), HaveKey("patch pods")), "the audit log tells the operator's writes")
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
			By(signal)
			restartOperator(ctx, end)
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
