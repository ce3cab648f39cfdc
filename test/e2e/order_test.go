// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

var _ = Describe("Acceptance 5: init containers and native sidecars", func() {
	It("stand before the user's own, in the set's order, the older set's first, and an upgrade does not move them", func(ctx SpecContext) {
		mesh := MakeSidecarSet("mesh").NativeSidecar("proxy", "proxy:1").InitContainer("certificates", "proxy:1").NativeSidecar("dns", "dns:1")
		shop.apply(ctx, mesh.Obj())
		shop.waitUntilReady(ctx, "mesh")
		older := &v1alpha1.SidecarSet{}
		Expect(k8s.Get(ctx, shop.key("mesh"), older)).To(Succeed())
		Eventually(time.Now).Should(BeTemporally(">", older.CreationTimestamp.Add(time.Second))) // creation times are in whole seconds
		audit := MakeSidecarSet("audit").NativeSidecar("auditor", "audit:1").Container("shipper", "audit:1")
		shop.apply(ctx,
			web("web").InitContainer("wait", "app:1").InitContainer("migrate", "app:1").Obj(),
			audit.Obj(),
		)
		Eventually(ctx, shop.template).WithArguments("web").Should(HaveExactElements(
			"proxy=proxy:1", "certificates=proxy:1", "dns=dns:1", "auditor=audit:1", "wait=app:1", "migrate=app:1", "web=nginx:1", "shipper=audit:1"))

		shop.apply(ctx, mesh.Image("dns", "dns:2").Obj(), audit.Image("auditor", "audit:2").Obj())
		upgraded := []string{
			"proxy=proxy:1", "certificates=proxy:1", "dns=dns:2", "auditor=audit:2", "wait=app:1", "migrate=app:1", "web=nginx:1", "shipper=audit:1",
		}
		Eventually(ctx, shop.template).WithArguments("web").Should(HaveExactElements(upgraded))
		shop.waitForRollout(ctx, "web")

		By("adding one more of the user's own, and one more to the set")
		shop.apply(ctx, web("web").InitContainer("wait", "app:1").InitContainer("migrate", "app:1").InitContainer("seed", "app:1").Obj())
		shop.apply(ctx, mesh.NativeSidecar("tracer", "tracer:1").Obj())
		Eventually(ctx, shop.template).WithArguments("web").Should(HaveExactElements("proxy=proxy:1", "certificates=proxy:1", "dns=dns:2", "tracer=tracer:1",
			"auditor=audit:2", "wait=app:1", "migrate=app:1", "seed=app:1", "web=nginx:1", "shipper=audit:1"))
	})
})
