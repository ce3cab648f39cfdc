// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// waves are the workloads that each set is changing: from the change of their slip until they have what it says, or until something befalls them for
// which others need not wait.
type waves map[string]map[string]bool

// auditWave sees to it that no more workloads are changed at a time than a set's maxConcurrentWorkloads.
func (h *history) auditWave(before, after *appsv1.Deployment) {
	h.leaveWaves()
	was, is := slipOf(before), slipOf(after)
	for _, set := range h.server.sets() {
		if was[set.Name] == "" || is[set.Name] == "" || was[set.Name] == is[set.Name] || h.isTroubled(before) {
			continue
		}
		wave := h.waves[set.Name]
		if wave == nil {
			wave = map[string]bool{}
			h.waves[set.Name] = wave
		}
		limit := int(rollout.MaxConcurrentWorkloads(set.Spec.UpdateStrategy.MaxConcurrentWorkloads, int32(h.founded)))
		if !wave[before.Name] && len(wave) >= limit {
			h.violate("set %s changes %s beside %v, and maxConcurrentWorkloads is %d", set.Name, before.Name, slices.Sorted(maps.Keys(wave)), limit)
		}
		wave[before.Name] = true
	}
}

// leaveWaves is for the workloads that are through.
func (h *history) leaveWaves() {
	for set, wave := range h.waves {
		maps.DeleteFunc(wave, func(name string, _ bool) bool { return h.isThrough(h.server.deployment(name), set) })
	}
}

// excuse is for a workload that somebody else has to do with.
func (h *history) excuse(name string) {
	for _, wave := range h.waves {
		delete(wave, name)
	}
}

// isThrough is true of a workload that has what its slip says of a set, and of one that has troubles of its own.
func (h *history) isThrough(d *appsv1.Deployment, name string) bool {
	set, _ := h.server.objects[setKind][name].(*v1alpha1.SidecarSet)
	if set == nil || d == nil || slipOf(d)[name] == "" || h.isTroubled(d) {
		return true
	}
	revision := slipOf(d)[name]
	var updated, kept int32
	for _, pod := range h.podsOf(d) {
		switch {
		case !pod.DeletionTimestamp.IsZero():
		case injection.Revisions(pod.Annotations[v1alpha1.RevisionsAnnotation])[name] != revision:
			kept++
		case !h.kubelet.isAvailable(pod, 0) && revision != set.Status.CurrentRevision:
			return false
		default:
			updated++
		}
	}
	partition := rollout.Partition(set.Spec.UpdateStrategy.Partition, *d.Spec.Replicas)
	if partition > 0 {
		return updated >= *d.Spec.Replicas-partition || isWithheld(set, d)
	}
	isPromoted := marksOf(&d.Spec.Template)[name] == revision && !d.Spec.Paused
	return kept == 0 && updated >= *d.Spec.Replicas && (isPromoted || h.isPartitioned())
}

// isPartitioned is true when a set's partition may keep the others out of templates as well.
func (h *history) isPartitioned() bool {
	return slices.ContainsFunc(h.liveSets(), func(set *v1alpha1.SidecarSet) bool { return rollout.KeepsPods(set.Spec.UpdateStrategy.Partition) })
}

// isTroubled is true of a workload that people, its pods or the API server keep from being changed.
func (h *history) isTroubled(d *appsv1.Deployment) bool {
	if h.userPaused[d.Name] || h.server.policy.image != "" || h.isDown(h.managerDown) {
		return true
	}
	for _, budget := range sorted[*policyv1.PodDisruptionBudget](h.server.objects[budgetKind]) {
		if coversPods(budget, d.Spec.Template.Labels) {
			return true
		}
	}
	active := 0
	for _, rs := range ownedReplicaSets(h.server.objects[replicaSetKind], d) {
		if len(podsOf(h.server, rs)) > 0 {
			active++
		}
	}
	return active > 1 || h.hasBroken(d) || slices.ContainsFunc(h.podsOf(d), func(pod *corev1.Pod) bool { return h.kubelet.sick[pod.UID] })
}

// isWithheld is true of a change that does not go into running pods, and which a partition keeps from all of them therefore.
func isWithheld(set *v1alpha1.SidecarSet, d *appsv1.Deployment) bool {
	return slices.ContainsFunc(injection.ContentOf(&set.Spec).Sidecars(), func(sidecar corev1.Container) bool {
		return !equality.Semantic.DeepEqual(sidecar.Env, containerIn(&corev1.Pod{Spec: d.Spec.Template.Spec}, sidecar.Name).Env)
	})
}
