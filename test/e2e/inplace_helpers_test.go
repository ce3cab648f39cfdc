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
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// atOnce lets a set update all pods of all workloads at the same time.
func (s *sidecarSet) atOnce() *sidecarSet { return s.MaxUnavailable("100%") }

// MaxUnavailable sets it for each workload, and lets all workloads go at the same time.
func (s *sidecarSet) MaxUnavailable(value string) *sidecarSet {
	strategy := &s.object.Spec.UpdateStrategy
	strategy.MaxUnavailable = new(intstr.Parse(value))
	strategy.MaxConcurrentWorkloads = new(intstr.FromString("100%"))
	return s
}

func (s *sidecarSet) Partition(value string) *sidecarSet {
	s.object.Spec.UpdateStrategy.Partition = new(intstr.Parse(value))
	return s
}

func (s *sidecarSet) MinReadySeconds(seconds int32) *sidecarSet {
	s.object.Spec.UpdateStrategy.MinReadySeconds = seconds
	return s
}

func (s *sidecarSet) Paused(paused bool) *sidecarSet {
	s.object.Spec.UpdateStrategy.Paused = paused
	return s
}

func (s *sidecarSet) Type(strategy v1alpha1.UpdateStrategyType) *sidecarSet {
	s.object.Spec.UpdateStrategy.Type = strategy
	return s
}

// Memory gives all containers another memory request.
func (s *sidecarSet) Memory(quantity string) *sidecarSet {
	for i := range s.object.Spec.Containers {
		s.object.Spec.Containers[i].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(quantity)}
	}
	return s
}

// Spec changes what has no method of its own.
func (d *deployment) Spec(change func(*appsv1.DeploymentSpec)) *deployment {
	change(&d.object.Spec)
	return d
}

func paused(spec *appsv1.DeploymentSpec) { spec.Paused = true }

// shareNamespace gives all specs of an Ordered container one namespace.
func shareNamespace() {
	var shared *namespace
	BeforeAll(func(ctx SpecContext) {
		shared = newNamespace(ctx)
		shop = shared
	})
	BeforeEach(func() { shop = shared })
}

// inject applies a set and waits until the Deployments have it.
func (n *namespace) inject(ctx context.Context, set *sidecarSet, deployments ...string) {
	GinkgoHelper()
	n.apply(ctx, set.Obj())
	for _, name := range deployments {
		Eventually(ctx, n.template).WithArguments(name).Should(ContainElements(containersOf(set)), name)
	}
	n.waitUntilReady(ctx, set.object.Name)
	for _, name := range deployments {
		n.waitForRollout(ctx, name)
	}
}

func containersOf(set *sidecarSet) []string {
	var result []string
	for _, list := range [][]v1alpha1.SidecarContainer{set.object.Spec.InitContainers, set.object.Spec.Containers} {
		for i := range list {
			result = append(result, list[i].Name+"="+list[i].Image)
		}
	}
	return result
}

// run is a container as it runs.
type run struct {
	ID       string
	Restarts int32
}

// runs returns the containers of a Deployment's pods that are not terminating, by pod and name.
func (n *namespace) runs(ctx context.Context, deployment string) map[types.UID]map[string]run {
	GinkgoHelper()
	var pods corev1.PodList
	Expect(k8s.List(ctx, &pods, client.InNamespace(n.name), client.MatchingLabels{"app": deployment})).To(Succeed())
	result := map[types.UID]map[string]run{}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if !pod.DeletionTimestamp.IsZero() {
			continue
		}
		containers := map[string]run{}
		for _, status := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
			containers[status.Name] = run{status.ContainerID, status.RestartCount}
		}
		result[pod.UID] = containers
	}
	return result
}

// expectRestarts expects the pods that there were, and in each of them these containers started anew so many times, and no others.
func (n *namespace) expectRestarts(ctx context.Context, deployment string, before map[types.UID]map[string]run, times int32, restarted ...string) {
	GinkgoHelper()
	after := n.runs(ctx, deployment)
	Expect(after).To(HaveLen(len(before)))
	for pod, containers := range before {
		Expect(after).To(HaveKey(pod), "the pods are the same")
		for name, old := range containers {
			now := after[pod][name]
			if was, _ := ContainElement(name).Match(restarted); was {
				Expect(now.Restarts).To(Equal(old.Restarts+times), name)
				Expect(now.ID).NotTo(Equal(old.ID), name)
			} else {
				Expect(now).To(Equal(old), "%s is not touched", name)
			}
		}
	}
}

// replicaSetsOf returns the names of a Deployment's ReplicaSets, those without pods included.
func (n *namespace) replicaSetsOf(ctx context.Context, deployment string) []string {
	GinkgoHelper()
	var list appsv1.ReplicaSetList
	Expect(k8s.List(ctx, &list, client.InNamespace(n.name), client.MatchingLabels{"app": deployment})).To(Succeed())
	var names []string
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names
}

// promotion tells of a Deployment's pause and promotion; empty is the state of rest.
func (n *namespace) promotion(ctx context.Context, name string) (string, error) {
	deployment := &appsv1.Deployment{}
	if err := k8s.Get(ctx, n.key(name), deployment); err != nil {
		return "", err
	}
	var state []string
	if deployment.Spec.Paused {
		state = append(state, "paused")
	}
	if deployment.Annotations[v1alpha1.PromotionAnnotation] != "" {
		state = append(state, "promoting")
	}
	return strings.Join(state, ", "), nil
}

const (
	atRest    = ""
	promoting = "paused, promoting"
	// pausedByUser is how a promotion has to leave a Deployment that its user paused.
	pausedByUser = "paused"
)

// comesTo waits until the template of a Deployment has these containers, and so many pods run them.
func (n *namespace) comesTo(ctx context.Context, name string, pods int, containers ...string) {
	GinkgoHelper()
	Eventually(ctx, n.template).WithArguments(name).Should(HaveExactElements(containers), name)
	Eventually(ctx, n.pods).WithArguments(name).Should(HaveExactElements(slices.Repeat([]any{strings.Join(containers, " ")}, pods)...), name)
}

// stopControllerManager takes the controller manager away: no Deployment gets on. It is back after the spec at the latest.
func stopControllerManager() {
	GinkgoHelper()
	Expect(cluster.ControllerManager.Stop()).To(Succeed())
	DeferCleanup(startControllerManager)
}

// isCounted is true when all pods of a Deployment run what their specs say, and the Deployment controller knows them to be ready, and none became so
// just now. Before that, no promotion begins.
func (n *namespace) isCounted(ctx context.Context, name string) (bool, error) {
	deployment := &appsv1.Deployment{}
	if err := k8s.Get(ctx, n.key(name), deployment); err != nil {
		return false, err
	}
	var pods corev1.PodList
	err := k8s.List(ctx, &pods, client.InNamespace(n.name), client.MatchingLabels{"app": name})
	unsettled := slices.ContainsFunc(pods.Items, func(pod corev1.Pod) bool {
		return !runsItsSpec(&pod) || !slices.ContainsFunc(pod.Status.Conditions, func(condition corev1.PodCondition) bool {
			return condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue && time.Since(condition.LastTransitionTime.Time) > settled
		})
	})
	return !unsettled && int(deployment.Status.ReadyReplicas) == len(pods.Items), err
}

// runsItsSpec is true when the containers of a pod on a simulated node have the images that its spec has. A moment after a change they do not, and
// the pod is ready all the same.
func runsItsSpec(pod *corev1.Pod) bool {
	running := map[string]string{}
	for _, status := range append(slices.Clone(pod.Status.InitContainerStatuses), pod.Status.ContainerStatuses...) {
		running[status.Name] = status.Image
	}
	return !slices.ContainsFunc(append(slices.Clone(pod.Spec.InitContainers), pod.Spec.Containers...), func(container corev1.Container) bool {
		return running[container.Name] != container.Image
	})
}

// startControllerManager starts the controller manager if it is away.
func startControllerManager(ctx SpecContext) {
	GinkgoHelper()
	select {
	case <-cluster.ControllerManager.Done():
		Expect(cluster.ControllerManager.Start(ctx)).To(Succeed())
	default:
	}
}

// sum adds up counts.
func sum(counts map[string]int) (total int) {
	for _, count := range counts {
		total += count
	}
	return total
}
