// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"slices"
	"strings"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/hack/localcluster"
)

var _ = Describe("In-place updates: a partition in a fleet", func() {
	const size = 6

	It("that is lowered lets workloads go on in waves, canaries first, also after a restart in the middle", func(ctx SpecContext) {
		objects, names := fleet(size, 2)
		shop.apply(ctx, objects...)
		set := logAgent().AtATime("100%")
		shop.inject(ctx, set, names...)
		shop.apply(ctx, set.Partition("100%").Image("log-agent", "busybox:2").Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Partitioned"))
		Expect(shop.assigned(ctx, "log-agent")).To(HaveLen(size))

		By("lowering it to 0")
		under := &goingOn{namespace: shop, image: "busybox:2"}
		most := shop.watch(ctx, under.is, under.look)
		shop.apply(ctx, set.Partition("0").AtATime("2").Canary("tier", "canary").Obj())
		Eventually(ctx, under.order).WithTimeout(2 * timeout).Should(haveAtLeast(3))
		restartOperator(ctx, (*localcluster.Process).Kill)
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").WithTimeout(4 * timeout).Should(Equal("True/AllPodsUpdated"))
		Expect(under.order()).To(HaveLen(size))
		Expect(under.order()[:2]).To(ConsistOf("web-00", "web-01"), "canaries first")
		Expect(most()).To(And(BeNumerically(">", 0), BeNumerically("<=", 2)))
		for _, name := range names {
			shop.comesTo(ctx, name, 2, "web=nginx:1", "log-agent=busybox:2")
		}
	})

	DescribeTable("lets workloads go back in waves, when what is staged in all of them is taken back:", func(ctx SpecContext, partition string, paused bool) {
		objects, names := fleet(size, 2)
		shop.apply(ctx, objects...)
		set := logAgent().AtATime("100%").Partition("50%")
		shop.inject(ctx, set, names...)
		first := shop.kubectl(ctx, "get", "sidecarset", "log-agent", "-o", "jsonpath={.status.currentRevision}")
		shop.apply(ctx, set.Image("log-agent", "busybox:2").Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Partitioned"))
		for _, name := range names {
			Expect(shop.tally(ctx, name)).To(HaveKeyWithValue("web=nginx:1 log-agent=busybox:2", 1), name)
		}

		most := shop.watch(ctx, func(d *appsv1.Deployment) bool {
			return strings.Contains(d.Annotations[v1alpha1.TargetRevisionsAnnotation], first) && runs(d, "busybox:2")
		})
		if paused {
			shop.apply(ctx, set.Paused(true).Obj())
			Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Paused"))
		}
		shop.apply(ctx, set.Image("log-agent", "busybox:1").AtATime("2").Partition(partition).Paused(false).Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").WithTimeout(4 * timeout).Should(Equal("True/AllPodsUpdated"))
		Expect(most()).To(And(BeNumerically(">", 0), BeNumerically("<=", 2)))
		for _, name := range names {
			shop.comesTo(ctx, name, 2, "web=nginx:1", "log-agent=busybox:1")
		}
	},
		Entry("the image alone", "50%", false),
		Entry("the partition with it", "0", false),
		Entry("while the set is paused", "50%", true),
	)
})

// runs is true of a Deployment with a pod in which a container runs an image, or did until it was stopped and nothing else was started.
func runs(d *appsv1.Deployment, image string) bool {
	var pods corev1.PodList
	err := k8s.List(context.Background(), &pods, client.InNamespace(d.Namespace), client.MatchingLabels(d.Spec.Selector.MatchLabels))
	return err == nil && slices.ContainsFunc(pods.Items, func(pod corev1.Pod) bool {
		return slices.ContainsFunc(pod.Status.ContainerStatuses, func(status corev1.ContainerStatus) bool { return status.Image == image })
	})
}

// goingOn are the Deployments that have had pods with an image of a sidecar that their templates had not, in that order. Pods are looked at before
// templates: all that are going on then are so at the same time.
type goingOn struct {
	*namespace
	image string
	had   map[string]bool
	mutex sync.Mutex
	names []string
}

// look looks at the pods.
func (g *goingOn) look(ctx context.Context) {
	g.had = map[string]bool{}
	var pods corev1.PodList
	if k8s.List(ctx, &pods, client.InNamespace(g.name)) != nil {
		return
	}
	for i := range pods.Items {
		name := pods.Items[i].Labels["app"]
		g.had[name] = g.had[name] || g.isIn(&pods.Items[i].Spec)
	}
}

// is true of a Deployment that had such pods, and whose template has not followed them.
func (g *goingOn) is(d *appsv1.Deployment) bool {
	if !g.had[d.Name] || g.isIn(&d.Spec.Template.Spec) {
		return false
	}
	g.mutex.Lock()
	defer g.mutex.Unlock()
	if !slices.Contains(g.names, d.Name) {
		g.names = append(g.names, d.Name)
	}
	return true
}

func (g *goingOn) isIn(pod *corev1.PodSpec) bool {
	return slices.ContainsFunc(pod.Containers, func(container corev1.Container) bool { return container.Image == g.image })
}

func (g *goingOn) order() []string {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	return slices.Clone(g.names)
}
