// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

var _ = Describe("Acceptance 10: a SidecarSet's status", func() {
	It("is what kubectl wait waits for, and what kubectl get shows", func(ctx SpecContext) {
		shop.apply(ctx, web("web").Replicas(3).Obj(), web("cart").Obj(), logAgent().Obj())
		shop.kubectl(ctx, "wait", "--for=condition=Ready", "scs/log-agent", "--timeout=60s")
		Expect(shop.pods(ctx, "web")).To(HaveEach("web=nginx:1 log-agent=busybox:1"))
		Expect(shop.pods(ctx, "cart")).To(HaveEach("web=nginx:1 log-agent=busybox:1"))

		header, row := shop.table(ctx, "get", "sidecarsets")
		Expect(header).To(HaveExactElements("NAME", "READY", "WORKLOADS", "PODS", "UPDATED", "AVAILABLE", "PROGRESS", "AGE"))
		Expect(row[:7]).To(HaveExactElements("log-agent", "True", "2", "5", "5", "5", "Complete"))

		set := &v1alpha1.SidecarSet{}
		Expect(k8s.Get(ctx, shop.key("log-agent"), set)).To(Succeed())
		header, row = shop.table(ctx, "get", "scs", "log-agent", "-o", "wide")
		Expect(header[8:]).To(HaveExactElements("REVISION", "STRATEGY", "MESSAGE"))
		Expect(row[8:10]).To(HaveExactElements(set.Status.UpdateRevision, "InPlace"))
		Expect(strings.Join(row[10:], " ")).To(Equal("2 workloads up to date."))
	})

	It("is a subresource: nobody changes it together with the spec", func(ctx SpecContext) {
		shop.apply(ctx, logAgent().Obj())
		shop.waitUntilReady(ctx, "log-agent")
		shop.kubectl(ctx, "patch", "scs", "log-agent", "--type=merge", "-p", `{"spec":{"revisionHistoryLimit":5},"status":{"workloads":7}}`)
		set := &v1alpha1.SidecarSet{}
		Expect(k8s.Get(ctx, shop.key("log-agent"), set)).To(Succeed())
		Expect(set.Spec.RevisionHistoryLimit).To(HaveValue(BeEquivalentTo(5)))
		Expect(set.Status.Workloads).To(BeZero())
		Expect(set.Generation).To(BeEquivalentTo(2))
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/NoWorkloads"))
	})

	It("is not stuck with a first injection that can not end, when the image is corrected", func(ctx SpecContext) {
		shop.apply(ctx, web("web").Obj())
		shop.waitForRollout(ctx, "web")
		shop.apply(ctx, logAgent().Image("log-agent", "missing:1").Obj())
		Eventually(ctx, shop.pods).WithArguments("web").Should(ContainElement("not ready"))
		shop.apply(ctx, logAgent().Image("log-agent", "busybox:2").Obj())
		Eventually(ctx, shop.pods).WithArguments("web").Should(HaveExactElements("web=nginx:1 log-agent=busybox:2", "web=nginx:1 log-agent=busybox:2"))
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
	})

	It("shows a sidecar that does not start, until its image is corrected", func(ctx SpecContext) {
		shop.apply(ctx, web("web").Obj(), logAgent().Obj())
		shop.waitForRollout(ctx, "web")
		Eventually(ctx, shop.template).WithArguments("web").Should(HaveExactElements("web=nginx:1", "log-agent=busybox:1"))
		shop.waitUntilReady(ctx, "log-agent")

		shop.apply(ctx, logAgent().Image("log-agent", "missing:2").Obj())
		Eventually(ctx, shop.pods).WithArguments("web").Should(ContainElement("not ready"))
		counts := func(g Gomega) {
			set := &v1alpha1.SidecarSet{}
			g.Expect(k8s.Get(ctx, shop.key("log-agent"), set)).To(Succeed())
			g.Expect(set.Status.UpdatedPods).To(BeNumerically(">", 0))
			g.Expect(set.Status.UpdatedReadyPods).To(BeZero())
			g.Expect(set.Status.UnavailablePods).To(Equal(set.Status.UpdatedPods))
			g.Expect(set.Status.UpdatedWorkloads).To(BeZero())
			g.Expect(set.Status.CurrentRevision).NotTo(Equal(set.Status.UpdateRevision))
		}
		Eventually(counts).Should(Succeed())
		Expect(shop.condition(ctx, "log-agent", "Ready")).To(Equal("False/UpdatingPods"))
		Expect(shop.pods(ctx, "web")).To(ContainElement("web=nginx:1 log-agent=busybox:1"), "maxUnavailable keeps what works")

		shop.apply(ctx, logAgent().Image("log-agent", "busybox:2").Obj())
		Eventually(ctx, shop.pods).WithArguments("web").Should(HaveExactElements("web=nginx:1 log-agent=busybox:2", "web=nginx:1 log-agent=busybox:2"))
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
	})
})

// table runs a command that prints a table with one row, and returns the words of its header and of the row.
func (n *namespace) table(ctx SpecContext, args ...string) (header, row []string) {
	GinkgoHelper()
	lines := strings.Split(strings.TrimSpace(n.kubectl(ctx, args...)), "\n")
	Expect(lines).To(HaveLen(2))
	return strings.Fields(lines[0]), strings.Fields(lines[1])
}
