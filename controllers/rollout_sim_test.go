// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
)

// rollOut does what the Deployment controller, the ReplicaSet controller and the kubelet do, up to a point: so many pods of today's
// template are there and ready, and the others are of the template before. All of them means that the rollout is complete.
func (w *world) rollOut(ctx context.Context, name string, updated int32) {
	GinkgoHelper()
	deployment := w.deployment(ctx, name)
	replicas := *deployment.Spec.Replicas
	current := w.replicaSet(ctx, deployment)

	var sets appsv1.ReplicaSetList
	Expect(k8s.List(ctx, &sets, client.InNamespace(w.namespace), client.MatchingLabels{"app": name})).To(Succeed())
	remaining := replicas - updated
	for i := range sets.Items {
		if rs := &sets.Items[i]; rs.Name != current.Name {
			left := w.shrinkReplicaSet(ctx, rs, remaining)
			scaleReplicaSet(ctx, rs, left)
			remaining -= left
		}
	}
	scaleReplicaSet(ctx, current, updated)
	for missing := updated - w.shrinkReplicaSet(ctx, current, updated); missing > 0; missing-- {
		w.createPod(ctx, current)
	}
	reportRollout(ctx, deployment, updated)
}

func (w *world) replicaSet(ctx context.Context, deployment *appsv1.Deployment) *appsv1.ReplicaSet {
	GinkgoHelper()
	template := deployment.Spec.Template.DeepCopy()
	hasher := fnv.New32a()
	_, err := fmt.Fprintf(hasher, "%v %v %v", template.Labels, template.Annotations, template.Spec)
	Expect(err).NotTo(HaveOccurred())
	hash := fmt.Sprint(hasher.Sum32())
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: deployment.Name + "-" + hash}}
	if err := k8s.Get(ctx, client.ObjectKeyFromObject(rs), rs); err == nil {
		return rs
	}
	template.Labels = maps.Clone(template.Labels)
	template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	rs.Labels = template.Labels
	rs.Spec = appsv1.ReplicaSetSpec{Replicas: new(int32(0)), Selector: &metav1.LabelSelector{MatchLabels: template.Labels}, Template: *template}
	Expect(controllerutil.SetControllerReference(deployment, rs, k8s.Scheme())).To(Succeed())
	Expect(k8s.Create(ctx, rs)).To(Succeed())
	return rs
}

// scaleReplicaSet says how many pods a ReplicaSet is to have, and has.
func scaleReplicaSet(ctx context.Context, rs *appsv1.ReplicaSet, replicas int32) {
	GinkgoHelper()
	rs.Spec.Replicas = &replicas
	Expect(k8s.Update(ctx, rs)).To(Succeed())
	rs.Status.Replicas = replicas
	Expect(k8s.Status().Update(ctx, rs)).To(Succeed())
}

// shrinkReplicaSet leaves a ReplicaSet at most so many of its pods, and returns how many it has.
func (w *world) shrinkReplicaSet(ctx context.Context, rs *appsv1.ReplicaSet, replicas int32) int32 {
	GinkgoHelper()
	var pods corev1.PodList
	Expect(k8s.List(ctx, &pods, client.InNamespace(w.namespace), client.MatchingLabels(rs.Spec.Selector.MatchLabels))).To(Succeed())
	left := min(len(pods.Items), int(replicas))
	for i := range pods.Items[left:] {
		Expect(k8s.Delete(ctx, &pods.Items[left+i], client.GracePeriodSeconds(0))).To(Succeed())
	}
	return int32(left)
}

func (w *world) createPod(ctx context.Context, rs *appsv1.ReplicaSet) {
	GinkgoHelper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: w.namespace, GenerateName: rs.Name + "-",
			Labels: rs.Spec.Template.Labels, Annotations: rs.Spec.Template.Annotations,
		},
		Spec: *rs.Spec.Template.Spec.DeepCopy(),
	}
	Expect(controllerutil.SetControllerReference(rs, pod, k8s.Scheme())).To(Succeed())
	Expect(k8s.Create(ctx, pod)).To(Succeed())
	now := metav1.NewTime(time.Now().Add(-time.Minute))
	running := func(containers []corev1.Container) (statuses []corev1.ContainerStatus) {
		for i := range containers {
			statuses = append(statuses, corev1.ContainerStatus{
				Name: containers[i].Name, Image: containers[i].Image, Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
			})
		}
		return statuses
	}
	pod.Status = corev1.PodStatus{
		Phase:                 corev1.PodRunning,
		ContainerStatuses:     running(pod.Spec.Containers),
		InitContainerStatuses: running(pod.Spec.InitContainers),
		Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now},
			{Type: corev1.ContainersReady, Status: corev1.ConditionTrue, LastTransitionTime: now},
		},
	}
	Expect(k8s.Status().Update(ctx, pod)).To(Succeed())
}

// restartContainers lets the pods that were updated in place run other containers since a while ago, as their kubelet would after some seconds.
func (w *world) restartContainers(ctx context.Context) {
	GinkgoHelper()
	var pods corev1.PodList
	Expect(k8s.List(ctx, &pods, client.InNamespace(w.namespace))).To(Succeed())
	for i := range pods.Items {
		pod := &pods.Items[i]
		for j := range pod.Status.ContainerStatuses {
			pod.Status.ContainerStatuses[j].ContainerID = fmt.Sprint("run-", pod.Generation)
		}
		pod.Status.ObservedGeneration = pod.Generation
		Expect(k8s.Status().Update(ctx, pod)).To(Succeed())
	}
}

func reportRollout(ctx context.Context, deployment *appsv1.Deployment, updated int32) {
	GinkgoHelper()
	replicas := *deployment.Spec.Replicas
	reason := "ReplicaSetUpdated"
	if updated == replicas {
		reason = "NewReplicaSetAvailable"
	}
	deployment.Status = appsv1.DeploymentStatus{
		ObservedGeneration: deployment.Generation,
		Replicas:           replicas, ReadyReplicas: replicas, AvailableReplicas: replicas, UpdatedReplicas: updated,
		Conditions: []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: reason}},
	}
	Expect(k8s.Status().Update(ctx, deployment)).To(Succeed())
}
