// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var _ = Describe("In-place updates: pods that can not be created or have no node", func() {
	It("delay only their own workload, and the set says which, until they are there", func(ctx SpecContext) {
		// The one node has each port once, and the namespace room for no pod more than there are when the quota comes.
		crowded := web("crowded").Replicas(1)
		crowded.object.Spec.Strategy.RollingUpdate.MaxSurge, crowded.object.Spec.Strategy.RollingUpdate.MaxUnavailable = new(intstr.FromInt32(0)), new(intstr.FromInt32(1))
		crowded.container("web").Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}}
		objects, names := fleet(3, 1)
		shop.apply(ctx, append(objects, crowded.Obj(), web("limited").Replicas(1).Obj())...)
		set := logAgent().AtATime("100%")
		shop.inject(ctx, set, append(names, "crowded", "limited")...)
		shop.kubectl(ctx, "scale", "deployment/crowded", "--replicas=2")
		Eventually(ctx, shop.pods).WithArguments("crowded").Should(ContainElement("not ready"))
		hard := corev1.ResourceList{corev1.ResourcePods: resource.MustParse(fmt.Sprint(len(names) + 3))}
		shop.apply(ctx, &corev1.ResourceQuota{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ResourceQuota"}, ObjectMeta: metav1.ObjectMeta{Name: "few"}, Spec: corev1.ResourceQuotaSpec{Hard: hard},
		})
		shop.kubectl(ctx, "wait", "resourcequota/few", "--for=jsonpath={.status.used.pods}="+hard.Pods().String(), "--timeout=60s")
		shop.kubectl(ctx, "scale", "deployment/limited", "--replicas=2")

		shop.apply(ctx, set.AtATime("1").Image("log-agent", "busybox:2").Obj())
		for _, name := range names {
			Eventually(ctx, shop.template).WithTimeout(4*timeout).WithArguments(name).Should(HaveExactElements("web=nginx:1", "log-agent=busybox:2"), name)
		}
		Eventually(ctx, shop.problems).WithTimeout(2 * timeout).WithArguments("log-agent").Should(ConsistOf(
			MatchRegexp("^crowded: WorkloadStuck: pod crowded-.* has no node: .*free ports"),
			MatchRegexp("^limited: WorkloadStuck: pods can not be created: .*exceeded quota")))
		Expect(shop.condition(ctx, "log-agent", "Degraded")).To(Equal("True/WorkloadStuck"))

		shop.kubectl(ctx, "delete", "resourcequota", "few")
		shop.kubectl(ctx, "scale", "deployment/crowded", "--replicas=1")
		shop.comesTo(ctx, "crowded", 1, "web=nginx:1", "log-agent=busybox:2")
		Eventually(ctx, shop.template).WithTimeout(3 * timeout).WithArguments("limited").Should(HaveExactElements("web=nginx:1", "log-agent=busybox:2"))
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
		Expect(shop.problems(ctx, "log-agent")).To(BeEmpty())
	})
})
