// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// restricted is what the restricted profile asks of a container.
func restricted(c *corev1.Container) {
	c.SecurityContext = &corev1.SecurityContext{
		AllowPrivilegeEscalation: new(false), RunAsNonRoot: new(true),
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
}

var _ = Describe("Acceptance 9 of the fleet: what the API server would refuse", func() {
	const words = "nothing is changed, because the API server would refuse a pod with it; correct the set, or what the namespace allows: forbidden: "

	// untouched expects the workload as it was.
	untouched := func(ctx SpecContext, spec string) {
		GinkgoHelper()
		Expect(shop.spec(ctx, "web")).To(Equal(spec))
		Expect(shop.replicaSets(ctx, "web")).To(Equal(1))
		Expect(shop.pods(ctx, "web")).To(HaveExactElements("web=nginx:1", "web=nginx:1"))
	}

	It("because PodSecurity does not allow it is reported, touches nothing, and is tried once", func(ctx SpecContext) {
		shop.kubectl(ctx, "label", "namespace", shop.name, "pod-security.kubernetes.io/enforce=restricted")
		shop.apply(ctx, MakeDeployment("web").Label("logging", "enabled").Container("web", "nginx:1", restricted).Obj())
		shop.waitForRollout(ctx, "web")
		before := shop.spec(ctx, "web")

		log := writesFromNow()
		shop.apply(ctx, MakeSidecarSet("log-agent").Container("log-agent", "busybox:1").Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Degraded").Should(Equal("True/PreflightFailed"))
		Expect(shop.problems(ctx, "log-agent")).To(HaveExactElements(HavePrefix("web: PreflightFailed: " + words + `violates PodSecurity "restricted:latest"`)))
		shop.kubectl(ctx, "annotate", "deployment", "web", "example.com/touched=1")
		Consistently(ctx, log.dryRuns).WithArguments(shop.name).Should(Equal(map[string]int{"patch deployments": 1, "create pods (403)": 1}))
		untouched(ctx, before)

		shop.apply(ctx, MakeSidecarSet("log-agent").Container("log-agent", "busybox:1", restricted).Obj())
		shop.comesTo(ctx, "web", 2, "web=nginx:1", "log-agent=busybox:1")
		shop.waitUntilReady(ctx, "log-agent")
	})

	It("because a quota is full is reported, touches nothing, and is done when there is room", func(ctx SpecContext) {
		quota := &corev1.ResourceQuota{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ResourceQuota"}, ObjectMeta: metav1.ObjectMeta{Name: "pods"},
			Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("2")}},
		}
		used := func() (string, error) {
			return shop.run(shop.command(ctx, "get", "resourcequota", "pods", "-o", "jsonpath={.status.used.pods}"))
		}
		shop.apply(ctx, quota)
		Eventually(ctx, used).Should(Equal("0"))
		shop.apply(ctx, web("web").Obj())
		shop.waitForRollout(ctx, "web")
		Eventually(ctx, used).Should(Equal("2"))
		before := shop.spec(ctx, "web")
		shop.apply(ctx, logAgent().Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Degraded").Should(Equal("True/PreflightFailed"))
		Expect(shop.problems(ctx, "log-agent")).To(HaveExactElements(
			"web: PreflightFailed: " + words + "exceeded quota: pods, requested: pods=1, used: pods=2, limited: pods=2"))
		Consistently(ctx, shop.replicaSets).WithArguments("web").Should(Equal(1))
		untouched(ctx, before)

		quota.Spec.Hard[corev1.ResourcePods] = resource.MustParse("4")
		shop.apply(ctx, quota)
		Eventually(ctx, shop.template).WithArguments("web").WithTimeout(2 * time.Minute).Should(HaveExactElements("web=nginx:1", "log-agent=busybox:1"))
		shop.waitUntilReady(ctx, "log-agent")
	}, NodeTimeout(4*time.Minute))
})
