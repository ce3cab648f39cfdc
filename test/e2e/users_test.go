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

var _ = Describe("Acceptance 4: sidecars stay while users work as they always do:", func() {
	// deployed has a user's application running with the log agent, however the user applies it.
	deployed := func(ctx SpecContext, application *deployment, apply ...string) {
		GinkgoHelper()
		shop.kubectlWith(ctx, []client.Object{application.Obj()}, append([]string{"apply"}, apply...)...)
		shop.waitForRollout(ctx, "web")
		shop.apply(ctx, logAgent().Obj())
		Eventually(ctx, shop.template).WithArguments("web").Should(ContainElement("log-agent=busybox:1"))
		shop.waitForRollout(ctx, "web")
		shop.waitUntilReady(ctx, "log-agent")
		Expect(shop.replicaSets(ctx, "web")).To(Equal(2), "the application without sidecars, and with them")
	}
	// endsAt is true when the template holds exactly these containers and the pods follow, with so many ReplicaSets, and all of it stays so.
	endsAt := func(ctx SpecContext, replicaSets int, containers ...string) {
		GinkgoHelper()
		Eventually(ctx, shop.template).WithArguments("web").Should(HaveExactElements(containers))
		shop.waitForRollout(ctx, "web")
		Consistently(ctx, shop.template).WithArguments("web").Should(HaveExactElements(containers))
		Expect(shop.replicaSets(ctx, "web")).To(Equal(replicaSets))
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
	}
	// leavesNothing deletes the set: whatever a user did, there is nothing of it afterwards but what the user wrote.
	leavesNothing := func(ctx SpecContext, containers ...string) {
		GinkgoHelper()
		shop.kubectl(ctx, "delete", "scs", "log-agent", "--timeout=60s")
		Expect(shop.template(ctx, "web")).To(HaveExactElements(containers))
		Expect(shop.traces(ctx, "web")).To(BeEmpty())
		Expect(shop.deployment(ctx, "web").Spec.Template.Spec.Volumes).To(BeEmpty())
	}

	DescribeTable("kubectl apply with a new main image makes one more ReplicaSet,",
		func(ctx SpecContext, flags ...string) {
			deployed(ctx, web("web"), flags...)
			shop.kubectlWith(ctx, []client.Object{web("web").Image("web", "nginx:2").Obj()}, append([]string{"apply"}, flags...)...)
			endsAt(ctx, 3, "web=nginx:2", "log-agent=busybox:1")
		},
		Entry("client-side"),
		Entry("server-side", "--server-side"),
	)

	It("kubectl replace without them gets them back", func(ctx SpecContext) {
		deployed(ctx, web("web"))
		shop.kubectlWith(ctx, []client.Object{web("web").Image("web", "nginx:2").Obj()}, "replace")
		endsAt(ctx, 4, "web=nginx:2", "log-agent=busybox:1") // nginx:2 without them is one, too
		leavesNothing(ctx, "web=nginx:2")
	})

	It("kubectl scale and kubectl rollout restart", func(ctx SpecContext) {
		deployed(ctx, web("web"))
		shop.kubectl(ctx, "scale", "deployment", "web", "--replicas=3")
		const injected = "web=nginx:1 log-agent=busybox:1"
		Eventually(ctx, shop.pods).WithArguments("web").Should(HaveExactElements(injected, injected, injected))
		Expect(shop.replicaSets(ctx, "web")).To(Equal(2))

		shop.kubectl(ctx, "rollout", "restart", "deployment", "web")
		endsAt(ctx, 3, "web=nginx:1", "log-agent=busybox:1")
		Expect(shop.pods(ctx, "web")).To(HaveExactElements(injected, injected, injected))
	})

	It("kubectl rollout undo to an earlier image of the application", func(ctx SpecContext) {
		deployed(ctx, web("web"))
		shop.apply(ctx, web("web").Image("web", "nginx:2").Obj())
		shop.waitForRollout(ctx, "web")

		shop.kubectl(ctx, "rollout", "undo", "deployment", "web")
		endsAt(ctx, 3, "web=nginx:1", "log-agent=busybox:1")
		leavesNothing(ctx, "web=nginx:1")
	})

	It("kubectl rollout undo across an upgrade of the sidecar ends at the new sidecar", func(ctx SpecContext) {
		deployed(ctx, web("web"))
		shop.apply(ctx, web("web").Image("web", "nginx:2").Obj())
		shop.waitForRollout(ctx, "web")
		shop.apply(ctx, logAgent().Image("log-agent", "busybox:2").Obj())
		Eventually(ctx, shop.template).WithArguments("web").Should(HaveExactElements("web=nginx:2", "log-agent=busybox:2"))
		shop.waitForRollout(ctx, "web")
		shop.waitUntilReady(ctx, "log-agent")
		Expect(shop.replicaSets(ctx, "web")).To(Equal(4))

		shop.kubectl(ctx, "rollout", "undo", "deployment", "web", "--to-revision=2") // the first with log-agent
		endsAt(ctx, 5, "web=nginx:1", "log-agent=busybox:2")
		Expect(shop.condition(ctx, "log-agent", "Degraded")).To(Equal("False/AsExpected"))
		leavesNothing(ctx, "web=nginx:1")
	})

	It("kubectl rollout undo to a template from before the injection gets them back", func(ctx SpecContext) {
		deployed(ctx, web("web"))
		shop.kubectl(ctx, "rollout", "undo", "deployment", "web")
		endsAt(ctx, 2, "web=nginx:1", "log-agent=busybox:1")
		leavesNothing(ctx, "web=nginx:1")
	})

	It("kubectl edit that removes the application's own init container", func(ctx SpecContext) {
		deployed(ctx, web("web").InitContainer("migrate", "app:1"))
		shop.apply(ctx, logAgent().NativeSidecar("proxy", "proxy:1").Obj())
		Eventually(ctx, shop.template).WithArguments("web").Should(HaveExactElements("proxy=proxy:1", "migrate=app:1", "web=nginx:1", "log-agent=busybox:1"))
		shop.edit(ctx, "web", func(d *appsv1.Deployment) {
			spec := &d.Spec.Template.Spec
			spec.InitContainers = slices.DeleteFunc(spec.InitContainers, func(c corev1.Container) bool { return c.Name == "migrate" })
		})
		endsAt(ctx, 4, "proxy=proxy:1", "web=nginx:1", "log-agent=busybox:1")
	})

	It("kubectl edit that removes a sidecar gets it back", func(ctx SpecContext) {
		deployed(ctx, web("web"))
		shop.edit(ctx, "web", func(d *appsv1.Deployment) {
			spec := &d.Spec.Template.Spec
			spec.Containers = slices.DeleteFunc(spec.Containers, func(c corev1.Container) bool { return c.Name == "log-agent" })
		})
		endsAt(ctx, 3, "web=nginx:1", "log-agent=busybox:1")
		leavesNothing(ctx, "web=nginx:1")
	})

	It("a server-side apply that removes the application's own init container", func(ctx SpecContext) {
		application := web("web").InitContainer("migrate", "app:1")
		deployed(ctx, application, "--server-side")
		shop.apply(ctx, logAgent().NativeSidecar("proxy", "proxy:1").Obj())
		Eventually(ctx, shop.template).WithArguments("web").Should(HaveExactElements("proxy=proxy:1", "migrate=app:1", "web=nginx:1", "log-agent=busybox:1"))
		shop.applyServerSide(ctx, application.WithoutInitContainer("migrate").Obj())
		endsAt(ctx, 4, "proxy=proxy:1", "web=nginx:1", "log-agent=busybox:1")
	})

	It("a server-side apply that renames an application container with an appMount", func(ctx SpecContext) {
		application := web("web")
		deployed(ctx, application, "--server-side")
		shop.applyServerSide(ctx, application.Rename("web", "server").Obj())
		// The user's template without the mount is one, too, and where the new container stands is the API server's choice.
		Eventually(ctx, shop.template).WithArguments("web").Should(ConsistOf("server=nginx:1", "log-agent=busybox:1"))
		mounted := func() []string { return mountsOf(shop.deployment(ctx, "web"), "server") }
		Eventually(ctx, mounted).Should(ConsistOf("/usr/share/nginx/html"))
		shop.waitForRollout(ctx, "web")
		Consistently(ctx, mounted).Should(ConsistOf("/usr/share/nginx/html"))
		leavesNothing(ctx, "server=nginx:1")
	})
})

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
