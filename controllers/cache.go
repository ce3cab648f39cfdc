// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"encoding/json"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// CacheOptions says what the cache holds: Deployments in full, with no managed fields but our own and those of the order slip; ReplicaSets, pods and revisions only where
// they are ours, stripped to what decisions need. namespaces limits it; none means all.
func CacheOptions(namespaces []string) cache.Options {
	injected := labels.SelectorFromSet(labels.Set{v1alpha1.InjectedLabel: "true"})
	options := cache.Options{
		ReaderFailOnMissingInformer: true,
		DefaultTransform:            cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&appsv1.Deployment{}:         {Transform: stripDeployment},
			&appsv1.ReplicaSet{}:         {Label: injected, Transform: stripReplicaSet},
			&corev1.Pod{}:                {Label: hasLabel(v1alpha1.InjectedLabel, "true", v1alpha1.PrePullLabelValue), Transform: newPodStripper().strip},
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

// hasLabel selects objects with a label that has one of these values, or any one when none are given.
func hasLabel(key string, values ...string) labels.Selector {
	operator := selection.Exists
	if len(values) > 0 {
		operator = selection.In
	}
	requirement, err := labels.NewRequirement(key, operator, values)
	if err != nil {
		panic(err) // our own label is a valid one.
	}
	return labels.NewSelector().Add(*requirement)
}

func stripDeployment(object any) (any, error) {
	if deployment, ok := object.(*appsv1.Deployment); ok {
		if sharesFields(deployment) {
			metav1.SetMetaDataAnnotation(&deployment.ObjectMeta, fieldsAreShared, "true")
		}
		deployment.ManagedFields = slices.DeleteFunc(deployment.ManagedFields, func(entry metav1.ManagedFieldsEntry) bool {
			return entry.Manager != v1alpha1.FieldManager && !holdsSlip(&entry)
		})
		if pausesByDeclaration(deployment) {
			deployment.Annotations[declaresPause] = "true"
		}
		delete(deployment.Annotations, corev1.LastAppliedConfigAnnotation)
	}
	return object, nil
}

// declaresPause is an annotation that exists only in the cache, on Deployments that a client-side apply declares to be paused.
const declaresPause = "declares-pause"

// pausesByDeclaration is true when the manifest that "kubectl apply" sent last, as it records it, says paused: true. What has the value already
// kubectl does not send, so that no field manager tells.
func pausesByDeclaration(deployment *appsv1.Deployment) bool {
	manifest := deployment.Annotations[corev1.LastAppliedConfigAnnotation]
	if !strings.Contains(manifest, "paused") {
		return false // as most do; a manifest is long.
	}
	var declared struct {
		Spec struct {
			Paused bool `json:"paused"`
		} `json:"spec"`
	}
	return json.Unmarshal([]byte(manifest), &declared) == nil && declared.Spec.Paused
}

// fieldsAreShared is an annotation that exists only in the cache, on Deployments of whose fields somebody else claims some that are ours.
const fieldsAreShared = "fields-are-shared"

// sharesFields is true when a field that we applied has another manager as well, and when the managed fields can not be read.
func sharesFields(deployment *appsv1.Deployment) bool {
	ours, err := injection.OwnershipOf(deployment.ManagedFields)
	if err != nil || ours.Empty() {
		return err != nil
	}
	return slices.ContainsFunc(deployment.ManagedFields, func(entry metav1.ManagedFieldsEntry) bool {
		if injection.IsOurs(&entry) || entry.Subresource != "" {
			return false
		}
		theirs, err := injection.ParseFields(&entry)
		return err != nil || ours.Shares(theirs)
	})
}

// stripReplicaSet leaves the identity of the template, in templateIdentity, and its marks, instead of the template, and of its annotations the
// intent that the Deployment controller copied to it. A transform has to bear being called on what it returned: that is how objects of an initial
// list come (client-go/tools/cache, Reflector.watchList).
func stripReplicaSet(object any) (any, error) {
	if rs, ok := object.(*appsv1.ReplicaSet); ok && len(rs.Spec.Template.Spec.Containers) > 0 {
		template := injection.TemplateIdentity(&rs.Spec.Template)
		hash, intent := rs.Labels[appsv1.DefaultDeploymentUniqueLabelKey], rs.Annotations[v1alpha1.PromotionAnnotation]
		rs.ObjectMeta = stripMeta(&rs.ObjectMeta)
		rs.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
		rs.Annotations = map[string]string{
			templateIdentity:             template,
			v1alpha1.RevisionsAnnotation: rs.Spec.Template.Annotations[v1alpha1.RevisionsAnnotation],
		}
		if intent != "" {
			rs.Annotations[v1alpha1.PromotionAnnotation] = intent
		}
		rs.Spec.Template = corev1.PodTemplateSpec{}
	}
	return object, nil
}

// templateIdentity is an annotation that exists only in the cache.
const templateIdentity = "template-identity"

// podStripper leaves of pods what rollout.PodOf reads. There may be very many pods, most of which are alike: those share what they have in
// common.
type podStripper struct{ pool pool }

func newPodStripper() *podStripper { return &podStripper{} }

func (s *podStripper) strip(object any) (any, error) {
	if pod, ok := object.(*corev1.Pod); ok {
		if isPrePull(pod) {
			stripPrePullPod(pod)
			return pod, nil
		}
		times := ourTimes(pod)
		pod.ObjectMeta = stripMeta(&pod.ObjectMeta)
		pod.ManagedFields = times
		pod.Namespace, pod.Labels, pod.OwnerReferences = shareText(&s.pool, pod.Namespace), share(&s.pool, pod.Labels), share(&s.pool, pod.OwnerReferences)
		if mark, ok := pod.Annotations[v1alpha1.RevisionsAnnotation]; ok {
			pod.Annotations[v1alpha1.RevisionsAnnotation] = shareText(&s.pool, mark)
		}
		pod.Spec = corev1.PodSpec{
			NodeName:       shareText(&s.pool, pod.Spec.NodeName),
			InitContainers: share(&s.pool, stripContainers(pod.Spec.InitContainers)),
			Containers:     share(&s.pool, stripContainers(pod.Spec.Containers)),
		}
		pod.Status = corev1.PodStatus{
			Phase:                 shareText(&s.pool, pod.Status.Phase),
			ObservedGeneration:    pod.Status.ObservedGeneration,
			Conditions:            s.stripConditions(pod.Status.Conditions),
			InitContainerStatuses: s.stripStatuses(pod.Status.InitContainerStatuses),
			ContainerStatuses:     s.stripStatuses(pod.Status.ContainerStatuses),
		}
	}
	return object, nil
}

// ourTimes says when we wrote to a pod, if we resized it; most pods never are.
func ourTimes(pod *corev1.Pod) (times []metav1.ManagedFieldsEntry) {
	isResize := func(entry metav1.ManagedFieldsEntry) bool { return entry.Subresource == rollout.ResizeSubresource }
	for _, entry := range pod.ManagedFields {
		if entry.Manager == v1alpha1.FieldManager {
			times = append(times, metav1.ManagedFieldsEntry{Manager: entry.Manager, Subresource: entry.Subresource, Time: entry.Time})
		}
	}
	if !slices.ContainsFunc(times, isResize) {
		return nil
	}
	return times
}

// stripPrePullPod leaves what rollout.PullOf reads.
func stripPrePullPod(pod *corev1.Pod) {
	containers := pod.Annotations[v1alpha1.ContainersAnnotation]
	pod.ObjectMeta = stripMeta(&pod.ObjectMeta)
	pod.Annotations[v1alpha1.ContainersAnnotation] = containers
	pod.Spec = corev1.PodSpec{NodeName: pod.Spec.NodeName, Containers: stripContainers(pod.Spec.Containers)}
	status := corev1.PodStatus{Phase: pod.Status.Phase, Reason: pod.Status.Reason, Message: pod.Status.Message}
	for i := range pod.Status.ContainerStatuses {
		container := &pod.Status.ContainerStatuses[i]
		status.ContainerStatuses = append(status.ContainerStatuses, corev1.ContainerStatus{
			Name: container.Name, ImageID: container.ImageID, State: corev1.ContainerState{Waiting: container.State.Waiting},
		})
	}
	pod.Status = status
}

func stripContainers(containers []corev1.Container) []corev1.Container {
	stripped := make([]corev1.Container, 0, len(containers))
	for i := range containers {
		stripped = append(stripped, corev1.Container{
			Name: containers[i].Name, Image: containers[i].Image, Resources: containers[i].Resources, RestartPolicy: containers[i].RestartPolicy,
		})
	}
	return stripped
}

// isRead is true of the conditions that rollout.PodOf reads.
func isRead(condition *corev1.PodCondition) bool {
	switch condition.Type {
	case corev1.PodReady, corev1.ContainersReady:
		return true
	case corev1.PodScheduled, corev1.PodReadyToStartContainers:
		return condition.Status == corev1.ConditionFalse
	default:
		return false
	}
}

func (s *podStripper) stripConditions(conditions []corev1.PodCondition) []corev1.PodCondition {
	var stripped []corev1.PodCondition
	for i := range conditions {
		condition := &conditions[i]
		if !isRead(condition) {
			continue
		}
		kept := corev1.PodCondition{
			Type: shareText(&s.pool, condition.Type), Status: shareText(&s.pool, condition.Status), LastTransitionTime: condition.LastTransitionTime,
		}
		if condition.Type == corev1.PodScheduled {
			kept.Message = condition.Message
		}
		stripped = append(stripped, kept)
	}
	return stripped
}

// stripMeta keeps identity, version, owner, labels that caches select on, and our annotations.
func stripMeta(meta *metav1.ObjectMeta) metav1.ObjectMeta {
	stripped := metav1.ObjectMeta{
		Name: meta.Name, Namespace: meta.Namespace, UID: meta.UID, ResourceVersion: meta.ResourceVersion,
		Generation: meta.Generation, CreationTimestamp: meta.CreationTimestamp, DeletionTimestamp: meta.DeletionTimestamp,
		OwnerReferences: meta.OwnerReferences,
		Labels:          map[string]string{v1alpha1.InjectedLabel: meta.Labels[v1alpha1.InjectedLabel]},
	}
	stripped.Annotations = map[string]string{}
	for _, key := range []string{v1alpha1.RevisionsAnnotation, v1alpha1.InPlaceAnnotation} {
		if value, ok := meta.Annotations[key]; ok {
			stripped.Annotations[key] = value
		}
	}
	return stripped
}

func (s *podStripper) stripStatuses(statuses []corev1.ContainerStatus) []corev1.ContainerStatus {
	stripped := make([]corev1.ContainerStatus, 0, len(statuses))
	for i := range statuses {
		status := &statuses[i]
		state := corev1.ContainerState{Running: status.State.Running, Waiting: status.State.Waiting}
		if ended := status.State.Terminated; ended != nil {
			state.Terminated = &corev1.ContainerStateTerminated{ExitCode: ended.ExitCode, FinishedAt: ended.FinishedAt}
		}
		stripped = append(stripped, corev1.ContainerStatus{
			Name: shareText(&s.pool, status.Name), ContainerID: status.ContainerID, Ready: status.Ready, RestartCount: status.RestartCount, State: state,
		})
	}
	return stripped
}
