// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/rollout"
	"github.com/sidecarset/sidecarset/hack/localcluster"
)

// PrePull lets images be pulled before pods are updated.
func (s *sidecarSet) PrePull() *sidecarSet {
	s.object.Spec.UpdateStrategy.PrePull = v1alpha1.BeforeUpdatePrePullPolicy
	return s
}

// addNodes adds nodes on which no pods but those of on run. They go with the spec.
func addNodes(ctx context.Context, names ...string) {
	GinkgoHelper()
	room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10"), corev1.ResourceMemory: resource.MustParse("10Gi"), corev1.ResourcePods: resource.MustParse("100")}
	for _, name := range names {
		node := &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"pre-pull": "true", corev1.LabelHostname: name, corev1.LabelOSStable: "linux"}},
			Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: "pre-pull", Effect: corev1.TaintEffectNoExecute}}},
			Status:     corev1.NodeStatus{Capacity: room, Allocatable: room},
		}
		Expect(k8s.Create(ctx, node)).To(Succeed())
		DeferCleanup(deleteNode, node)
	}
}

func deleteNode(ctx context.Context, node *corev1.Node) error {
	return client.IgnoreNotFound(k8s.Delete(ctx, node))
}

// onNodes spreads the pods over the nodes of addNodes.
func onNodes(spec *appsv1.DeploymentSpec) {
	pod := &spec.Template.Spec
	pod.NodeSelector = map[string]string{"pre-pull": "true"}
	pod.Tolerations = []corev1.Toleration{{Key: "pre-pull", Operator: corev1.TolerationOpExists}}
	pod.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: spec.Selector,
	}}
}

// pulls returns the nodes of the pre-pull pods.
func (n *namespace) pulls(ctx context.Context) ([]string, error) {
	var pods corev1.PodList
	err := k8s.List(ctx, &pods, client.InNamespace(n.name), client.MatchingLabels{v1alpha1.InjectedLabel: v1alpha1.PrePullLabelValue})
	var nodes []string
	for i := range pods.Items {
		nodes = append(nodes, pods.Items[i].Spec.NodeName)
	}
	return nodes, err
}

var _ = Describe("Acceptance 10 of the fleet: with prePull BeforeUpdate", func() {
	const replicas = 4
	set := func() *sidecarSet { return logAgent().MaxUnavailable("2").PrePull() }
	var before map[types.UID]map[string]run

	BeforeEach(func(ctx SpecContext) {
		addNodes(ctx, shop.name+"-a", shop.name+"-b")
		shop.apply(ctx, web("web").Replicas(replicas).Spec(onNodes).Obj())
		shop.inject(ctx, set(), "web")
		before = shop.runs(ctx, "web")
		Expect(shop.pulls(ctx)).To(BeEmpty(), "new pods pull by themselves")
	})
	// stuck begins an update to an image that can not be pulled.
	stuck := func(ctx SpecContext) {
		GinkgoHelper()
		shop.apply(ctx, set().OnFailure(v1alpha1.HaltFailurePolicy).Image("log-agent", "missing:1").Obj()) // or it would go back
		Eventually(ctx, shop.pulls).Should(ConsistOf(shop.name+"-a", shop.name+"-b"))
		Eventually(ctx, shop.problems).WithArguments("log-agent").Should(HaveExactElements(And(
			HavePrefix("web: ImagePullFailed: node "+shop.name+`-a (and 1 more) can not pull image "missing:1" of container "log-agent" ahead`),
			HaveSuffix(`: failed to pull image "missing:1": not found`))))
	}
	noneKilled := func(ctx SpecContext) {
		GinkgoHelper()
		Expect(shop.runs(ctx, "web")).To(Equal(before))
		Expect(shop.pods(ctx, "web")).To(HaveExactElements("web=nginx:1 log-agent=busybox:1", "web=nginx:1 log-agent=busybox:1", "web=nginx:1 log-agent=busybox:1", "web=nginx:1 log-agent=busybox:1"))
	}
	nonePulls := func(ctx SpecContext) {
		GinkgoHelper()
		Eventually(ctx, shop.pulls).Should(BeEmpty())
		Consistently(ctx, shop.pulls).Should(BeEmpty())
	}

	It("each node pulls once before its pods are updated, and no pod is left that pulled", func(ctx SpecContext) {
		log := writesFromNow()
		pods := record[*corev1.Pod](ctx, &corev1.PodList{}, client.InNamespace(shop.name))
		shop.apply(ctx, set().Image("log-agent", "busybox:2").Obj())
		shop.comesTo(ctx, "web", replicas, "web=nginx:1", "log-agent=busybox:2")
		shop.waitUntilReady(ctx, "log-agent")
		shop.expectRestarts(ctx, "web", before, 1, "log-agent")
		nonePulls(ctx)
		counts, err := log.byOperator(shop.name)
		Expect(err).NotTo(HaveOccurred())
		Expect(counts).To(And(HaveKeyWithValue("create pods", 2), HaveKeyWithValue("delete pods", 2), HaveKeyWithValue("patch pods", replicas)))
		Expect(pulledBefore(pods.all(), "busybox:2")).To(And(HaveLen(replicas), HaveEach(BeTrue())), "the image was on the node of each pod before")
	})

	It("an image that is missing has not one sidecar killed, and a correction goes through", func(ctx SpecContext) {
		stuck(ctx)
		Consistently(ctx, shop.pulls).Should(HaveLen(2))
		noneKilled(ctx)
		shop.apply(ctx, set().Image("log-agent", "busybox:2").Obj())
		shop.comesTo(ctx, "web", replicas, "web=nginx:1", "log-agent=busybox:2")
		shop.expectRestarts(ctx, "web", before, 1, "log-agent")
		shop.waitUntilReady(ctx, "log-agent")
		nonePulls(ctx)
	})

	DescribeTable("no pod that pulls is left, and no sidecar killed, when in the middle",
		func(ctx SpecContext, interfere func(ctx SpecContext)) {
			stuck(ctx)
			interfere(ctx)
			nonePulls(ctx)
			noneKilled(ctx)
		},
		Entry("the set is paused", func(ctx SpecContext) { shop.apply(ctx, set().Image("log-agent", "missing:1").Paused(true).Obj()) }),
		Entry("the set goes back", func(ctx SpecContext) { shop.apply(ctx, set().Obj()) }),
		Entry("the operator is killed, and the set goes back meanwhile", func(ctx SpecContext) {
			takeOperatorAway((*localcluster.Process).Kill)
			shop.apply(ctx, set().Obj())
			Consistently(ctx, shop.pulls).Should(HaveLen(2))
			startOperator(ctx)
		}),
	)

	It("the rest of them goes when the Deployment is deleted, also while the operator is away", func(ctx SpecContext) {
		stuck(ctx)
		takeOperatorAway((*localcluster.Process).Kill)
		shop.kubectl(ctx, "delete", "deployment", "web")
		nonePulls(ctx)
	})

	It("the rest of them goes when the set is deleted", func(ctx SpecContext) {
		stuck(ctx)
		shop.kubectl(ctx, "delete", "scs", "log-agent", "--timeout=60s")
		nonePulls(ctx)
		shop.comesTo(ctx, "web", replicas, "web=nginx:1")
	})

	It("it being switched off lets the pods be updated without", func(ctx SpecContext) {
		stuck(ctx)
		shop.apply(ctx, logAgent().MaxUnavailable("2").OnFailure(v1alpha1.HaltFailurePolicy).Image("log-agent", "missing:1").Obj())
		nonePulls(ctx)
		Eventually(ctx, shop.pods).WithArguments("web").Should(ContainElement("not ready"))
	})

	It("what is left on a node that is gone goes with it", func(ctx SpecContext) {
		stuck(ctx)
		gone := shop.name + "-b"
		Expect(k8s.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: gone}})).To(Succeed())
		// The controller manager lets pods wait for their node for a minute, and takes one after the other.
		Eventually(ctx, shop.podsOn).WithArguments(gone).WithTimeout(3 * time.Minute).Should(BeEmpty())
		Consistently(ctx, shop.pulls).ShouldNot(ContainElement(gone))
	}, NodeTimeout(5*time.Minute))
})

// podsOn returns the names of the pods on a node.
func (n *namespace) podsOn(ctx context.Context, node string) (names []string, err error) {
	var pods corev1.PodList
	err = k8s.List(ctx, &pods, client.InNamespace(n.name))
	for i := range pods.Items {
		if pods.Items[i].Spec.NodeName == node {
			names = append(names, pods.Items[i].Name)
		}
	}
	return names, err
}

// pulledBefore are the pods that were given an image, and whether a pod that pulls had pulled it on their node before.
func pulledBefore(events []recorded[*corev1.Pod], image string) map[string]bool {
	pulled, result := map[string]bool{}, map[string]bool{}
	for _, event := range events {
		pod := event.object
		has := slices.ContainsFunc(pod.Spec.Containers, func(container corev1.Container) bool { return container.Image == image })
		if pod.Labels[v1alpha1.InjectedLabel] == v1alpha1.PrePullLabelValue {
			pulled[pod.Spec.NodeName] = pulled[pod.Spec.NodeName] || (has && rollout.PullOf(pod).Pulled)
		} else if _, known := result[pod.Name]; has && !known {
			result[pod.Name] = pulled[pod.Spec.NodeName]
		}
	}
	return result
}
