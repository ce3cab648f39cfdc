// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

var _ = Describe("A partition", func() {
	var w *world
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		w.createDeployment(ctx, "web", webPod)
	})
	spec := func(strategy, image, level string) string {
		return fmt.Sprintf(`{selector: {}, updateStrategy: {%s}, containers: [{name: agent, image: %q, env: [{name: LEVEL, value: %s}]}]}`, strategy, image, level)
	}
	levels := func(ctx context.Context) (levels []string) {
		for _, container := range w.deployment(ctx, "web").Spec.Template.Spec.Containers[1:] {
			levels = append(levels, container.Image+" "+container.Env[0].Value)
		}
		return levels
	}
	const inPlace, rolling = "type: InPlace, partition: 1", "type: RollingUpdate, partition: 1"

	It("keeps a change that replaces pods from all of them, until it is 0", func(ctx context.Context) {
		w.createSet(ctx, "agent", spec(inPlace, "agent:1", "info"))
		w.converge(ctx)
		Expect(levels(ctx)).To(Equal([]string{"agent:1 info"}), "a first injection has no old revision")
		w.updateSet(ctx, "agent", spec(inPlace, "agent:1", "debug"))
		w.converge(ctx)
		Expect(levels(ctx)).To(Equal([]string{"agent:1 info"}))
		Expect(w.line(ctx, "agent")).To(ContainSubstring("Partitioned"))
		w.updateSet(ctx, "agent", spec(rolling, "agent:2", "info"))
		w.converge(ctx)
		Expect(levels(ctx)).To(Equal([]string{"agent:1 info"}))

		w.updateSet(ctx, "agent", spec("partition: 0", "agent:1", "debug"))
		w.converge(ctx)
		Expect(levels(ctx)).To(Equal([]string{"agent:1 debug"}))
	})

	It("keeps what a new revision that collides would take out", func(ctx context.Context) {
		w.createSet(ctx, "agent", spec(inPlace, "agent:1", "info"))
		w.converge(ctx)
		w.rollOut(ctx, "web", 1)
		w.converge(ctx)
		w.updateSet(ctx, "agent", strings.ReplaceAll(spec(inPlace, "agent:2", "info"), "name: agent", "name: web"))
		w.converge(ctx)
		Expect(levels(ctx)).To(Equal([]string{"agent:1 info"}))
		Expect(w.set(ctx, "agent").Status.Problems).To(ConsistOf(HaveField("Reason", v1alpha1.ReasonNameConflict)))
		w.writes = nil
		w.reconcileAll(ctx)
		Expect(w.writes).To(BeEmpty())

		w.updateSet(ctx, "agent", spec(inPlace, "agent:1", "info"))
		w.converge(ctx)
		Expect(w.set(ctx, "agent").Status.Problems).To(BeEmpty())
	})

	DescribeTable("keeps what somebody took out of the template", func(ctx context.Context, update string) {
		w.createSet(ctx, "agent", spec(inPlace, "agent:1", "info"))
		w.converge(ctx)
		w.rollOut(ctx, "web", 1)
		w.converge(ctx)
		w.updateSet(ctx, "agent", update)
		w.converge(ctx)
		w.editDeployment(ctx, "web", "kubectl-replace", func(d *appsv1.Deployment) {
			d.Spec.Template.Spec.Containers = d.Spec.Template.Spec.Containers[:1]
			delete(d.Spec.Template.Annotations, v1alpha1.RevisionsAnnotation)
		})
		w.converge(ctx)
		Expect(levels(ctx)).To(Equal([]string{"agent:1 info"}))
		w.rollOut(ctx, "web", 1)
		w.converge(ctx)
		Expect(levels(ctx)).To(Equal([]string{"agent:1 info"}))
		Expect(w.line(ctx, "agent")).To(ContainSubstring("Progressing=False/Partitioned"))

		w.updateSet(ctx, "agent", strings.ReplaceAll(update, "partition: 1", "partition: 0"))
		w.carryOn(ctx, "web")
		Expect(append(levels(ctx), w.podImages(ctx)...)).To(ContainElement(HavePrefix("agent:2")))
	},
		Entry("of a change that goes into running pods", spec(inPlace, "agent:2", "info")),
		Entry("of a change that replaces pods", spec(inPlace, "agent:2", "debug")),
	)

	Context("that keeps pods from a change that goes into running pods", func() {
		var right corev1.Container
		requesting := func(image string) string {
			return strings.ReplaceAll(spec(inPlace, image, "info"), "image: ", "resources: {requests: {cpu: 10m}}, image: ")
		}
		sidecar := func(ctx context.Context) corev1.Container {
			return w.deployment(ctx, "web").Spec.Template.Spec.Containers[1]
		}
		edit := func(ctx context.Context, change func(sidecar *corev1.Container)) {
			w.editDeployment(ctx, "web", "kubectl-edit", func(d *appsv1.Deployment) { change(&d.Spec.Template.Spec.Containers[1]) })
			w.converge(ctx)
		}
		BeforeEach(func(ctx context.Context) {
			w.createSet(ctx, "agent", requesting("agent:1"))
			w.converge(ctx)
			w.rollOut(ctx, "web", 1)
			w.converge(ctx)
			w.updateSet(ctx, "agent", requesting("agent:2"))
			w.converge(ctx)
			right = sidecar(ctx)
			Expect(right.Image).To(Equal("agent:1"))
		})

		It("puts right what somebody took out of the template, at the old revision", func(ctx context.Context) {
			edit(ctx, func(sidecar *corev1.Container) { sidecar.Resources = corev1.ResourceRequirements{} })
			Expect(sidecar(ctx)).To(Equal(right))
			Expect(w.set(ctx, "agent").Status.Problems).To(BeEmpty())
		})

		It("reports what somebody wants otherwise there", func(ctx context.Context) {
			edit(ctx, func(sidecar *corev1.Container) { sidecar.Image = "agent:9" })
			Expect(w.set(ctx, "agent").Status.Problems).To(ConsistOf(HaveField("Reason", v1alpha1.ReasonFieldConflict)))
			edit(ctx, func(sidecar *corev1.Container) { sidecar.Image = "agent:1" })
			Expect(w.set(ctx, "agent").Status.Problems).To(BeEmpty())
		})
	})

	It("holds up no other set", func(ctx context.Context) {
		w.createSet(ctx, "agent", spec(inPlace, "agent:1", "info"))
		w.createSet(ctx, "b-other", strings.ReplaceAll(spec("partition: 0", "other:1", "info"), "name: agent", "name: other"))
		w.converge(ctx)
		w.updateSet(ctx, "agent", spec(inPlace, "agent:2", "info")) // which alone would go in place
		w.updateSet(ctx, "b-other", strings.ReplaceAll(spec("partition: 0", "other:1", "debug"), "name: agent", "name: other"))
		w.converge(ctx)
		Expect(levels(ctx)).To(ContainElements("agent:1 info", "other:1 debug"))
	})

	It("keeps no other set from running pods", func(ctx context.Context) {
		other := func(level string) string {
			return strings.ReplaceAll(spec("partition: 1", "other:1", level), "name: agent", "name: other")
		}
		w.editDeployment(ctx, "web", "kubectl", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(3)) })
		w.createSet(ctx, "agent", spec(inPlace, "agent:1", "info"))
		w.createSet(ctx, "b-other", other("info"))
		w.converge(ctx)
		w.rollOut(ctx, "web", 3)
		w.converge(ctx)
		w.updateSet(ctx, "b-other", other("debug"))
		w.updateSet(ctx, "agent", spec(inPlace, "agent:2", "info"))
		w.reconcileSets(ctx)
		reportRollout(ctx, w.deployment(ctx, "web"), 3)
		w.converge(ctx)
		Expect(levels(ctx)).To(ConsistOf("agent:1 info", "other:1 info"))
		Expect(w.podImages(ctx)).To(ContainElement("agent:2"))
		Expect(w.line(ctx, "b-other")).To(ContainSubstring("Progressing=False/Partitioned"))
	})

	It("names what the API server refuses in running pods, and does not try that at every event", func(ctx context.Context) {
		w.editDeployment(ctx, "web", "kubectl", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(3)) })
		w.createSet(ctx, "agent", spec(inPlace, "agent:1", "info"))
		w.converge(ctx)
		w.rollOut(ctx, "web", 3)
		w.converge(ctx)
		w.answer("patch *v1.Pod", apierrors.NewForbidden(corev1.Resource("pods"), "web", errors.New("not in place")))
		w.updateSet(ctx, "agent", spec(inPlace, "agent:2", "info"))
		w.carryOn(ctx, "web")
		Expect(levels(ctx)).To(Equal([]string{"agent:1 info"}))
		Expect(w.set(ctx, "agent").Status.Problems).To(ConsistOf(HaveField("Message", And(ContainSubstring("set partition to 0"), ContainSubstring("not in place")))))
		w.writes = nil
		w.reconcileAll(ctx)
		Expect(w.writes).To(BeEmpty())

		w.updateSet(ctx, "agent", spec("type: InPlace, partition: 0", "agent:2", "info"))
		w.carryOn(ctx, "web")
		Expect(levels(ctx)).To(Equal([]string{"agent:2 info"}))
	})

	It("does not keep a revision from coming back that has proven itself", func(ctx context.Context) {
		w.createSet(ctx, "agent", spec("partition: 0", "agent:1", "info"))
		w.converge(ctx)
		w.rollOut(ctx, "web", 1)
		w.converge(ctx)
		w.updateSet(ctx, "agent", spec("partition: 0", "agent:1", "debug"))
		w.converge(ctx)
		Expect(levels(ctx)).To(Equal([]string{"agent:1 debug"}))
		w.updateSet(ctx, "agent", spec(inPlace, "agent:1", "info"))
		w.converge(ctx)
		Expect(levels(ctx)).To(Equal([]string{"agent:1 info"}))
	})
})
