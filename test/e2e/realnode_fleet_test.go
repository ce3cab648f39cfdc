// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"maps"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

// Probe gives all containers a readiness probe that runs a command of the shell every second.
func (s *sidecarSet) Probe(command string) *sidecarSet {
	for i := range s.object.Spec.Containers {
		s.object.Spec.Containers[i].ReadinessProbe = &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", command}}},
			PeriodSeconds: 1,
		}
	}
	return s
}

var _ = Describe("Acceptance 2 of the fleet, on a real node:", onRealNode, func() {
	const replicas = 2
	names := []string{"web-00", "web-01", "web-02"}
	var before map[string]map[types.UID]map[string]run

	// touched are the pods of the fleet in which an agent does not run that ran before, and whose application does.
	touched := func(ctx SpecContext) (count int) {
		GinkgoHelper()
		for _, name := range names {
			after := shop.runs(ctx, name)
			Expect(after).To(HaveLen(replicas))
			for pod, containers := range after {
				Expect(before[name]).To(HaveKey(pod), "the pods are the same")
				Expect(containers["web"]).To(Equal(before[name][pod]["web"]))
				if containers["agent"] != before[name][pod]["agent"] {
					count++
				}
			}
		}
		return count
	}

	DescribeTable("a bad version costs one pod of one workload a restart of the sidecar, twice, and a corrected one goes through:",
		func(ctx SpecContext, image string, reason string, within time.Duration, prepare func(*sidecarSet)) {
			makeImages("agent:1", "agent:2")
			set := MakeSidecarSet("sidecars").Container("agent", "agent:1")
			prepare(set)
			var objects []client.Object
			for _, name := range names {
				objects = append(objects, server(name).Replicas(replicas).Obj())
			}
			shop.apply(ctx, objects...)
			shop.inject(ctx, set.AtATime("100%"), names...)
			before = map[string]map[types.UID]map[string]run{}
			replicaSets := map[string][]string{}
			for _, name := range names {
				before[name], replicaSets[name] = shop.runs(ctx, name), shop.replicaSetsOf(ctx, name)
			}
			set.object.Spec.UpdateStrategy.MaxConcurrentWorkloads = nil
			clients := shop.request(ctx, names...)
			pods := record[*corev1.Pod](ctx, &corev1.PodList{})

			shop.apply(ctx, set.Image("agent", image).Obj())
			Eventually(ctx, shop.condition).WithArguments("sidecars", "Degraded").Should(Equal("True/RolledBack"))
			Eventually(ctx, shop.condition).WithArguments("sidecars", "Progressing").Should(Equal("False/Complete"))
			Expect(shop.degraded(ctx, "sidecars")).To(ContainSubstring(reason))
			clients.expectNoFailure(replicas * len(names))
			bad := map[string]time.Duration{}
			for _, name := range names {
				maps.Copy(bad, episodes(pods.of(shop.name, name), image))
			}
			Expect(bad).To(HaveLen(1), "no other pod was ever to run it")
			AddReportEntry(fmt.Sprintf("from the update to %s until the pod was ready with the image from before: %v", image, bad))
			Expect(bad).To(HaveEach(BeNumerically("<", within)))
			Expect(touched(ctx)).To(Equal(1))
			for _, name := range names {
				shop.comesTo(ctx, name, replicas, "web=web:1", "agent=agent:1")
				Expect(shop.madeAs(ctx, name, "agent")).To(HaveEach("agent:1"))
				Expect(shop.replicaSetsOf(ctx, name)).To(ConsistOf(replicaSets[name]))
			}
			shop.apply(ctx, set.Image("agent", "agent:2").Obj())
			for _, name := range names {
				shop.comesTo(ctx, name, replicas, "web=web:1", "agent=agent:2")
				shop.settle(ctx, name, "sidecars")
			}
			Expect(touched(ctx)).To(Equal(replicas * len(names)))
		},
		Entry("its image can not be pulled", "agent:missing", "waits in ", 15*time.Second, func(*sidecarSet) {}),
		Entry("it crashes", "agent:crashing", `with image "agent:crashing"`, 15*time.Second, func(*sidecarSet) {
			makeImage(localcluster.Image{Name: "agent:crashing", Command: []string{"sh", "-c", "exit 1"}})
		}),
		// With the default deadline it is five minutes.
		Entry("it never gets ready", "agent:never-ready", "is not available within updateStrategy.progressDeadlineSeconds", 25*time.Second, func(set *sidecarSet) {
			makeImages("agent:never-ready")
			set.ProgressDeadline(15).Probe("! grep -q never-ready " + localcluster.TagFile)
		}),
	)
})

// episodes is, for each pod that was to run an image as its agent, for how long it was not ready with another one.
func episodes(events []recorded[*corev1.Pod], image string) map[string]time.Duration {
	began, result := map[string]time.Time{}, map[string]time.Duration{}
	for _, event := range events {
		pod := event.object
		wants := slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool { return c.Image == image })
		_, begins := began[pod.Name]
		switch _, ended := result[pod.Name]; {
		case wants && !begins:
			began[pod.Name] = event.at
		case begins && !wants && !ended && statusOf(pod, "agent").Ready && pod.Status.ObservedGeneration == pod.Generation:
			result[pod.Name] = event.at.Sub(began[pod.Name])
		}
	}
	for pod := range began {
		if _, ended := result[pod]; !ended {
			result[pod] = time.Since(began[pod])
		}
	}
	return result
}

var _ = Describe("Acceptance 10 of the fleet, on a real node:", onRealNode, func() {
	const pullTime = 5 * time.Second
	var set *sidecarSet
	BeforeEach(func(ctx SpecContext) {
		makeImages("agent:1")
		set = MakeSidecarSet("sidecars").Container("agent", "agent:1").PrePull()
		shop.apply(ctx, server("web").Replicas(2).Obj())
		shop.inject(ctx, set, "web")
	})

	It("a sidecar is down for no longer than a restart when its image is pulled ahead", func(ctx SpecContext) {
		makeImage(localcluster.Image{Name: "agent:ahead", PullTime: pullTime})
		start := time.Now()
		shop.apply(ctx, set.Image("agent", "agent:ahead").Obj())
		shop.comesTo(ctx, "web", 2, "web=web:1", "agent=agent:ahead")
		Expect(time.Since(start)).To(BeNumerically(">=", pullTime), "it was not there before")
		shop.settle(ctx, "web", "sidecars")
		downtimes, err := shop.downtimes(ctx, "web", "agent")
		Expect(err).NotTo(HaveOccurred())
		AddReportEntry(fmt.Sprintf("downtimes of the sidecars, whose image took %s to pull: %v", pullTime, downtimes))
		Expect(downtimes).To(HaveEach(BeNumerically("<", pullTime)))
		Eventually(ctx, shop.pulls).Should(BeEmpty())
	})

	It("an image that is missing has no sidecar killed", func(ctx SpecContext) {
		before := shop.runs(ctx, "web")
		shop.apply(ctx, set.Image("agent", "agent:nowhere").Obj())
		Eventually(ctx, shop.condition).WithArguments("sidecars", "Degraded").Should(Equal("True/RolledBack"))
		Expect(shop.degraded(ctx, "sidecars")).To(ContainSubstring("ahead"))
		Eventually(ctx, shop.pulls).Should(BeEmpty())
		Expect(shop.runs(ctx, "web")).To(Equal(before))
	})
})
