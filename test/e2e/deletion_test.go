// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var _ = Describe("Acceptance 10: deletion", func() {
	It("with deletionPolicy Retain leaves the content to the Deployment's owner, in the same ReplicaSet", func(ctx SpecContext) {
		shop.apply(ctx, web("web").Obj(), logAgent().Retain().Obj())
		Eventually(ctx, shop.template).WithArguments("web").Should(HaveExactElements("web=nginx:1", "log-agent=busybox:1"))
		shop.waitForRollout(ctx, "web")
		shop.waitUntilReady(ctx, "log-agent")
		before, replicaSets := shop.spec(ctx, "web"), shop.replicaSetsOf(ctx, "web")

		shop.kubectl(ctx, "delete", "scs", "log-agent", "--timeout=60s")
		Expect(shop.deployment(ctx, "web").Annotations).NotTo(HaveKey("sidecarset.io/target-revisions"))
		Expect(shop.traces(ctx, "web")).NotTo(ContainElement(ContainSubstring("managed fields")))
		Consistently(ctx, func() string { return shop.spec(ctx, "web") }).WithPolling(settled / 3).Should(Equal(before))
		Expect(shop.replicaSetsOf(ctx, "web")).To(ConsistOf(replicaSets))
		shop.waitForRollout(ctx, "web")
	})

	It("of one of two sets with deletionPolicy Retain leaves its content, and the other in charge of its own", func(ctx SpecContext) {
		proxy := MakeSidecarSet("proxy").NativeSidecar("proxy", "proxy:1")
		shop.apply(ctx, web("web").Obj(), logAgent().Retain().Obj(), proxy.Obj())
		Eventually(ctx, shop.template).WithArguments("web").Should(HaveExactElements("proxy=proxy:1", "web=nginx:1", "log-agent=busybox:1"))
		shop.waitUntilReady(ctx, "log-agent", "proxy")

		shop.kubectl(ctx, "delete", "scs", "log-agent", "--timeout=60s")
		shop.apply(ctx, proxy.Image("proxy", "proxy:2").Obj())
		Eventually(ctx, shop.template).WithArguments("web").Should(HaveExactElements("proxy=proxy:2", "web=nginx:1", "log-agent=busybox:1"))
		shop.kubectl(ctx, "delete", "scs", "proxy", "--timeout=60s")
		Expect(shop.template(ctx, "web")).To(HaveExactElements("web=nginx:1", "log-agent=busybox:1"))
		Expect(shop.traces(ctx, "web")).To(BeEmpty())
	})

	It("of ten sets leaves nothing of them, in two ReplicaSets and no more", func(ctx SpecContext) {
		shop.apply(ctx, web("web").Obj())
		shop.waitForRollout(ctx, "web")
		before := shop.spec(ctx, "web")
		var sets []client.Object
		for i := range 10 {
			volume := fmt.Sprintf("volume-%d", i)
			sets = append(sets, MakeSidecarSet(fmt.Sprintf("set-%d", i)).
				NativeSidecar(fmt.Sprintf("proxy-%d", i), "proxy:1").
				Container(fmt.Sprintf("agent-%d", i), "agent:1", mount(volume, "/data")).
				Volume(volume).
				PodMetadata(map[string]string{fmt.Sprintf("example.com/set-%d", i): "1"}, nil).
				Obj())
		}
		shop.apply(ctx, sets...)
		Eventually(ctx, shop.template).WithArguments("web").Should(HaveLen(21))
		shop.waitForRollout(ctx, "web")

		shop.kubectl(ctx, "delete", "scs", "--all", "--timeout=60s")
		Expect(shop.traces(ctx, "web")).To(BeEmpty())
		Expect(shop.spec(ctx, "web")).To(Equal(before))
		shop.waitForRollout(ctx, "web")
		Consistently(ctx, shop.replicaSets).WithArguments("web").Should(Equal(2))
		Eventually(ctx, func() ([]appsv1.ControllerRevision, error) {
			var revisions appsv1.ControllerRevisionList
			err := k8s.List(ctx, &revisions, client.InNamespace(shop.name))
			return revisions.Items, err
		}).Should(BeEmpty())
	})

	It("of a namespace takes its sets along", func(ctx SpecContext) {
		shop.apply(ctx, web("web").Obj(), web("cart").Obj(), logAgent().Obj(), MakeSidecarSet("proxy").Retain().Container("proxy", "proxy:1").Obj())
		Eventually(ctx, shop.template).WithArguments("web").Should(HaveLen(3))
		shop.kubectl(ctx, "delete", "namespace", shop.name, "--timeout=60s")
		Expect(k8s.Get(ctx, client.ObjectKey{Name: shop.name}, &corev1.Namespace{})).To(Satisfy(apierrors.IsNotFound))
	})
})
