// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// CacheOptions says what the cache holds: Deployments in full, with no managed fields but our own; ReplicaSets, pods and revisions only where
// they are ours, stripped to what decisions need. namespaces limits it; none means all.
func CacheOptions(namespaces []string) cache.Options {
	injected := labels.SelectorFromSet(labels.Set{v1alpha1.InjectedLabel: "true"})
	options := cache.Options{
		ReaderFailOnMissingInformer: true,
		DefaultTransform:            cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&appsv1.Deployment{}:         {Transform: stripDeployment},
			&appsv1.ReplicaSet{}:         {Label: injected, Transform: stripReplicaSet},
			&corev1.Pod{}:                {Label: injected, Transform: stripPod},
			&appsv1.ControllerRevision{}: {Label: hasLabel(v1alpha1.SetLabel)},
		},
	}
	for _, namespace := range namespaces {
		if options.DefaultNamespaces == nil {
			options.DefaultNamespaces = map[string]cache.Config{}
		}
		options.DefaultNamespaces[namespace] = cache.Config{}
	}
	return options
}

func hasLabel(key string) labels.Selector {
	requirement, err := labels.NewRequirement(key, selection.Exists, nil)
	if err != nil {
		panic(err) // our own label is a valid one.
	}
	return labels.NewSelector().Add(*requirement)
}

func stripDeployment(object any) (any, error) {
	if deployment, ok := object.(*appsv1.Deployment); ok {
		deployment.ManagedFields = slices.DeleteFunc(deployment.ManagedFields, func(entry metav1.ManagedFieldsEntry) bool {
			return entry.Manager != v1alpha1.FieldManager
		})
		delete(deployment.Annotations, corev1.LastAppliedConfigAnnotation)
	}
	return object, nil
}

func stripReplicaSet(object any) (any, error) {
	if rs, ok := object.(*appsv1.ReplicaSet); ok {
		rs.ObjectMeta = stripMeta(&rs.ObjectMeta)
		rs.Spec.Template = corev1.PodTemplateSpec{}
	}
	return object, nil
}

func stripPod(object any) (any, error) {
	if pod, ok := object.(*corev1.Pod); ok {
		pod.ObjectMeta = stripMeta(&pod.ObjectMeta)
		pod.Spec = corev1.PodSpec{}
		pod.Status = corev1.PodStatus{
			Phase:                 pod.Status.Phase,
			Conditions:            pod.Status.Conditions,
			InitContainerStatuses: stripStatuses(pod.Status.InitContainerStatuses),
			ContainerStatuses:     stripStatuses(pod.Status.ContainerStatuses),
		}
	}
	return object, nil
}

// stripMeta keeps identity, version, owner, labels that caches select on, and our annotations.
func stripMeta(meta *metav1.ObjectMeta) metav1.ObjectMeta {
	stripped := metav1.ObjectMeta{
		Name: meta.Name, Namespace: meta.Namespace, UID: meta.UID, ResourceVersion: meta.ResourceVersion,
		Generation: meta.Generation, CreationTimestamp: meta.CreationTimestamp, DeletionTimestamp: meta.DeletionTimestamp,
		OwnerReferences: meta.OwnerReferences,
		Labels:          map[string]string{v1alpha1.InjectedLabel: meta.Labels[v1alpha1.InjectedLabel]},
	}
	if revisions, ok := meta.Annotations[v1alpha1.RevisionsAnnotation]; ok {
		stripped.Annotations = map[string]string{v1alpha1.RevisionsAnnotation: revisions}
	}
	return stripped
}

func stripStatuses(statuses []corev1.ContainerStatus) []corev1.ContainerStatus {
	stripped := make([]corev1.ContainerStatus, 0, len(statuses))
	for i := range statuses {
		status := &statuses[i]
		stripped = append(stripped, corev1.ContainerStatus{Name: status.Name, Ready: status.Ready, State: corev1.ContainerState{Running: status.State.Running}})
	}
	return stripped
}
