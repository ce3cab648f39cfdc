// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/http"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/hack/localcluster"
)

// It comes last: what it leaves goes with the cluster, and disturbs no other spec.
var _ = Describe("Acceptance 11: at scale", Label("scale"), SpecPriority(-1), func() {
	const (
		workloads = 300
		replicas  = 3
		patience  = 10 * time.Minute
	)

	It("one set reaches 300 Deployments of 3 pods, with three writes for each at most, and none after a restart", func(ctx SpecContext) {
		for i := range workloads {
			object := web(fmt.Sprintf("web-%d", i)).Replicas(replicas).Obj()
			object.Namespace = shop.name
			Expect(k8s.Create(ctx, object)).To(Succeed())
		}
		Eventually(ctx, shop.rolledOut).WithTimeout(patience).WithPolling(time.Second).Should(Equal(workloads))

		writes, start := writesFromNow(), time.Now()
		shop.apply(ctx, logAgent().AtATime("100%").Obj())
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
		accepted, refused, err := writes.toDeployments(shop.name)
		Expect(err).NotTo(HaveOccurred())
		AddReportEntry(fmt.Sprintf("%d Deployments of %d pods injected in %.0f s; the operator's memory: %s", workloads, replicas, took.Seconds(), operatorMemory()),
			"its writes:\n"+table(counts))
		Expect(accepted).To(And(HaveLen(workloads), HaveEach(BeNumerically("<=", 3))))
		Expect(refused).To(BeNumerically("<=", workloads), "the Deployment controller may write between the operator's look and its write, but not every time")
		Expect(counts["patch sidecarsets/status"]).To(BeNumerically("<=", 10+took.Seconds()), "one a second is enough")

		Eventually(nothingMoreSinceLastAsked(writes)).WithPolling(time.Second).Should(BeTrue())
		writes = writesFromNow()
		restartOperator(ctx, (*localcluster.Process).Kill)
		Expect(writes.byOperator(shop.name)).To(BeEmpty())
	})
})

// toDeployments counts the operator's writes to Deployments: for each by name those that the API server accepted, and in all those that it refused.
func (l writeLog) toDeployments(namespace string) (accepted map[string]int, refused int, err error) {
	writes, err := cluster.Writes()
	if err != nil {
		return nil, 0, err
	}
	accepted = map[string]int{}
	for _, write := range writes[l.from:] {
		switch {
		case write.User.Name != operatorUser || write.Object.Namespace != namespace || write.Object.Resource != "deployments" || write.IsDryRun():
		case write.Response.Code >= http.StatusBadRequest:
			refused++
		default:
			accepted[write.Object.Name]++
		}
	}
	return accepted, refused, nil
}

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
