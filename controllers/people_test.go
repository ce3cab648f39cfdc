// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

var _ = Describe("A rollback by people", func() {
	var w *world
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		w.createDeployment(ctx, "web", webPod)
	})
	// undo does what "kubectl rollout undo" does: the template and the annotations of the Deployment are those of an earlier time.
	undo := func(ctx context.Context, earlier *appsv1.Deployment) {
		GinkgoHelper()
		w.editDeployment(ctx, "web", "kubectl", func(d *appsv1.Deployment) {
			d.Spec.Template, d.Annotations = earlier.Spec.Template, earlier.Annotations
		})
	}
	upgrade := func(ctx context.Context, before, after string) *appsv1.Deployment {
		GinkgoHelper()
		w.createSet(ctx, "agent", rolling(before))
		w.converge(ctx)
		earlier := w.deployment(ctx, "web")
		w.updateSet(ctx, "agent", rolling(after))
		w.converge(ctx)
		return earlier
	}

	It("leaves nothing of the earlier revision behind", func(ctx context.Context) {
		earlier := upgrade(ctx,
			`podMetadata: {labels: {extra: one}}, containers: [{name: agent, image: "a:1", args: [--debug], env: [{name: DEBUG, value: "1"}]}]`,
			`containers: [{name: agent, image: "a:2"}]`)
		undo(ctx, earlier)
		w.converge(ctx)
		template := w.deployment(ctx, "web").Spec.Template
		Expect(template.Labels).NotTo(HaveKey("extra"))
		Expect(template.Spec.Containers[1].Image).To(Equal("a:2"))
		Expect(template.Spec.Containers[1].Args).To(BeEmpty())
		Expect(template.Spec.Containers[1].Env).To(BeEmpty())
	})

	It("is followed by the sidecar of today, whatever it was called", func(ctx context.Context) {
		undo(ctx, upgrade(ctx, `containers: [{name: old, image: "a:1"}]`, `containers: [{name: new, image: "a:2"}]`))
		w.converge(ctx)
		Expect(containerNames(w.deployment(ctx, "web").Spec.Template.Spec.Containers)).To(Equal([]string{"web", "new"}))
		Expect(w.set(ctx, "agent").Status.Problems).To(BeEmpty())
	})

	It("does not bring the revision of an old slip back", func(ctx context.Context) {
		earlier := upgrade(ctx, `containers: [{name: agent, image: "a:1"}]`, `containers: [{name: agent, image: "a:2"}]`)
		Expect(earlier.Annotations).To(HaveKey(v1alpha1.TargetRevisionsAnnotation))
		undo(ctx, earlier)
		w.writes = nil
		_, err := w.deployments.Reconcile(ctx, requestFor(w.deployment(ctx, "web")))
		Expect(err).NotTo(HaveOccurred())
		Expect(w.writes).To(BeEmpty())
		w.converge(ctx)
		Expect(w.deployment(ctx, "web").Spec.Template.Spec.Containers[1].Image).To(Equal("a:2"))
	})

	It("leaves to the application what it brings back of a set that is gone, and the other sets go on", func(ctx context.Context) {
		w.createSet(ctx, "gone", `{selector: {}, containers: [{name: gone, image: "gone:1"}]}`)
		earlier := upgrade(ctx, `containers: [{name: agent, image: "a:1"}]`, `containers: [{name: agent, image: "a:2"}]`)
		w.deleteSet(ctx, "gone")
		w.converge(ctx)
		undo(ctx, earlier)
		w.converge(ctx)
		w.updateSet(ctx, "agent", rolling(`containers: [{name: agent, image: "a:3"}]`))
		w.converge(ctx)
		template := w.deployment(ctx, "web").Spec.Template
		Expect(w.set(ctx, "agent").Status.Problems).To(BeEmpty())
		Expect(containerNames(template.Spec.Containers)).To(ConsistOf("web", "gone", "agent"))
		Expect(template.Spec.Containers).To(ContainElement(HaveField("Image", "a:3")))
		Expect(template.Annotations[v1alpha1.ContainersAnnotation]).To(Equal("agent"))
	})

	It("keeps a sidecar whose revision is not in the history any more", func(ctx context.Context) {
		earlier := upgrade(ctx, `revisionHistoryLimit: 0, containers: [{name: agent, image: "a:1"}]`, `revisionHistoryLimit: 0, containers: [{name: agent, image: "a:2"}]`)
		undo(ctx, earlier)
		w.converge(ctx)
		Expect(containerNames(w.deployment(ctx, "web").Spec.Template.Spec.Containers)).To(Equal([]string{"web", "agent"}))
	})
})

var _ = Describe("What is not ours", func() {
	var w *world
	BeforeEach(func(ctx context.Context) { w = newWorld(ctx) })

	It("stays with who declares it, when a set that shared a value wants another one", func(ctx context.Context) {
		manifest := w.userManifest("web", webPod)
		manifest.Spec.Template.Labels["team"] = "platform"
		Expect(applyManifest(ctx, manifest)).To(Succeed())
		w.createSet(ctx, "log-agent", agentSpec)
		w.converge(ctx)
		w.updateSet(ctx, "log-agent", strings.ReplaceAll(agentSpec, "platform", "observability"))
		w.converge(ctx)
		Expect(w.deployment(ctx, "web").Spec.Template.Labels).To(HaveKeyWithValue("team", "platform"))
		Expect(w.set(ctx, "log-agent").Status.Problems).To(HaveLen(1))
	})

	It("does not keep a set from being told of, whose removal the API server refuses, nor others from going on", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "a", rolling(`containers: [{name: a, image: "a:1"}], volumes: [{name: shared, emptyDir: {}}]`))
		w.createSet(ctx, "b", rolling(`containers: [{name: b, image: "b:1"}]`))
		w.converge(ctx)
		mounts := func(mounts ...corev1.VolumeMount) func(*appsv1.Deployment) {
			return func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].VolumeMounts = mounts }
		}
		own := corev1.VolumeMount{Name: "data", MountPath: "/data"}
		w.editDeployment(ctx, "web", "owner", mounts(own, corev1.VolumeMount{Name: "shared", MountPath: "/shared"}))
		w.deleteSet(ctx, "a")
		w.updateSet(ctx, "b", rolling(`containers: [{name: b, image: "b:2"}]`))
		w.converge(ctx)
		Expect(w.set(ctx, "a").Status.Problems).To(ContainElement(And(
			HaveField("Reason", v1alpha1.ReasonPreflightFailed), HaveField("Message", ContainSubstring(`Not found: "shared"`)),
		)))
		Expect(w.set(ctx, "b").Status.Problems).To(BeEmpty())
		Expect(w.deployment(ctx, "web").Spec.Template.Spec.Containers[2].Image).To(Equal("b:2"))

		w.editDeployment(ctx, "web", "owner", mounts(own))
		w.converge(ctx)
		Expect(containerNames(w.deployment(ctx, "web").Spec.Template.Spec.Containers)).To(Equal([]string{"web", "b"}))
		Expect(w.listSets(ctx)).To(HaveLen(1))
	})

	It("is another set's mount at the same path of another container", func(ctx context.Context) {
		w.createDeployment(ctx, "web", `{containers: [{name: web, image: "web:1"}, {name: side, image: "s:1"}]}`)
		a := `containers: [{name: a, image: "a:1"}], volumes: [{name: va, emptyDir: {}, appMounts: [{mountPath: /logs, containers: [web]}]}]`
		w.createSet(ctx, "a", rolling(a))
		w.createSet(ctx, "b", rolling(`containers: [{name: b, image: "b:1"}], volumes: [{name: vb, emptyDir: {}, appMounts: [{mountPath: /logs, containers: [side]}]}]`))
		w.converge(ctx)
		before := w.deployment(ctx, "web").Spec
		w.updateSet(ctx, "a", strings.ReplaceAll(rolling(a), "RollingUpdate", "RollingUpdate, paused: true"))
		w.converge(ctx)
		Expect(w.deployment(ctx, "web").Spec).To(Equal(before))
		Expect(w.set(ctx, "b").Status.Problems).To(BeEmpty())
	})

	It("takes no place in status or way when it is a Deployment that is being deleted", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "agent", agentSpec)
		w.converge(ctx)
		w.editDeployment(ctx, "web", "owner", func(d *appsv1.Deployment) { d.Finalizers = []string{"example.com/wait"} })
		Expect(k8s.Delete(ctx, w.deployment(ctx, "web"))).To(Succeed())
		w.writes = nil
		w.converge(ctx)
		Expect(w.writes).To(ConsistOf("patch status *v1alpha1.SidecarSet"))
		Expect(w.line(ctx, "agent")).To(ContainSubstring("Ready=True/NoWorkloads"))
		w.deleteSet(ctx, "agent")
		w.converge(ctx)
		Expect(w.listSets(ctx)).To(BeEmpty())
		w.editDeployment(ctx, "web", "owner", func(d *appsv1.Deployment) { d.Finalizers = nil })
	})
})

var _ = Describe("Lost marks", func() {
	var w *world
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "agent", agentSpec)
		w.converge(ctx)
	})

	It("take nothing out when it is the order slip", func(ctx context.Context) {
		before := w.deployment(ctx, "web").Spec
		w.editDeployment(ctx, "web", "terraform", func(d *appsv1.Deployment) { d.Annotations = nil })
		_, err := w.deployments.Reconcile(ctx, requestFor(w.deployment(ctx, "web")))
		Expect(err).NotTo(HaveOccurred())
		Expect(w.deployment(ctx, "web").Spec).To(Equal(before))
		w.converge(ctx)
		Expect(w.deployment(ctx, "web").Annotations).To(HaveKey(v1alpha1.TargetRevisionsAnnotation))
		Expect(w.deployment(ctx, "web").Spec).To(Equal(before))
	})

	It("take nothing out of a set that is paused", func(ctx context.Context) {
		w.updateSet(ctx, "agent", strings.ReplaceAll(agentSpec, "RollingUpdate", "RollingUpdate, paused: true"))
		w.editDeployment(ctx, "web", "owner", func(d *appsv1.Deployment) { d.Spec.Template.Annotations = nil })
		w.converge(ctx)
		Expect(containerNames(w.deployment(ctx, "web").Spec.Template.Spec.Containers)).To(Equal([]string{"web", "agent"}))
	})

	It("are told of when it is a revision that a paused set was assigned", func(ctx context.Context) {
		w.updateSet(ctx, "agent", strings.ReplaceAll(upgraded(agentSpec), "RollingUpdate", "RollingUpdate, paused: true"))
		for _, revision := range w.revisions(ctx) {
			Expect(k8s.Delete(ctx, &revision)).To(Succeed())
		}
		w.converge(ctx)
		Expect(w.set(ctx, "agent").Status.Problems).To(ContainElement(HaveField("Message", ContainSubstring("is gone"))))
		Expect(containerNames(w.deployment(ctx, "web").Spec.Template.Spec.Containers)).To(Equal([]string{"web", "agent"}))
		w.updateSet(ctx, "agent", upgraded(agentSpec))
		w.converge(ctx)
		Expect(w.set(ctx, "agent").Status.Problems).To(BeEmpty())
		Expect(w.deployment(ctx, "web").Spec.Template.Spec.Containers[1].Image).To(Equal("agent:2"))
	})
})
