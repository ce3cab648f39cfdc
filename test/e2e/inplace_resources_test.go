// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

// The API server lets nobody take a request or a limit out of a running pod (validateContainerResize in pkg/apis/core/validation).
var _ = Describe("In-place updates of resources that can not be taken out of a pod", func() {
	half := map[string]int{"web=nginx:1 log-agent=busybox:1": 1, "web=nginx:1 log-agent=busybox:2": 1}
	// agentsHave returns what the sidecar requests and is limited to, in all pods of web.
	agentsHave := func(ctx SpecContext, field string) []string {
		GinkgoHelper()
		return strings.Fields(shop.kubectl(ctx, "get", "pods", "-l", "app=web", "-o", `jsonpath={range .items[*]}{.spec.containers[?(@.name=="log-agent")].resources.`+field+`}{"\n"}{end}`))
	}
	burstable := func() *deployment {
		return MakeDeployment("web").Label("logging", "enabled").Container("web", "nginx:1", memory("16Mi"))
	}

	It("leave what an autoscaler requested", func(ctx SpecContext) {
		set := logAgent().atOnce()
		shop.apply(ctx, burstable().Obj())
		shop.inject(ctx, set, "web")
		for pod := range strings.FieldsSeq(shop.kubectl(ctx, "get", "pods", "-l", "app=web", "-o", "name")) {
			shop.kubectl(ctx, "patch", pod, "--subresource=resize", "-p", `{"spec":{"containers":[{"name":"log-agent","resources":{"requests":{"cpu":"5m"}}}]}}`)
		}
		before := shop.runs(ctx, "web")

		set.Image("log-agent", "busybox:2")
		shop.apply(ctx, set.Partition("1").Obj())
		Eventually(ctx, shop.tally).WithArguments("web").Should(Equal(half))
		shop.apply(ctx, set.Partition("0").Obj())
		shop.comesTo(ctx, "web", 2, "web=nginx:1", "log-agent=busybox:2")
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
		shop.expectRestarts(ctx, "web", before, 1, "log-agent")
		Expect(shop.replicaSets(ctx, "web")).To(Equal(2))
		Expect(agentsHave(ctx, "requests.cpu")).To(ConsistOf("5m", "5m"))
	})

	It("leave what a revision brought that is taken back", func(ctx SpecContext) {
		set := logAgent().Memory("16Mi").atOnce().Partition("1")
		shop.apply(ctx, burstable().Obj())
		shop.inject(ctx, set, "web")
		before := shop.runs(ctx, "web")

		limited := logAgent().Memory("16Mi").atOnce().Partition("1").Image("log-agent", "busybox:2")
		limited.object.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}
		shop.apply(ctx, limited.Obj())
		Eventually(ctx, shop.tally).WithArguments("web").Should(Equal(half))
		shop.apply(ctx, set.Obj())
		shop.comesTo(ctx, "web", 2, "web=nginx:1", "log-agent=busybox:1")
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
		Expect(shop.runs(ctx, "web")).To(HaveLen(len(before)))
		for pod := range before {
			Expect(shop.runs(ctx, "web")).To(HaveKey(pod))
		}
		Expect(shop.replicaSets(ctx, "web")).To(Equal(2))
		Expect(agentsHave(ctx, "limits.memory")).To(ConsistOf("64Mi"), "of the pod that was updated")
	})

	It("are put right when the operator died over a change of them that was taken back before it returned", func(ctx SpecContext) {
		set := logAgent().Memory("16Mi").MaxUnavailable("1")
		shop.apply(ctx, burstable().Obj())
		shop.inject(ctx, set, "web")
		before := shop.runs(ctx, "web")
		takeOperatorAway((*localcluster.Process).Kill)
		dying, err := startMortal(ctx, shop.name, death{write: podResize, nth: 1, after: true}.fateOf)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(killMortal, dying)
		shop.apply(ctx, logAgent().Memory("32Mi").MaxUnavailable("1").Obj())
		Eventually(dying.done).Should(BeClosed())
		Expect(agentsHave(ctx, "requests.memory")).To(ConsistOf("16Mi", "32Mi"))

		shop.apply(ctx, set.Obj())
		startOperator(ctx)
		Eventually(func() []string { return agentsHave(ctx, "requests.memory") }).Should(ConsistOf("16Mi", "16Mi"))
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
		shop.expectRestarts(ctx, "web", before, 0)
		Expect(shop.replicaSets(ctx, "web")).To(Equal(2))
	})
})
