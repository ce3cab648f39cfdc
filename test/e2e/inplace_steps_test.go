// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

// step is a moment of a promotion that people meet with.
type step struct {
	name string
	// meet takes the promotions of all stories to the step, lets people act, and goes on.
	meet func(ctx SpecContext, all []story)
	// rollsOut is true of the steps before the ReplicaSet has the new template: whoever resumes the Deployment then has it rolled out.
	rollsOut bool
	// seen is true of the steps in which the controller manager works: it rolls out what is resumed before anybody does more.
	seen bool
}

var steps = []step{
	{name: "after step 1, the pause", rollsOut: true, seen: true, meet: func(ctx SpecContext, all []story) {
		takeOperatorAway((*localcluster.Process).Kill)
		holdBefore(ctx, all, replicaSetPatch)
		allAct(ctx, all)
		startOperator(ctx)
	}},
	{name: "in step 2, the wait for the controller to see it", rollsOut: true, meet: func(ctx SpecContext, all []story) {
		beginPromotions(ctx, all)
		allAct(ctx, all)
		startControllerManager(ctx)
	}},
	{name: "after step 3, the ReplicaSet's new template", meet: func(ctx SpecContext, all []story) {
		takeOperatorAway((*localcluster.Process).Kill)
		holdBefore(ctx, all, replicaSetPatch)
		stopControllerManager()
		holdBefore(ctx, all, templateWrite)
		allAct(ctx, all)
		startControllerManager(ctx)
		startOperator(ctx)
	}},
	{name: "in step 4, the wait for the controller to see that", meet: func(ctx SpecContext, all []story) {
		takeOperatorAway((*localcluster.Process).Kill)
		holdBefore(ctx, all, replicaSetPatch)
		stopControllerManager()
		startOperator(ctx)
		waitUntilPatched(ctx, all)
		waitUntilPromoting(ctx, all) // still
		ready := func() (string, error) { return shop.condition(ctx, "log-agent", "Ready") }
		Eventually(ready).Should(Equal("False/Promoting"))
		Consistently(ready).Should(Equal("False/Promoting"), "pods and templates agree, and the Deployments are paused")
		allAct(ctx, all)
		startControllerManager(ctx)
	}},
	{name: "before step 5, the end of the pause", seen: true, meet: func(ctx SpecContext, all []story) {
		takeOperatorAway((*localcluster.Process).Kill)
		holdBefore(ctx, all, templateWrite)
		allAct(ctx, all)
		startOperator(ctx)
	}},
}

// holdBefore takes the promotions of all stories as far as they go without a write of the operator, and leaves them alone.
func holdBefore(ctx SpecContext, all []story, write string) {
	GinkgoHelper()
	operator, err := startMortal(ctx, shop.name, func(is string, _ int) fate {
		if is == write {
			return isRefused
		}
		return passes
	})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { killMortal(operator) })
	shop.apply(ctx, peopleSet().Image("log-agent", "busybox:2").Obj())
	waitUntilPromoting(ctx, all)
	if write == templateWrite {
		waitUntilPatched(ctx, all)
	}
	select {
	case <-cluster.ControllerManager.Done():
	default:
		for _, story := range all {
			Eventually(ctx, shop.isObserved).WithArguments(story.name).Should(BeTrue(), story.name)
			if write == templateWrite {
				Eventually(ctx, shop.updatedReplicas).WithArguments(story.name).Should(BeEquivalentTo(peopleReplicas), story.name)
			}
		}
	}
	waitUntilPromoting(ctx, all) // still
	killMortal(operator)
}

// waitUntilPatched waits until the ReplicaSets of all Deployments have the new template.
func waitUntilPatched(ctx SpecContext, all []story) {
	GinkgoHelper()
	for _, story := range all {
		Eventually(ctx, shop.replicaSetImages).WithArguments(story.name).Should(ContainElement("log-agent=busybox:2"), story.name)
	}
}

// updatedReplicas is how many pods of a Deployment its controller counts to the current template.
func (n *namespace) updatedReplicas(ctx context.Context, name string) (int32, error) {
	deployment := &appsv1.Deployment{}
	err := k8s.Get(ctx, n.key(name), deployment)
	return deployment.Status.UpdatedReplicas, err
}

// people are the stories of those who meet with a step of a promotion.
func (s *step) people() []story {
	resumed, restarted, undone := 2, 3, 2
	if s.rollsOut {
		resumed, undone = 3, 3
	}
	if s.rollsOut && s.seen {
		restarted = 4
	}
	// thenDo resumes the Deployment first: kubectl restarts and undoes nothing that is paused.
	thenDo := func(line string) func(SpecContext, string) {
		return func(ctx SpecContext, name string) {
			GinkgoHelper()
			commands(resume)(ctx, name)
			if s.seen {
				Eventually(ctx, shop.isObserved).WithArguments(name).Should(BeTrue(), name)
				Eventually(ctx, shop.replicaSets).WithArguments(name).Should(Equal(resumed), name)
			}
			commands(line)(ctx, name)
		}
	}
	declarePause := func(ctx SpecContext, name string) {
		shop.applyServerSide(ctx, web(name).Label("story", name).Replicas(peopleReplicas).Spec(paused).Obj())
	}
	updateOther := func(ctx SpecContext, _ string) { shop.apply(ctx, otherSet().Image("proxy", "proxy:2").Obj()) }
	recreates := func(spec *appsv1.DeploymentSpec) {
		spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	}
	forgets := func(spec *appsv1.DeploymentSpec) { spec.RevisionHistoryLimit = new(int32(0)) }
	return []story{
		{name: "alone", does: "does nothing", pods: 2, replicaSets: 2, web: "nginx:1"},
		{name: "image", does: "sets another image", do: commands(setImage), pods: 2, replicaSets: 3, web: "nginx:2", newPods: true},
		{name: "scaled", does: "scales up", do: commands(scaleUp), pods: 3, replicaSets: 2, web: "nginx:1"},
		{name: "emptied", does: "scales down to nothing", do: commands("scale deployment/%s --replicas=0"), replicaSets: 2, web: "nginx:1", newPods: true},
		{name: "paused", does: "declares a pause", do: declarePause, pods: 2, replicaSets: 2, web: "nginx:1", paused: true},
		{name: "resumed", does: "resumes the Deployment", do: commands(resume), pods: 2, replicaSets: resumed, web: "nginx:1", newPods: s.rollsOut},
		{name: "restarted", does: "resumes and restarts it", do: thenDo(restart), pods: 2, replicaSets: restarted, web: "nginx:1", newPods: true},
		{name: "undone", does: "resumes and undoes", do: thenDo(undo), pods: 2, replicaSets: undone, web: "nginx:1", newPods: true},
		{name: "deleted", does: "deletes the Deployment", do: commands(remove), gone: true},
		{name: "second-set", does: "updates another set of the same Deployment", do: updateOther, pods: 2, replicaSets: 3, web: "nginx:1", also: "proxy=proxy:2"},
		{name: "manual", does: "had paused the Deployment before", prepare: declarePause, pods: 2, replicaSets: 2, web: "nginx:1", paused: true},
		{
			name: "manual-image", does: "had paused it before, sets another image and resumes it", prepare: declarePause, do: commands(setImage, resume),
			pods: 2, replicaSets: 3, web: "nginx:2", newPods: true,
		},
		{name: "recreate", does: "has the strategy Recreate", spec: recreates, pods: 2, replicaSets: 2, web: "nginx:1"},
		{name: "forgetful", does: "has revisionHistoryLimit 0", spec: forgets, pods: 2, replicaSets: 1, web: "nginx:1"},
		{
			name: "forgetful-image", does: "has revisionHistoryLimit 0 and sets another image", spec: forgets, do: commands(setImage),
			pods: 2, replicaSets: 1, web: "nginx:2", newPods: true,
		},
	}
}

var _ = Describe("In-place updates: a promotion meets,", func() {
	for _, step := range steps {
		Describe(step.name+", somebody who", Ordered, ContinueOnFailure, func() {
			stories(step.meet, step.people()...)
		})
	}
})
