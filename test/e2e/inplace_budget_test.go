// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var _ = Describe("In-place updates: while maxUnavailable is 3,", Ordered, func() {
	const done = "web=nginx:1 log-agent=busybox:2"
	shareNamespace()
	var (
		pods   *recorder[*corev1.Pod]
		before map[types.UID]map[string]run
		// failed is a pod of "large" that fails on its own in the middle of the update.
		failed   string
		failedAt time.Time
	)

	BeforeAll(func(ctx SpecContext) {
		set := logAgent().MaxUnavailable("3")
		shop.apply(ctx, web("large").Replicas(20).Obj(), web("budgeted").Replicas(6).Obj(), web("blocked").Replicas(4).Obj())
		shop.inject(ctx, set, "large", "budgeted", "blocked")
		shop.kubectl(ctx, "create", "poddisruptionbudget", "budgeted", "--selector=app=budgeted", "--max-unavailable=1")
		shop.kubectl(ctx, "create", "poddisruptionbudget", "blocked", "--selector=app=blocked", "--max-unavailable=0")
		Eventually(ctx, shop.disruptionsAllowed).WithArguments("budgeted").Should(BeEquivalentTo(1))
		Eventually(ctx, shop.disruptionsAllowed).WithArguments("blocked").Should(BeEquivalentTo(0))
		before = shop.runs(ctx, "blocked")

		pods = record[*corev1.Pod](ctx, &corev1.PodList{}, client.InNamespace(shop.name))
		shop.apply(ctx, set.Image("log-agent", "busybox:2").Obj())
		Eventually(func() int { return len(updated(pods.of(shop.name, "large"))) }).WithPolling(interval / 10).Should(BeNumerically(">=", 6))
		failed, failedAt = updated(pods.of(shop.name, "large"))[0], time.Now()
		shop.fail(ctx, failed, "web")
	})

	It("of 20 pods never more are unavailable, one that fails on its own included", func(ctx SpecContext) {
		Eventually(ctx, shop.tally).WithArguments("large").Should(Equal(map[string]int{done: 19, "not ready": 1}))
		const noticed = time.Second // by then the operator has learnt of the failure
		all := pods.of(shop.name, "large")
		Expect(most(all, time.Time{}, failed)).To(Equal(3), "of the others: no more, and no fewer as long as nothing failed")
		Expect(most(all, failedAt.Add(noticed), "")).To(BeNumerically("<=", 3), "of all, from the failure on")
		Eventually(func() int32 { return shop.deployment(ctx, "large").Status.ReadyReplicas }).Should(BeEquivalentTo(19))
	})

	It("a PodDisruptionBudget that allows one lets one go after the other", func(ctx SpecContext) {
		Eventually(ctx, shop.tally).WithArguments("budgeted").Should(Equal(map[string]int{done: 6}))
		Expect(most(pods.of(shop.name, "budgeted"), time.Time{}, "")).To(Equal(1))
		Eventually(ctx, shop.template).WithArguments("budgeted").Should(HaveExactElements("web=nginx:1", "log-agent=busybox:2"))
	})

	It("a PodDisruptionBudget that allows none lets none go, until it is gone", func(ctx SpecContext) {
		Eventually(ctx, shop.problems).WithArguments("log-agent").Should(ContainElement(HavePrefix("blocked: DisruptionBudget: ")))
		Expect(shop.condition(ctx, "log-agent", "Ready")).To(Equal("False/UpdatingPods"))
		Expect(shop.condition(ctx, "log-agent", "Degraded")).To(Equal("False/AsExpected"))
		Consistently(func() []string { return updated(pods.of(shop.name, "blocked")) }).Should(BeEmpty())
		shop.expectRestarts(ctx, "blocked", before, 0)
		Expect(shop.template(ctx, "blocked")).To(HaveExactElements("web=nginx:1", "log-agent=busybox:1"))

		shop.kubectl(ctx, "delete", "poddisruptionbudget", "blocked")
		shop.comesTo(ctx, "blocked", 4, "web=nginx:1", "log-agent=busybox:2")
		shop.expectRestarts(ctx, "blocked", before, 1, "log-agent")
		shop.kubectl(ctx, "delete", "pod", failed)
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
	})
})

var _ = Describe("In-place updates: a PodDisruptionBudget over several Deployments", func() {
	It("that allows one lets one pod go after the other, whosever it is", func(ctx SpecContext) {
		const done = "web=nginx:1 log-agent=busybox:2"
		names := []string{"one", "two", "three"}
		set := logAgent().MaxUnavailable("3")
		for _, name := range names {
			shop.apply(ctx, web(name).Replicas(3).Spec(func(spec *appsv1.DeploymentSpec) { spec.Template.Labels["team"] = "shop" }).Obj())
		}
		shop.inject(ctx, set, names...)
		shop.kubectl(ctx, "create", "poddisruptionbudget", "team", "--selector=team=shop", "--max-unavailable=1")
		Eventually(ctx, shop.disruptionsAllowed).WithArguments("team").Should(BeEquivalentTo(1))

		pods := record[*corev1.Pod](ctx, &corev1.PodList{}, client.InNamespace(shop.name))
		shop.apply(ctx, set.Image("log-agent", "busybox:2").Obj())
		for _, name := range names {
			Eventually(ctx, shop.tally).WithArguments(name).WithTimeout(2 * timeout).Should(Equal(map[string]int{done: 3}))
		}
		Expect(most(pods.all(), time.Time{}, "")).To(Equal(1))
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
	})
})

// disruptionsAllowed is what a PodDisruptionBudget allows, and -1 as long as nobody has computed it.
func (n *namespace) disruptionsAllowed(ctx context.Context, name string) (int32, error) {
	budget := &policyv1.PodDisruptionBudget{}
	if err := k8s.Get(ctx, n.key(name), budget); err != nil || budget.Status.ObservedGeneration == 0 {
		return -1, err
	}
	return budget.Status.DisruptionsAllowed, nil
}

// fail lets a container in a pod fail its readiness probe, as the kubelet would report it.
func (n *namespace) fail(ctx context.Context, name, container string) {
	GinkgoHelper()
	pod := &corev1.Pod{}
	Expect(k8s.Get(ctx, n.key(name), pod)).To(Succeed())
	failing := pod.DeepCopy()
	for i := range failing.Status.ContainerStatuses {
		status := &failing.Status.ContainerStatuses[i]
		status.Ready = status.Ready && status.Name != container
	}
	for i := range failing.Status.Conditions {
		if condition := &failing.Status.Conditions[i]; condition.Type == corev1.PodReady || condition.Type == corev1.ContainersReady {
			condition.Status = corev1.ConditionFalse
		}
	}
	Expect(k8s.Status().Patch(ctx, failing, client.MergeFrom(pod))).To(Succeed())
}

// tally counts the pods of a Deployment by what pods says of them.
func (n *namespace) tally(ctx context.Context, deployment string) (map[string]int, error) {
	pods, err := n.pods(ctx, deployment)
	counts := map[string]int{}
	for _, pod := range pods {
		counts[pod]++
	}
	return counts, err
}

// images counts the pods of a Deployment by their containers, ready or not.
func (n *namespace) images(ctx context.Context, deployment string) (map[string]int, error) {
	var pods corev1.PodList
	err := k8s.List(ctx, &pods, client.InNamespace(n.name), client.MatchingLabels{"app": deployment})
	counts := map[string]int{}
	for i := range pods.Items {
		if pods.Items[i].DeletionTimestamp.IsZero() {
			counts[strings.Join(containers(&pods.Items[i].Spec), " ")]++
		}
	}
	return counts, err
}

// updated are the pods of a Deployment that run the new log agent and are ready, in the order in which they came to.
func updated(events []recorded[*corev1.Pod]) (names []string) {
	for _, event := range events {
		isNew := slices.ContainsFunc(event.object.Spec.Containers, func(c corev1.Container) bool { return c.Image == "busybox:2" })
		if isNew && !isUnavailable(event.object) && !slices.Contains(names, event.object.Name) {
			names = append(names, event.object.Name)
		}
	}
	return names
}
