// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/hack/localcluster"
)

var _ = Describe("In-place updates: a Deployment", Ordered, func() {
	shareNamespace()
	recreate := web("recreate").Spec(func(spec *appsv1.DeploymentSpec) {
		spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	})
	forgetful := web("forgetful").Spec(func(spec *appsv1.DeploymentSpec) { spec.RevisionHistoryLimit = new(int32(0)) })
	proxy := func() *sidecarSet {
		return MakeSidecarSet("proxy").Selecting("app", "both").NativeSidecar("proxy", "proxy:1").atOnce()
	}
	agent := func() *sidecarSet {
		return MakeSidecarSet("agent").Selecting("app", "twin").Container("agent", "agent:1").atOnce()
	}
	before := map[string]map[types.UID]map[string]run{}

	// samePods is how most of them end.
	samePods := func(ctx SpecContext, name string, replicaSets int, restarted []string, containers ...string) {
		GinkgoHelper()
		shop.comesTo(ctx, name, 2, containers...)
		Eventually(ctx, shop.isObserved).WithArguments(name).Should(BeTrue())
		shop.expectRestarts(ctx, name, before[name], 1, restarted...)
		Expect(shop.replicaSetsOf(ctx, name)).To(HaveLen(replicaSets))
	}

	BeforeAll(func(ctx SpecContext) {
		shop.apply(ctx, recreate.Obj(), forgetful.Obj(), web("manual").Obj(), web("empty").Replicas(0).Obj(), web("unborn").Spec(paused).Obj(),
			web("both").Label("app", "both").Obj(), MakeDeployment("twin").Label("app", "twin").Container("web", "nginx:1").Obj())
		shop.apply(ctx, agent().Obj(), proxy().Obj())
		shop.inject(ctx, logAgent().atOnce(), "recreate", "forgetful", "manual", "empty", "both")
		shop.waitUntilReady(ctx, "proxy", "agent")
		shop.apply(ctx, web("manual").Spec(paused).Obj())
		shop.inject(ctx, agent().Type(v1alpha1.RollingUpdateUpdateStrategyType).Image("agent", "agent:2"), "twin")
		Eventually(ctx, shop.pods).WithArguments("twin").Should(And(HaveLen(2), HaveEach("web=nginx:1 agent=agent:2")))
		Expect(shop.replicaSetsOf(ctx, "twin")).To(HaveLen(3))
		for _, name := range []string{"recreate", "forgetful", "manual", "both", "twin"} {
			before[name] = shop.runs(ctx, name)
		}
		shop.apply(ctx, logAgent().atOnce().Image("log-agent", "busybox:2").Obj(), proxy().Image("proxy", "proxy:2").Obj(), agent().Obj())
	})

	It("of strategy Recreate keeps its pods", func(ctx SpecContext) {
		samePods(ctx, "recreate", 2, []string{"log-agent"}, "web=nginx:1", "log-agent=busybox:2")
		Eventually(ctx, shop.promotion).WithArguments("recreate").Should(Equal(atRest))
		shop.waitForRollout(ctx, "recreate")
	})

	It("with revisionHistoryLimit 0 keeps its only ReplicaSet", func(ctx SpecContext) {
		samePods(ctx, "forgetful", 1, []string{"log-agent"}, "web=nginx:1", "log-agent=busybox:2")
		Eventually(ctx, shop.promotion).WithArguments("forgetful").Should(Equal(atRest))
	})

	It("of two sets that are updated at the same moment restarts each sidecar once", func(ctx SpecContext) {
		samePods(ctx, "both", 2, []string{"proxy", "log-agent"}, "proxy=proxy:2", "web=nginx:1", "log-agent=busybox:2")
		Eventually(ctx, shop.promotion).WithArguments("both").Should(Equal(atRest))
		shop.waitForRollout(ctx, "both")
	})

	It("that has an idle ReplicaSet with the very template loses that, and keeps its pods", func(ctx SpecContext) {
		samePods(ctx, "twin", 2, []string{"agent"}, "web=nginx:1", "agent=agent:1")
		Eventually(ctx, shop.promotion).WithArguments("twin").Should(Equal(atRest))
		shop.waitForRollout(ctx, "twin")
	})

	It("that its user paused is updated, stays paused, and makes new pods of the new template", func(ctx SpecContext) {
		samePods(ctx, "manual", 2, []string{"log-agent"}, "web=nginx:1", "log-agent=busybox:2")
		Eventually(ctx, shop.promotion).WithArguments("manual").Should(Equal(pausedByUser))
		Eventually(ctx, shop.replicaSetImages).WithArguments("manual").Should(ContainElement("log-agent=busybox:2"))
		shop.kubectl(ctx, "delete", "pods", "-l", "app=manual")
		Eventually(ctx, shop.pods).WithArguments("manual").Should(And(HaveLen(2), HaveEach("web=nginx:1 log-agent=busybox:2")))
		Expect(shop.runs(ctx, "manual")).To(HaveEach(HaveKeyWithValue("log-agent", HaveField("Restarts", BeZero()))), "they were born so")

		shop.kubectl(ctx, "rollout", "resume", "deployment", "manual")
		shop.waitForRollout(ctx, "manual")
		Expect(shop.replicaSetsOf(ctx, "manual")).To(HaveLen(2))
	})

	It("without pods has the new template, for those to come", func(ctx SpecContext) {
		shop.comesTo(ctx, "empty", 0, "web=nginx:1", "log-agent=busybox:2")
		Expect(shop.promotion(ctx, "empty")).To(Equal(atRest))
		shop.kubectl(ctx, "scale", "deployment", "empty", "--replicas=2")
		shop.comesTo(ctx, "empty", 2, "web=nginx:1", "log-agent=busybox:2")
		Expect(shop.runs(ctx, "empty")).To(HaveEach(HaveKeyWithValue("log-agent", HaveField("Restarts", BeZero()))))
	})

	It("that was created paused has the new sidecar when it is resumed", func(ctx SpecContext) {
		shop.comesTo(ctx, "unborn", 0, "web=nginx:1", "log-agent=busybox:2")
		Expect(shop.promotion(ctx, "unborn")).To(Equal(pausedByUser))
		shop.kubectl(ctx, "rollout", "resume", "deployment", "unborn")
		shop.comesTo(ctx, "unborn", 2, "web=nginx:1", "log-agent=busybox:2")
		Eventually(ctx, shop.promotion).WithArguments("unborn").Should(Equal(atRest))
		Expect(shop.replicaSetsOf(ctx, "unborn")).To(HaveLen(1))
	})

	It("is left alone once all is done, also by an operator that starts", func(ctx SpecContext) {
		for _, set := range []string{"log-agent", "proxy", "agent"} {
			Eventually(ctx, shop.condition).WithArguments(set, "Ready").Should(Equal("True/AllPodsUpdated"))
		}
		Eventually(nothingMoreSinceLastAsked(writesFromNow())).WithPolling(settled).Should(BeTrue())
		writes := writesFromNow()
		shop.kubectl(ctx, "annotate", "pods", "--all", "example.com/touched=1")
		shop.kubectl(ctx, "annotate", "replicasets,deployments", "--all", "example.com/touched=1")
		Consistently(writes.byOperator).WithArguments(shop.name).WithPolling(time.Second).Should(BeEmpty())

		takeOperatorAway((*localcluster.Process).Kill)
		startOperator(ctx)
		neighbour := newNamespace(ctx)
		neighbour.apply(ctx, logAgent().Obj())
		Eventually(ctx, neighbour.condition).WithArguments("log-agent", "Ready").Should(Equal("True/NoWorkloads"), "the operator works again")
		Consistently(writes.byOperator).WithArguments(shop.name).WithPolling(time.Second).Should(BeEmpty())
	})
})
