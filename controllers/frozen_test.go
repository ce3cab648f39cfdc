// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// Some clusters have policies that nobody may change certain Deployments for a while.
var _ = Describe("A Deployment that may not be changed", func() {
	var w *world
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		w.createDeployment(ctx, "frozen", webPod)
		w.createDeployment(ctx, "web", webPod)
	})
	goOn := func(ctx context.Context, thaw func()) {
		GinkgoHelper()
		thaw()
		w.ahead += tryAgain
		w.reconcileAll(ctx)
		w.converge(ctx)
	}

	It("is named in the status, holds up no other, and follows when it may", func(ctx context.Context) {
		thaw := w.freeze(ctx, "frozen")
		w.createSet(ctx, "agent", inPlace(`containers: [{name: agent, image: "agent:1"}]`))
		w.converge(ctx)
		Expect(w.images(ctx, "web")).To(Equal([]string{"web:1", "agent:1"}))
		Expect(w.images(ctx, "frozen")).To(Equal([]string{"web:1"}))
		problems := w.set(ctx, "agent").Status.Problems
		Expect(problems).To(HaveLen(1))
		Expect(problems[0]).To(HaveField("Name", "frozen"))
		Expect(problems[0].Reason).To(Equal(v1alpha1.ReasonPreflightFailed))
		Expect(problems[0].Message).To(And(ContainSubstring("refuses to have the Deployment changed"), ContainSubstring("it is frozen")))

		By("not trying again all the time")
		w.writes = nil
		w.reconcileSets(ctx)
		Expect(w.writes).To(BeEmpty())

		By("saying the same when it is tried again")
		said := w.set(ctx, "agent").ResourceVersion
		w.ahead += tryAgain
		w.reconcileSets(ctx)
		w.reconcileSets(ctx)
		Expect(w.writes).To(Equal([]string{"patch *v1.Deployment"}))
		Expect(w.set(ctx, "agent").ResourceVersion).To(Equal(said))

		goOn(ctx, thaw)
		Expect(w.images(ctx, "frozen")).To(Equal([]string{"web:1", "agent:1"}))
		Expect(w.set(ctx, "agent").Status.Problems).To(BeEmpty())
	})

	It("does not keep the status of its sets from being told, and lets a set go when it may", func(ctx context.Context) {
		w.createSet(ctx, "agent", inPlace(`containers: [{name: agent, image: "agent:1"}]`))
		w.converge(ctx)
		thaw := w.freeze(ctx, "frozen")
		w.deleteSet(ctx, "agent")
		w.converge(ctx)
		Expect(w.images(ctx, "web")).To(Equal([]string{"web:1"}))
		Expect(w.set(ctx, "agent").Status.Problems).To(ConsistOf(HaveField("Name", "frozen")))
		goOn(ctx, thaw)
		Expect(w.images(ctx, "frozen")).To(Equal([]string{"web:1"}))
		Expect(w.listSets(ctx)).To(BeEmpty())
	})

	It("keeps what is left of a set that is gone until it may be changed, and is named by the others", func(ctx context.Context) {
		w.createSet(ctx, "agent", inPlace(`containers: [{name: agent, image: "agent:1"}]`))
		w.createSet(ctx, "gone", inPlace(`containers: [{name: gone, image: "gone:1"}]`))
		w.converge(ctx)
		thaw := w.freeze(ctx, "frozen")
		gone := w.set(ctx, "gone")
		gone.Finalizers = nil
		Expect(k8s.Update(ctx, gone)).To(Succeed())
		w.deleteSet(ctx, "gone")
		w.converge(ctx)
		Expect(w.images(ctx, "web")).To(Equal([]string{"web:1", "agent:1"}))
		Expect(w.images(ctx, "frozen")).To(Equal([]string{"web:1", "agent:1", "gone:1"}))
		Expect(w.set(ctx, "agent").Status.Problems).To(ConsistOf(HaveField("Name", "frozen")))
		goOn(ctx, thaw)
		Expect(w.images(ctx, "frozen")).To(Equal([]string{"web:1", "agent:1"}))
		Expect(w.set(ctx, "agent").Status.Problems).To(BeEmpty())
	})
})

// freeze lets no update of a Deployment pass, until thaw is called.
func (w *world) freeze(ctx context.Context, name string) (thaw func()) {
	GinkgoHelper()
	policy := &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "freeze-" + w.namespace},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: w.namespace}},
				ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
					Operations: []admissionv1.OperationType{admissionv1.Update},
					Rule:       admissionv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}},
				}}},
			},
			Validations: []admissionv1.Validation{{Expression: "object.metadata.name != '" + name + "'", Message: "it is frozen"}},
		},
	}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: policy.Name},
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: policy.Name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
		},
	}
	Expect(k8s.Create(ctx, policy)).To(Succeed())
	Expect(k8s.Create(ctx, binding)).To(Succeed())
	try := func() error {
		deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}}
		return k8s.Patch(ctx, deployment, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"tried":"true"}}}`)), client.DryRunAll)
	}
	Eventually(try).WithTimeout(20 * time.Second).Should(MatchError(apierrors.IsInvalid, "refused"))
	thaw = func() {
		GinkgoHelper()
		Expect(client.IgnoreNotFound(k8s.Delete(ctx, binding))).To(Succeed())
		Expect(client.IgnoreNotFound(k8s.Delete(ctx, policy))).To(Succeed())
		Eventually(try).WithTimeout(20 * time.Second).Should(Succeed())
	}
	DeferCleanup(func(ctx context.Context) {
		Expect(client.IgnoreNotFound(k8s.Delete(ctx, binding))).To(Succeed())
		Expect(client.IgnoreNotFound(k8s.Delete(ctx, policy))).To(Succeed())
	})
	return thaw
}
