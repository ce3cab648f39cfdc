// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/promotion"
)

// story is of one Deployment, and of somebody who does something to it at an awkward moment. It begins with two ReplicaSets: without
// sidecars, and with them.
type story struct {
	name, does string
	do         func(ctx SpecContext, name string)
	// The end: so many pods of such an application, the same ones unless that is the user's doing, and so many ReplicaSets.
	pods, replicaSets int
	web               string
	newPods           bool
	// also is another sidecar that is expected, before the application.
	also   string
	paused bool
	gone   bool
	// spec is what is special about the Deployment, and prepare what its user does before anything happens.
	spec    func(*appsv1.DeploymentSpec)
	prepare func(ctx SpecContext, name string)
}

// commands is what somebody does with kubectl. %s is the name of the Deployment.
func commands(lines ...string) func(SpecContext, string) {
	return func(ctx SpecContext, name string) {
		GinkgoHelper()
		for _, line := range lines {
			shop.kubectl(ctx, strings.Fields(strings.ReplaceAll(line, "%s", name))...)
		}
	}
}

const (
	peopleReplicas = 2
	setImage       = "set image deployment/%s web=nginx:2"
	scaleUp        = "scale deployment/%s --replicas=3"
	resume         = "rollout resume deployment/%s"
	restart        = "rollout restart deployment/%s"
	undo           = "rollout undo deployment/%s"
	remove         = "delete deployment/%s --wait=false"
)

// peopleSet is the set of these stories. They begin with busybox:1, and busybox:2 is under way when people act.
func peopleSet() *sidecarSet { return logAgent().atOnce() }

// stories makes specs of stories that all happen together: begin gives all Deployments sidecars, interfere brings the new image and lets
// everybody act.
func stories(interfere func(SpecContext, []story), all ...story) {
	shareNamespace()
	before := map[string]map[types.UID]map[string]run{}

	BeforeAll(func(ctx SpecContext) {
		var names []string
		var manifests []client.Object
		for _, story := range all {
			names = append(names, story.name)
			manifests = append(manifests, story.deployment().Obj())
		}
		shop.apply(ctx, manifests...)
		shop.apply(ctx, otherSet().Obj())
		shop.waitUntilReady(ctx, otherSet().object.Name)
		shop.inject(ctx, peopleSet(), names...)
		for _, story := range all {
			Eventually(ctx, shop.replicaSets).WithArguments(story.name).Should(Equal(story.replicaSetsBefore()), story.name)
			before[story.name] = shop.runs(ctx, story.name)
			if story.prepare != nil {
				story.prepare(ctx, story.name)
			}
		}
		interfere(ctx, all)
	})

	for _, story := range all {
		It(story.does, func(ctx SpecContext) { story.ends(ctx, before[story.name]) })
	}

	It("and that is the end of it", func(ctx SpecContext) {
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
		Eventually(nothingMoreSinceLastAsked(writesFromNow())).WithPolling(settled).Should(BeTrue())
		for _, story := range all {
			story.ends(ctx, before[story.name])
		}
	})
}

// otherSet is a second set, of the story "second-set".
func otherSet() *sidecarSet {
	return MakeSidecarSet("proxy").Selecting("story", "second-set").NativeSidecar("proxy", "proxy:1").atOnce()
}

// deployment is the manifest of a story's user.
func (s *story) deployment() *deployment {
	manifest := web(s.name).Label("story", s.name).Replicas(peopleReplicas)
	if s.spec != nil {
		manifest.Spec(s.spec)
	}
	return manifest
}

// replicaSetsBefore is how many there are before anything happens: those without sidecars, and with them, and of two sets with the first one.
func (s *story) replicaSetsBefore() int {
	if s.also != "" {
		return 3
	}
	if limit := s.deployment().object.Spec.RevisionHistoryLimit; limit != nil && *limit == 0 {
		return 1
	}
	return 2
}

func (s *story) ends(ctx SpecContext, before map[types.UID]map[string]run) {
	GinkgoHelper()
	if s.gone {
		Eventually(ctx, shop.pods).WithArguments(s.name).Should(BeEmpty())
		var deployments appsv1.DeploymentList
		Expect(k8s.List(ctx, &deployments, client.InNamespace(shop.name), client.MatchingLabels{"story": s.name})).To(Succeed())
		Expect(deployments.Items).To(BeEmpty())
		return
	}
	containers, restarted := []string{"web=" + s.web, "log-agent=busybox:2"}, []string{"log-agent"}
	if s.also != "" {
		containers, restarted = append([]string{s.also}, containers...), append(restarted, "proxy")
	}
	shop.comesTo(ctx, s.name, s.pods, containers...)
	rest := atRest
	if s.paused {
		rest = pausedByUser
	}
	Eventually(ctx, shop.promotion).WithArguments(s.name).Should(Equal(rest))
	if !s.paused {
		shop.waitForRollout(ctx, s.name)
	}
	Eventually(ctx, shop.replicaSets).WithArguments(s.name).Should(Equal(s.replicaSets))
	switch {
	case !s.newPods && s.pods == len(before):
		shop.expectRestarts(ctx, s.name, before, 1, restarted...)
	case !s.newPods:
		for pod := range before {
			Expect(shop.runs(ctx, s.name)).To(HaveKey(pod), "what was there stays")
		}
	}
}

func allAct(ctx SpecContext, all []story) {
	GinkgoHelper()
	for _, story := range all {
		if story.do != nil {
			story.do(ctx, story.name)
		}
	}
}

// beginPromotions updates all pods, and takes the controller manager away just before the templates follow.
func beginPromotions(ctx SpecContext, all []story) {
	GinkgoHelper()
	set := peopleSet().Image("log-agent", "busybox:2")
	shop.apply(ctx, set.MinReadySeconds(3600).Obj())
	for _, story := range all {
		Eventually(ctx, shop.tally).WithArguments(story.name).Should(HaveKeyWithValue(HaveSuffix("web=nginx:1 log-agent=busybox:2"), peopleReplicas), story.name)
		Eventually(ctx, shop.isCounted).WithArguments(story.name).Should(BeTrue(), story.name)
	}
	stopControllerManager()
	shop.apply(ctx, set.MinReadySeconds(0).Obj())
	waitUntilPromoting(ctx, all)
}

// waitUntilPromoting waits until the promotions of all Deployments have begun.
func waitUntilPromoting(ctx SpecContext, all []story) {
	GinkgoHelper()
	for _, story := range all {
		Eventually(ctx, shop.promotion).WithArguments(story.name).Should(Equal(promoting), story.name)
	}
}

var _ = Describe("In-place updates: in the middle of an update of pods, somebody", Ordered, func() {
	recreate := func(ctx SpecContext, name string) {
		shop.kubectl(ctx, "delete", "deployment", name)
		shop.apply(ctx, web(name).Label("story", name).Replicas(peopleReplicas).Obj())
	}
	goBack := func(ctx SpecContext, name string) {
		commands(undo)(ctx, name)
		Eventually(ctx, shop.template).WithArguments(name).Should(ContainElement("log-agent=busybox:1"), "what the partition keeps comes first")
	}
	stories(
		func(ctx SpecContext, all []story) {
			set := peopleSet().Image("log-agent", "busybox:2")
			shop.apply(ctx, set.Partition("50%").Obj())
			halfway := map[string]int{"web=nginx:1 log-agent=busybox:1": 1, "web=nginx:1 log-agent=busybox:2": 1}
			for _, story := range all {
				Eventually(ctx, shop.tally).WithArguments(story.name).Should(Equal(halfway), story.name)
			}
			allAct(ctx, all)
			shop.apply(ctx, set.Partition("0").Obj())
		},
		story{name: "alone", does: "does nothing", pods: 2, replicaSets: 2, web: "nginx:1"},
		story{name: "image", does: "sets another image", do: commands(setImage), pods: 2, replicaSets: 3, web: "nginx:2", newPods: true},
		story{name: "scaled", does: "scales up", do: commands(scaleUp), pods: 3, replicaSets: 2, web: "nginx:1"},
		story{name: "paused", does: "pauses the Deployment", do: commands("rollout pause deployment/%s"), pods: 2, replicaSets: 2, web: "nginx:1", paused: true},
		story{
			name: "careful", does: "pauses, sets another image and resumes", do: commands("rollout pause deployment/%s", setImage, resume),
			pods: 2, replicaSets: 3, web: "nginx:2", newPods: true,
		},
		story{name: "restarted", does: "restarts the Deployment", do: commands(restart), pods: 2, replicaSets: 3, web: "nginx:1", newPods: true},
		story{name: "undone", does: "goes back to the template without sidecars", do: goBack, pods: 2, replicaSets: 2, web: "nginx:1", newPods: true},
		story{name: "deleted", does: "deletes the Deployment", do: commands(remove), gone: true},
		story{name: "recreated", does: "deletes the Deployment and creates it anew", do: recreate, pods: 2, replicaSets: 2, web: "nginx:1", newPods: true},
	)
})

var _ = Describe("In-place updates: while a promotion waits in vain for the controller manager, somebody", Ordered, func() {
	const limit = promotion.Deadline + 15*time.Second // of which the machine may be busy with anything else
	pauseServerSide := func(ctx SpecContext, name string) {
		shop.applyServerSide(ctx, web(name).Label("story", name).Replicas(peopleReplicas).Spec(paused).Obj())
	}
	pauseClientSide := func(ctx SpecContext, name string) {
		shop.apply(ctx, web(name).Label("story", name).Replicas(peopleReplicas).Spec(paused).Obj())
	}
	stories(
		func(ctx SpecContext, all []story) {
			beginPromotions(ctx, all)
			allAct(ctx, all)
			for _, story := range all {
				if !story.paused && !story.gone {
					Eventually(ctx, shop.promotion).WithArguments(story.name).WithTimeout(limit).Should(Equal(atRest), "%s is not paused for longer", story.name)
				}
			}
			startControllerManager(ctx)
		},
		story{name: "alone", does: "does nothing", pods: 2, replicaSets: 2, web: "nginx:1"},
		story{name: "image", does: "sets another image", do: commands(setImage), pods: 2, replicaSets: 3, web: "nginx:2", newPods: true},
		story{name: "scaled", does: "scales up", do: commands(scaleUp), pods: 3, replicaSets: 2, web: "nginx:1"},
		story{name: "resumed", does: "resumes the Deployment", do: commands(resume), pods: 2, replicaSets: 3, web: "nginx:1", newPods: true},
		story{name: "restarted", does: "resumes and restarts it", do: commands(resume, restart), pods: 2, replicaSets: 3, web: "nginx:1", newPods: true},
		story{name: "paused", does: "declares a pause, by server-side apply", do: pauseServerSide, pods: 2, replicaSets: 2, web: "nginx:1", paused: true},
		story{name: "paused-too", does: "declares a pause, by client-side apply", do: pauseClientSide, pods: 2, replicaSets: 2, web: "nginx:1", paused: true},
		story{name: "deleted", does: "deletes the Deployment", do: commands(remove), gone: true},
	)
})

// isObserved is true when the Deployment controller has seen a Deployment as it is.
func (n *namespace) isObserved(ctx context.Context, name string) (bool, error) {
	deployment := &appsv1.Deployment{}
	err := k8s.Get(ctx, n.key(name), deployment)
	return deployment.Status.ObservedGeneration >= deployment.Generation, err
}

// replicaSetImages are the containers of a Deployment's ReplicaSet that has pods.
func (n *namespace) replicaSetImages(ctx context.Context, name string) ([]string, error) {
	var list appsv1.ReplicaSetList
	if err := k8s.List(ctx, &list, client.InNamespace(n.name), client.MatchingLabels{"app": name, v1alpha1.InjectedLabel: "true"}); err != nil {
		return nil, err
	}
	list.Items = slices.DeleteFunc(list.Items, func(rs appsv1.ReplicaSet) bool { return *rs.Spec.Replicas == 0 })
	if len(list.Items) != 1 {
		return nil, fmt.Errorf("%s has %d ReplicaSets with sidecars and pods", name, len(list.Items))
	}
	return containers(&list.Items[0].Spec.Template.Spec), nil
}
