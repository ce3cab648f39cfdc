// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/controllers/promotion"
)

var _ = Describe("In-place updates: a promotion that the controller manager does not answer ends its pause", func() {
	var set *sidecarSet
	begin := func(ctx SpecContext) {
		GinkgoHelper()
		shop.apply(ctx, web("web").Obj())
		shop.inject(ctx, set, "web")
		before := shop.runs(ctx, "web")
		set.Image("log-agent", "busybox:2")
		shop.apply(ctx, set.MinReadySeconds(3600).Obj())
		Eventually(ctx, shop.pods).WithArguments("web").Should(HaveExactElements("web=nginx:1 log-agent=busybox:2", "web=nginx:1 log-agent=busybox:2"))
		Eventually(ctx, shop.isCounted).WithArguments("web").Should(BeTrue())
		shop.expectRestarts(ctx, "web", before, 1, "log-agent")
		stopControllerManager()
		shop.apply(ctx, set.MinReadySeconds(0).Obj())
		Eventually(ctx, shop.promotion).WithArguments("web").Should(Equal(promoting))
	}
	BeforeEach(func() { set = logAgent().atOnce() })

	It("before the content is handed over of a set that is deleted and retains it", func(ctx SpecContext) {
		set.Retain()
		begin(ctx)
		running := shop.runs(ctx, "web")
		shop.kubectl(ctx, "delete", "scs", "log-agent", "--wait=false")
		Consistently(ctx, shop.sets).ShouldNot(BeEmpty())
		startControllerManager(ctx)
		Eventually(ctx, shop.promotion).WithArguments("web").Should(Equal(atRest))
		Eventually(ctx, shop.sets).Should(BeEmpty())
		Expect(shop.promotion(ctx, "web")).To(Equal(atRest))
		Expect(shop.template(ctx, "web")).To(HaveExactElements("web=nginx:1", "log-agent=busybox:2"))
		shop.waitForRollout(ctx, "web")
		shop.expectRestarts(ctx, "web", running, 0)
	})

	It("by a rollout, when nobody may have the template from before any more", func(ctx SpecContext) {
		begin(ctx)
		forbidImage(ctx, shop.name, "busybox:1")
		Eventually(ctx, shop.promotion).WithArguments("web").WithTimeout(promotion.Deadline + 15*time.Second).Should(Equal(atRest))
		Expect(shop.template(ctx, "web")).To(HaveExactElements("web=nginx:1", "log-agent=busybox:2"))
		startControllerManager(ctx)
		shop.comesTo(ctx, "web", 2, "web=nginx:1", "log-agent=busybox:2")
		shop.waitUntilReady(ctx, "log-agent")
	})
})

// forbidImage has the API server refuse Deployments with an image, until the spec ends. It takes the API server a moment.
func forbidImage(ctx SpecContext, namespace, image string) {
	GinkgoHelper()
	name := "forbids-" + namespace
	policy := &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionregistrationv1.MatchResources{
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": namespace}},
				ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
					Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Update},
					Rule:       admissionregistrationv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}},
				}}},
			},
			Validations: []admissionregistrationv1.Validation{{Expression: "object.spec.template.spec.containers.all(c, c.image != \"" + image + "\")"}},
		},
	}
	binding := &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: name, ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
		},
	}
	for _, object := range []client.Object{policy, binding} {
		Expect(k8s.Create(ctx, object)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(k8s.Delete(ctx, object)).To(Succeed()) })
	}
}
