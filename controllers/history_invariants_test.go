// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/promotion"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// audit looks at what a write of the operator did.
func (h *history) audit(before, after client.Object) {
	h.resized = false
	switch before := before.(type) {
	case *appsv1.Deployment:
		if after, ok := after.(*appsv1.Deployment); ok {
			h.auditTemplate("Deployment "+before.Name, &before.Spec.Template, &after.Spec.Template)
			h.auditPartitions(before, after)
			h.auditWave(before, after)
			if *before.Spec.Replicas != *after.Spec.Replicas || !equality.Semantic.DeepEqual(before.Spec.Strategy, after.Spec.Strategy) {
				h.violate("I5: Deployment %s has other replicas or another strategy", before.Name)
			}
		}
	case *appsv1.ReplicaSet:
		if after, ok := after.(*appsv1.ReplicaSet); ok {
			h.auditTemplate("ReplicaSet "+before.Name, &before.Spec.Template, &after.Spec.Template)
			if *before.Spec.Replicas != *after.Spec.Replicas {
				h.violate("I5: ReplicaSet %s has other replicas", before.Name)
			}
		} else if *before.Spec.Replicas > 0 || before.Status.Replicas > 0 {
			h.violate("I4: ReplicaSet %s was deleted with its pods", before.Name)
		}
	case *corev1.Pod:
		if after, ok := after.(*corev1.Pod); ok {
			h.auditPod(before, after)
		}
	}
}

// auditTemplate is I5: application containers stay as they are, but for mounts.
func (h *history) auditTemplate(what string, before, after *corev1.PodTemplateSpec) {
	application := func(template *corev1.PodTemplateSpec) (result []corev1.Container) {
		for _, container := range slices.Concat(template.Spec.InitContainers, template.Spec.Containers) {
			if container.Name == "main" || container.Name == "migrate" {
				container.VolumeMounts = nil
				result = append(result, container)
			}
		}
		return result
	}
	if was, is := application(before), application(after); !equality.Semantic.DeepEqual(was, is) {
		h.violate("I5: in %s, the application went from %v to %v", what, was, is)
	}
}

// auditPartitions sees to it that no template gets a revision that its set's partition keeps from it, when the operator knows that.
func (h *history) auditPartitions(before, after *appsv1.Deployment) {
	if h.lags || before.Annotations[v1alpha1.PromotionAnnotation] != "" {
		return
	}
	for _, set := range h.liveSets() {
		was, is := marksOf(&before.Spec.Template)[set.Name], marksOf(&after.Spec.Template)[set.Name]
		isNew := was != "" && is != "" && is != was && is != set.Status.CurrentRevision
		if partition := rollout.Partition(set.Spec.UpdateStrategy.Partition, max(1, *before.Spec.Replicas)); isNew && partition > 0 {
			h.violate("the template of %s went from %s to %s, and partition is %d", before.Name, was, is, partition)
		}
	}
}

// auditPartitionOf sees to it that so many pods of a workload keep the revision that its template has, when one of them gets another.
func (h *history) auditPartitionOf(d *appsv1.Deployment, before, after *corev1.Pod) {
	was, is := injection.Revisions(before.Annotations[v1alpha1.RevisionsAnnotation]), injection.Revisions(after.Annotations[v1alpha1.RevisionsAnnotation])
	for _, set := range h.liveSets() {
		revision := is[set.Name]
		if h.lags || revision == was[set.Name] || revision == set.Status.CurrentRevision || revision == marksOf(&d.Spec.Template)[set.Name] {
			continue
		}
		updated := int32(0)
		for _, pod := range h.server.pods() {
			of := h.deploymentOf(pod)
			if of != nil && of.UID == d.UID && isActive(pod) && injection.Revisions(pod.Annotations[v1alpha1.RevisionsAnnotation])[set.Name] == revision {
				updated++
			}
		}
		if partition := rollout.Partition(set.Spec.UpdateStrategy.Partition, *d.Spec.Replicas); updated > *d.Spec.Replicas-partition {
			h.violate("after updating pod %s, %d of %d pods have %s, and partition is %d", before.Name, updated, *d.Spec.Replicas, revision, partition)
		}
	}
}

// auditPod is I1 and I5 of a pod, and I2 when a container of it restarts.
func (h *history) auditPod(before, after *corev1.Pod) {
	h.note("  pod %s: %s", before.Name, after.Annotations[v1alpha1.InPlaceAnnotation])
	h.resized = before.Annotations[v1alpha1.InPlaceAnnotation] == after.Annotations[v1alpha1.InPlaceAnnotation]
	expected, restarts := before.Spec.DeepCopy(), false
	sidecars := strings.Split(after.Annotations[v1alpha1.ContainersAnnotation], ",")
	for _, lists := range [][2][]corev1.Container{{expected.InitContainers, after.Spec.InitContainers}, {expected.Containers, after.Spec.Containers}} {
		for i := range lists[0] {
			if was, is := &lists[0][i], &lists[1][i]; slices.Contains(sidecars, was.Name) {
				restarts = restarts || was.Image != is.Image
				was.Image, was.Resources = is.Image, is.Resources
			}
		}
	}
	if !equality.Semantic.DeepEqual(*expected, after.Spec) {
		h.violate("I1, I5: pod %s changed in more than its sidecars", before.Name)
	}
	d := h.deploymentOf(before)
	if d != nil {
		h.auditPartitionOf(d, before, after)
	}
	if d != nil && restarts && h.kubelet.isAvailable(before, d.Spec.MinReadySeconds) {
		h.disturbed[before.UID] = true
		h.auditBudgets(d, before, after)
	}
}

// auditBudgets is I2, when a pod was updated that was available.
func (h *history) auditBudgets(d *appsv1.Deployment, before, after *corev1.Pod) {
	was, is := injection.Revisions(before.Annotations[v1alpha1.RevisionsAnnotation]), injection.Revisions(after.Annotations[v1alpha1.RevisionsAnnotation])
	limit := *d.Spec.Replicas
	for _, set := range h.server.sets() {
		if was[set.Name] != is[set.Name] {
			limit = min(limit, rollout.MaxUnavailable(set.Spec.UpdateStrategy.MaxUnavailable, *d.Spec.Replicas))
		}
	}
	available, disturbed := h.count(d.Spec.Selector.MatchLabels, d.Spec.MinReadySeconds)
	unavailable := *d.Spec.Replicas - available
	if h.lags {
		unavailable = min(unavailable, disturbed) // what failed by itself a moment ago can not be known
	}
	if unavailable > limit {
		h.violate("I2: after updating pod %s, %d pods are unavailable (%d by us), and %d may be", before.Name, unavailable, disturbed, limit)
	}
	for _, budget := range sorted[*policyv1.PodDisruptionBudget](h.server.objects[budgetKind]) {
		// When people take pods away, one with a number as minAvailable allows less, which the operator may not have seen.
		isSeen := budget.Spec.MinAvailable == nil || h.operator.cache.hasSeenAll(budgetKind)
		if coversPods(budget, before.Labels) && h.budgetKnows[budget.Name] && isSeen {
			h.auditBudget(budget, before)
		}
	}
}

// auditBudget is I2 for one PodDisruptionBudget.
func (h *history) auditBudget(budget *policyv1.PodDisruptionBudget, updated *corev1.Pod) {
	expected, wanted := h.manager.wantedPods(budget), h.manager.wantedHealthy(budget)
	healthy, disturbed := h.count(budget.Spec.Selector.MatchLabels, 0)
	if h.lags {
		healthy = max(healthy, expected-disturbed)
	}
	if healthy < wanted {
		h.violate("I2: after updating pod %s, %d pods are healthy, and the PodDisruptionBudget %s wants %d of %d", updated.Name, healthy, budget.Name, wanted, expected)
	}
}

// count counts the pods with such labels that are available, and those that are not ready because we updated them.
func (h *history) count(labels map[string]string, minReadySeconds int32) (available, disturbed int32) {
	for _, pod := range h.server.pods() {
		if !isSubset(labels, pod.Labels) {
			continue
		}
		if h.kubelet.isAvailable(pod, minReadySeconds) {
			available++
		}
		if !h.kubelet.isAvailable(pod, 0) && h.disturbed[pod.UID] {
			disturbed++
		}
	}
	return available, disturbed
}

// doubled is what happens when a pause ends before the Deployment controller has recognised the ReplicaSet: by our doing, unless the user did that.
func (h *history) doubled(deployment string) {
	if !h.resumed[deployment] {
		h.violate("I4: %s got a second ReplicaSet with the same template", deployment)
	}
}

// patience is for how long a Deployment may stay paused by an operator that is up: until the deadline, and for the time that caches are late
// and writes are tried again.
const patience = promotion.Deadline + 15*time.Second

// checkWaits looks at promotions when nobody has anything to do, and all have seen everything: what one waits for then, nobody will tell. It waits
// for its end by design when the Deployment controller took so long to see the pause that there is no time left to change the ReplicaSet.
func (h *history) checkWaits() {
	const soon, enough = 3 * time.Second, 15 * time.Second
	if h.isDown(h.operatorDown) || h.isDown(h.managerDown) || h.untilDue() < soon {
		return
	}
	for _, d := range h.server.deployments() {
		intent := promotion.ParseIntent(d.Annotations[v1alpha1.PromotionAnnotation])
		if isPausedByUs(d) && intent != nil && h.server.now.Sub(intent.StartedAt) < enough {
			h.violate("I3: %s is paused, and what its promotion waits for, nobody tells", d.Name)
		}
	}
}

// check looks at what has to hold at every moment.
func (h *history) check() {
	h.leaveWaves()
	for _, d := range h.server.deployments() {
		if d.Spec.Paused && !h.userPaused[d.Name] && !isPausedByUs(d) {
			h.violate("I3: %s is paused, and nobody is there to end it", d.Name)
		}
		if h.pausedFor[d.Name] > patience {
			h.violate("I3: %s is paused for %v while the operator is up", d.Name, h.pausedFor[d.Name])
		}
	}
	for _, pod := range h.server.pods() {
		if d := h.deploymentOf(pod); h.disturbed[pod.UID] && d != nil && h.kubelet.isAvailable(pod, d.Spec.MinReadySeconds) {
			delete(h.disturbed, pod.UID)
		}
	}
}
