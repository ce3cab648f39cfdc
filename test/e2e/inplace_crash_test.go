// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

// patience is for how long the operator is waited for that has to write something before it is killed.
const patience = 4 * time.Second

var _ = Describe("In-place updates: an operator that is killed", func() {
	It("at any moment and started again comes to the same end", func(ctx SpecContext) {
		const rounds, kills, workloads, replicas = 3, 2, 3, 3
		const writesPerRound = workloads * (1 + replicas + 4) // order slips, pods, and the steps of promotions
		dice := rand.New(rand.NewPCG(uint64(GinkgoRandomSeed()), 0))
		set := logAgent().NativeSidecar("proxy", "proxy:1").MaxUnavailable("1")
		var names []string
		for i := range workloads {
			names = append(names, fmt.Sprintf("web-%d", i))
			shop.apply(ctx, web(names[i]).Replicas(replicas).Obj())
		}
		shop.inject(ctx, set, names...)
		before, replicaSets := map[string]map[types.UID]map[string]run{}, map[string][]string{}
		for _, name := range names {
			before[name], replicaSets[name] = shop.runs(ctx, name), shop.replicaSetsOf(ctx, name)
		}
		takeOperatorAway((*localcluster.Process).Kill)

		for round := range rounds {
			proxy, agent := fmt.Sprintf("proxy:%d", round+2), fmt.Sprintf("busybox:%d", round+2)
			writes := writesFromNow()
			shop.apply(ctx, set.Image("proxy", proxy).Image("log-agent", agent).Obj())
			startOperator(ctx)
			for _, written := range dice.Perm(writesPerRound)[:kills] {
				killAfter(ctx, writes, written)
				startOperator(ctx)
			}
			for _, name := range names {
				shop.comesTo(ctx, name, replicas, "proxy="+proxy, "web=nginx:1", "log-agent="+agent)
				Eventually(ctx, shop.promotion).WithArguments(name).Should(Equal(atRest))
				shop.waitForRollout(ctx, name)
				shop.expectRestarts(ctx, name, before[name], int32(round+1), "proxy", "log-agent")
				Expect(shop.replicaSetsOf(ctx, name)).To(ConsistOf(replicaSets[name]))
			}
		}
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
	})
})

// killAfter kills the operator as soon as it has written so often to workloads, and a little later by chance. It kills it anyway after a while.
func killAfter(ctx context.Context, writes writeLog, written int) {
	GinkgoHelper()
	counts := map[string]int{}
	err := wait.PollUntilContextTimeout(ctx, interval/5, patience, true, func(context.Context) (done bool, err error) {
		counts, err = writes.byOperator(shop.name)
		delete(counts, "patch sidecarsets/status")
		return sum(counts) >= written, err
	})
	if !wait.Interrupted(err) {
		Expect(err).NotTo(HaveOccurred())
	}
	time.Sleep(rand.N(interval)) // any moment is to be tried
	Expect(operator.Kill()).To(Succeed())
	GinkgoWriter.Printf("killed after\n%s", table(counts))
}
