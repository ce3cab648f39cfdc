// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/promotion"
)

var _ = Describe("The intent of an earlier promotion", func() {
	It("is removed when somebody has brought it back, and keeps nothing from being done", func(ctx context.Context) {
		w := newWorld(ctx)
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "agent", agentSpec)
		w.converge(ctx)
		w.editDeployment(ctx, "web", "kubectl-rollout", func(d *appsv1.Deployment) {
			d.Annotations[v1alpha1.PromotionAnnotation] = (&promotion.Intent{ReplicaSet: "gone"}).Encode()
		})
		w.updateSet(ctx, "agent", upgraded(agentSpec))
		w.converge(ctx)
		Expect(w.deployment(ctx, "web").Annotations).NotTo(HaveKey(v1alpha1.PromotionAnnotation))
		Expect(w.deployment(ctx, "web").Spec.Template.Spec.Containers[1].Image).To(Equal("agent:2"))
	})
})

var _ = Describe("A ReplicaSet that may not be changed", func() {
	It("does not keep its Deployment paused, and is tried again after a while", func(ctx context.Context) {
		w := newWorld(ctx)
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "agent", inPlace(`containers: [{name: agent, image: "agent:1"}]`))
		w.converge(ctx)
		w.rollOut(ctx, "web", 1)
		w.converge(ctx)
		w.updateSet(ctx, "agent", inPlace(`containers: [{name: agent, image: "agent:2"}]`))
		w.reconcileSets(ctx)

		refused := apierrors.NewForbidden(appsv1.Resource("replicasets"), "web", errors.New("the policy of the house"))
		w.writes = nil
		w.before = func(write string) error {
			if write == "patch *v1.ReplicaSet" {
				return refused
			}
			return nil
		}
		step := func() {
			reportRollout(ctx, w.deployment(ctx, "web"), 1)
			_, err := w.deployments.Reconcile(ctx, requestFor(w.deployment(ctx, "web")))
			Expect(err).NotTo(HaveOccurred())
			w.restartContainers(ctx)
		}
		for range 10 {
			step()
		}
		Expect(w.deployment(ctx, "web").Spec.Paused).To(BeFalse())
		Expect(slices.DeleteFunc(slices.Clone(w.writes), func(write string) bool { return write != "patch *v1.ReplicaSet" })).To(HaveLen(1))
		w.reconcileSets(ctx)
		Expect(w.set(ctx, "agent").Status.Problems).To(ContainElement(HaveField("Message", ContainSubstring("the policy of the house"))))

		w.before = func(string) error { return nil }
		w.ahead += tryAgain
		for range 10 {
			step()
		}
		deployment := w.deployment(ctx, "web")
		Expect(deployment.Spec.Paused).To(BeFalse())
		Expect(deployment.Spec.Template.Spec.Containers[1].Image).To(Equal("agent:2"))
	})
})
