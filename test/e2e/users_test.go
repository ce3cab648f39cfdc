// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Every way of working has a Deployment of its own; those of a spec work side by side.
var _ = Describe("Acceptance 4: sidecars stay while users work as they always do:", func() {
	It("kubectl apply with a new main image, client-side and server-side, makes one more ReplicaSet", func(ctx SpecContext) {
		shop.apply(ctx, web("client-side").Obj())
		shop.applyServerSide(ctx, web("server-side").Obj())
		shop.giveSidecars(ctx, logAgent(), "client-side", "server-side")

		shop.apply(ctx, web("client-side").Image("web", "nginx:2").Obj())
		shop.applyServerSide(ctx, web("server-side").Image("web", "nginx:2").Obj())
		shop.endsAt(ctx, "client-side", "web=nginx:2", "log-agent=busybox:1")
		shop.endsAt(ctx, "server-side", "web=nginx:2", "log-agent=busybox:1")
		Consistently(ctx, shop.replicaSets).WithArguments("client-side").Should(Equal(3))
		Expect(shop.replicaSets(ctx, "server-side")).To(Equal(3))
		Expect(shop.condition(ctx, "log-agent", "Ready")).To(Equal("True/AllPodsUpdated"))
		shop.leavesNothing(ctx, "log-agent", "client-side", "server-side")
	})

	It("kubectl scale, rollout restart and rollout undo", func(ctx SpecContext) {
		shop.apply(ctx, web("scaled").Obj(), web("restarted").Obj(), web("undone").Obj())
		shop.giveSidecars(ctx, logAgent(), "scaled", "restarted", "undone")
		shop.apply(ctx, web("undone").Image("web", "nginx:2").Obj())
		shop.waitForRollout(ctx, "undone")

		shop.kubectl(ctx, "scale", "deployment", "scaled", "--replicas=3")
		shop.kubectl(ctx, "rollout", "restart", "deployment", "restarted")
		shop.kubectl(ctx, "rollout", "undo", "deployment", "undone")
		const injected = "web=nginx:1 log-agent=busybox:1"
		Eventually(ctx, shop.pods).WithArguments("scaled").Should(HaveExactElements(injected, injected, injected))
		shop.endsAt(ctx, "restarted", "web=nginx:1", "log-agent=busybox:1")
		shop.endsAt(ctx, "undone", "web=nginx:1", "log-agent=busybox:1")
		Expect(shop.pods(ctx, "restarted")).To(HaveExactElements(injected, injected))
		Consistently(ctx, shop.replicaSets).WithArguments("scaled").Should(Equal(2))
		Expect(shop.replicaSets(ctx, "restarted")).To(Equal(3))
		Expect(shop.replicaSets(ctx, "undone")).To(Equal(3))
		shop.leavesNothing(ctx, "log-agent", "scaled", "restarted", "undone")
	})

	It("kubectl rollout undo across an upgrade of the sidecar ends at the new sidecar", func(ctx SpecContext) {
		shop.apply(ctx, web("web").Obj())
		shop.giveSidecars(ctx, logAgent(), "web")
		shop.apply(ctx, web("web").Image("web", "nginx:2").Obj())
		shop.waitForRollout(ctx, "web")
		shop.apply(ctx, logAgent().Image("log-agent", "busybox:2").Obj())
		shop.endsAt(ctx, "web", "web=nginx:2", "log-agent=busybox:2")
		shop.waitUntilReady(ctx, "log-agent")

		shop.kubectl(ctx, "rollout", "undo", "deployment", "web", "--to-revision=2") // the first with log-agent
		shop.endsAt(ctx, "web", "web=nginx:1", "log-agent=busybox:2")
		Consistently(ctx, shop.replicaSets).WithArguments("web").Should(Equal(3))
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
		Expect(shop.condition(ctx, "log-agent", "Degraded")).To(Equal("False/AsExpected"))
		shop.leavesNothing(ctx, "log-agent", "web")
	})

	It("kubectl replace, kubectl edit and kubectl rollout undo that take them out get them back", func(ctx SpecContext) {
		shop.apply(ctx, web("replaced").Obj(), web("edited").Obj(), web("undone").Obj())
		shop.giveSidecars(ctx, logAgent(), "replaced", "edited", "undone")

		shop.kubectlWith(ctx, []client.Object{web("replaced").Image("web", "nginx:2").Obj()}, "replace")
		shop.edit(ctx, "edited", func(d *appsv1.Deployment) {
			spec := &d.Spec.Template.Spec
			spec.Containers = without(spec.Containers, "log-agent")
		})
		shop.kubectl(ctx, "rollout", "undo", "deployment", "undone")
		shop.endsAt(ctx, "replaced", "web=nginx:2", "log-agent=busybox:1")
		shop.endsAt(ctx, "edited", "web=nginx:1", "log-agent=busybox:1")
		shop.endsAt(ctx, "undone", "web=nginx:1", "log-agent=busybox:1")
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
		Consistently(ctx, shop.replicaSets).WithArguments("undone").Should(Equal(2))
		shop.leavesNothing(ctx, "log-agent", "replaced", "edited", "undone")
	})

	It("kubectl edit and a server-side apply that remove the application's own init container", func(ctx SpecContext) {
		edited, applied := web("edited").InitContainer("migrate", "app:1"), web("applied").InitContainer("migrate", "app:1")
		shop.apply(ctx, edited.Obj())
		shop.applyServerSide(ctx, applied.Obj())
		shop.giveSidecars(ctx, logAgent().NativeSidecar("proxy", "proxy:1"), "edited", "applied")
		Expect(shop.template(ctx, "edited")).To(HaveExactElements("proxy=proxy:1", "migrate=app:1", "web=nginx:1", "log-agent=busybox:1"))
		Expect(shop.template(ctx, "applied")).To(HaveExactElements("proxy=proxy:1", "migrate=app:1", "web=nginx:1", "log-agent=busybox:1"))

		shop.edit(ctx, "edited", func(d *appsv1.Deployment) {
			spec := &d.Spec.Template.Spec
			spec.InitContainers = without(spec.InitContainers, "migrate")
		})
		shop.applyServerSide(ctx, applied.WithoutInitContainer("migrate").Obj())
		shop.endsAt(ctx, "edited", "proxy=proxy:1", "web=nginx:1", "log-agent=busybox:1")
		shop.endsAt(ctx, "applied", "proxy=proxy:1", "web=nginx:1", "log-agent=busybox:1")
		Consistently(ctx, shop.replicaSets).WithArguments("edited").Should(Equal(3))
		Expect(shop.replicaSets(ctx, "applied")).To(Equal(3))
	})

	It("a server-side apply that renames an application container with an appMount", func(ctx SpecContext) {
		application := web("web")
		shop.applyServerSide(ctx, application.Obj())
		shop.giveSidecars(ctx, logAgent(), "web")

		shop.applyServerSide(ctx, application.Rename("web", "server").Obj())
		Eventually(ctx, shop.template).WithArguments("web").Should(ConsistOf("server=nginx:1", "log-agent=busybox:1"))
		mounted := func() []string { return mountsOf(shop.deployment(ctx, "web"), "server") }
		Eventually(ctx, mounted).Should(ConsistOf("/usr/share/nginx/html"))
		shop.waitForRollout(ctx, "web")
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
		shop.leavesNothing(ctx, "log-agent", "web")
	})
})

// giveSidecars creates a set for Deployments that run without sidecars, and waits for the ReplicaSet that this makes of each.
func (n *namespace) giveSidecars(ctx SpecContext, set *sidecarSet, deployments ...string) {
	GinkgoHelper()
	for _, name := range deployments {
		n.waitForRollout(ctx, name)
	}
	n.apply(ctx, set.Obj())
	for _, name := range deployments {
		Eventually(ctx, n.template).WithArguments(name).Should(ContainElement("log-agent=busybox:1"), name)
		n.waitForRollout(ctx, name)
		Expect(n.replicaSets(ctx, name)).To(Equal(2), name)
	}
	n.waitUntilReady(ctx, "log-agent")
}

// endsAt waits until a Deployment's template has these containers, and its pods follow.
func (n *namespace) endsAt(ctx SpecContext, deployment string, containers ...string) {
	GinkgoHelper()
	Eventually(ctx, n.template).WithArguments(deployment).Should(HaveExactElements(containers), deployment)
	n.waitForRollout(ctx, deployment)
}

// leavesNothing deletes the set of applications that have one container and no volume. Whatever their users did, that is what they have again.
func (n *namespace) leavesNothing(ctx SpecContext, set string, deployments ...string) {
	GinkgoHelper()
	n.kubectl(ctx, "delete", "scs", set, "--timeout=60s")
	for _, name := range deployments {
		Expect(n.traces(ctx, name)).To(BeEmpty(), name)
		spec := n.deployment(ctx, name).Spec.Template.Spec
		Expect(spec.Containers).To(HaveLen(1), name)
		Expect(spec.Containers[0].VolumeMounts).To(BeEmpty(), name)
		Expect(spec.Volumes).To(BeEmpty(), name)
	}
}

func without(containers []corev1.Container, name string) []corev1.Container {
	return slices.DeleteFunc(containers, func(c corev1.Container) bool { return c.Name == name })
}

// mountsOf returns where something is mounted in a container of the template.
func mountsOf(deployment *appsv1.Deployment, container string) (paths []string) {
	for _, c := range deployment.Spec.Template.Spec.Containers {
		if c.Name != container {
			continue
		}
		for _, mount := range c.VolumeMounts {
			paths = append(paths, mount.MountPath)
		}
	}
	return paths
}
