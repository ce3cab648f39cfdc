// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// It comes last: what it leaves goes with the cluster, and disturbs no other spec.
var _ = Describe("Acceptance 11: at scale", Label("scale"), SpecPriority(-1), func() {
	const (
		workloads = 300
		replicas  = 3
		patience  = 10 * time.Minute
	)

	It("one set reaches 300 Deployments of 3 pods, with three writes for each at most", func(ctx SpecContext) {
		for i := range workloads {
			object := web(fmt.Sprintf("web-%d", i)).Replicas(replicas).Obj()
			object.Namespace = shop.name
			Expect(k8s.Create(ctx, object)).To(Succeed())
		}
		Eventually(ctx, shop.rolledOut).WithTimeout(patience).WithPolling(time.Second).Should(Equal(workloads))

		writes, start := writesFromNow(), time.Now()
		shop.apply(ctx, logAgent().Obj())
		Eventually(func(g Gomega) {
			set := &v1alpha1.SidecarSet{}
			g.Expect(k8s.Get(ctx, shop.key("log-agent"), set)).To(Succeed())
			g.Expect(set.Status.UpdatedReadyPods).To(BeEquivalentTo(workloads * replicas))
			g.Expect(set.Status.UpdatedWorkloads).To(BeEquivalentTo(workloads))
		}).WithTimeout(patience).WithPolling(time.Second).Should(Succeed())
		took := time.Since(start)
		Expect(shop.condition(ctx, "log-agent", "Ready")).To(Equal("True/AllPodsUpdated"))

		counts, err := writes.byOperator(shop.name)
		Expect(err).NotTo(HaveOccurred())
		Expect(counts["patch deployments"]).To(And(BeNumerically(">=", workloads), BeNumerically("<=", 3*workloads)))
		AddReportEntry(fmt.Sprintf("%d Deployments of %d pods injected in %.0f s; the operator's memory: %s; its writes:\n%s",
			workloads, replicas, took.Seconds(), operatorMemory(), table(counts)))
	})
})

// rolledOut counts the Deployments whose pods are all there, ready and at today's template.
func (n *namespace) rolledOut(ctx SpecContext) (int, error) {
	var deployments appsv1.DeploymentList
	if err := k8s.List(ctx, &deployments, client.InNamespace(n.name)); err != nil {
		return 0, err
	}
	done := 0
	for i := range deployments.Items {
		status, desired := deployments.Items[i].Status, *deployments.Items[i].Spec.Replicas
		if status.UpdatedReplicas == desired && status.ReadyReplicas == desired && status.Replicas == desired {
			done++
		}
	}
	return done, nil
}
