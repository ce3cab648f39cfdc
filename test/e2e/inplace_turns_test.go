// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("In-place updates: the promotions of a fleet", func() {
	const size, atATime = 25, 20

	It("take turns, and twenty at most wait for a controller manager that is away", func(ctx SpecContext) {
		objects, names := fleet(size, 1)
		shop.apply(ctx, objects...)
		set := logAgent().atOnce()
		shop.inject(ctx, set, names...)
		set.Image("log-agent", "busybox:2")
		shop.apply(ctx, set.MinReadySeconds(3600).Obj())
		for _, name := range names {
			Eventually(ctx, shop.pods).WithArguments(name).Should(HaveExactElements("web=nginx:1 log-agent=busybox:2"), name)
			Eventually(ctx, shop.isCounted).WithArguments(name).Should(BeTrue(), name)
		}

		stopControllerManager()
		shop.apply(ctx, set.MinReadySeconds(0).Obj())
		underWay := func(ctx context.Context) (count int, err error) {
			for _, name := range names {
				state, err := shop.promotion(ctx, name)
				if err != nil {
					return 0, err
				}
				if state != atRest {
					count++
				}
			}
			return count, nil
		}
		Eventually(ctx, underWay).Should(BeNumerically(">=", atATime))
		Consistently(ctx, underWay).Should(Equal(atATime), "the others wait for their turn")

		startControllerManager(ctx)
		for _, name := range names {
			shop.comesTo(ctx, name, 1, "web=nginx:1", "log-agent=busybox:2")
			Eventually(ctx, shop.promotion).WithArguments(name).Should(Equal(atRest), name)
		}
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
	})
})
