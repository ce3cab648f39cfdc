// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

const (
	setName     = "log-agent"
	sidecarName = "log-agent"
	volumeName  = "var-logs"
)

// The images between which the sidecar goes to and fro. They have names of the same length, so that patches have the same size.
var images = [2]string{"busybox:1.36", "busybox:1.37"}

// other returns the image that is not the given one.
func other(image string) string {
	if image == images[0] {
		return images[1]
	}
	return images[0]
}

// makeDeployment makes a workload as its team would: an application that knows nothing of sidecars.
func makeDeployment(index, replicas int) *appsv1.Deployment {
	name := fmt.Sprintf("web-%04d", index)
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name, "logging": "enabled"}},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(replicas)),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					TerminationGracePeriodSeconds: new(int64(1)),
					Containers: []corev1.Container{{
						Name:      "web",
						Image:     "nginx:1.29",
						Env:       []corev1.EnvVar{{Name: "APP_NAME", Value: name}},
						Ports:     []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
						Resources: requests("100m", "64Mi"),
					}},
				},
			},
		},
	}
}

// makeSet makes the classic sidecar, which reads what the application writes. Every workload may be changed at the same time.
func makeSet(image string) *v1alpha1.SidecarSet {
	return &v1alpha1.SidecarSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: setName},
		Spec: v1alpha1.SidecarSetSpec{
			Selector: metav1.LabelSelector{MatchLabels: map[string]string{"logging": "enabled"}},
			Containers: []v1alpha1.SidecarContainer{{Container: corev1.Container{
				Name:         sidecarName,
				Image:        image,
				Resources:    requests("10m", "16Mi"),
				VolumeMounts: []corev1.VolumeMount{{Name: volumeName, MountPath: "/var/log"}},
			}}},
			Volumes: []v1alpha1.SidecarVolume{{
				Volume:    corev1.Volume{Name: volumeName, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
				AppMounts: []v1alpha1.AppMount{{MountPath: "/usr/share/nginx/html", ReadOnly: true}},
			}},
			UpdateStrategy: v1alpha1.UpdateStrategy{
				MaxUnavailable:         new(intstr.FromString("100%")),
				MaxConcurrentWorkloads: new(intstr.FromString("100%")),
				// The simulated kubelet takes minutes to tell of 10,000 pods, which is no fault of the revision.
				ProgressDeadlineSeconds: new(int32(3600)),
			},
		},
	}
}

func requests(cpu, memory string) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Requests: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory),
	}}
}

// createFleet creates the workloads.
func (b *bench) createFleet(ctx context.Context, replicas int) error {
	return b.inParallel(b.workloads, func(i int) error { return b.client.Create(ctx, makeDeployment(i, replicas)) })
}

// scale gives each workload its pods.
func (b *bench) scale(ctx context.Context) error {
	patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, b.pods))
	return b.inParallel(b.workloads, func(i int) error { return b.client.Patch(ctx, makeDeployment(i, 0), patch) })
}

// changeSet is the user's change that a wave answers.
func (b *bench) changeSet(ctx context.Context, image, maxUnavailable string) error {
	containers := makeSet(image).Spec.Containers
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{
		"containers":     containers,
		"updateStrategy": map[string]any{"maxUnavailable": maxUnavailable},
	}})
	if err != nil {
		return err
	}
	return b.client.Patch(ctx, makeSet(image), client.RawPatch(types.MergePatchType, patch))
}

// inParallel does something for each index, as many at a time as the operator has workers.
func (b *bench) inParallel(count int, do func(index int) error) error {
	indexes := make(chan int)
	failed := make(chan error, b.concurrency)
	var workers sync.WaitGroup
	for range b.concurrency {
		workers.Go(func() {
			for index := range indexes {
				if err := do(index); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	defer workers.Wait()
	defer close(indexes)
	for i := range count {
		select {
		case indexes <- i:
		case err := <-failed:
			return err
		}
	}
	return nil
}

// setIsDone is the condition that the set says that all pods of all workloads are up to date.
func (b *bench) setIsDone(ctx context.Context) (progress string, done bool, err error) {
	set := makeSet("")
	if err := b.client.Get(ctx, client.ObjectKeyFromObject(set), set); err != nil {
		return "", false, err
	}
	status := &set.Status
	progress = fmt.Sprintf("%d of %d pods, %d of %d workloads", status.UpdatedReadyPods, status.Pods, status.UpdatedWorkloads, status.Workloads)
	done = status.ObservedGeneration == set.Generation && int(status.UpdatedWorkloads) == b.workloads && int(status.UpdatedReadyPods) == int(status.Pods)
	return progress, done, nil
}

// rolledOut is the condition that every workload has its pods, all ready and of today's template.
func (b *bench) rolledOut(ctx context.Context) (progress string, done bool, err error) {
	var deployments appsv1.DeploymentList
	if err := b.client.List(ctx, &deployments, client.InNamespace(namespace)); err != nil {
		return "", false, err
	}
	count := 0
	for i := range deployments.Items {
		status, desired := &deployments.Items[i].Status, *deployments.Items[i].Spec.Replicas
		isSeen := status.ObservedGeneration == deployments.Items[i].Generation
		if isSeen && status.UpdatedReplicas == desired && status.ReadyReplicas == desired && status.Replicas == desired {
			count++
		}
	}
	return fmt.Sprintf("%d of %d Deployments", count, b.workloads), count == b.workloads, nil
}

// podsRun returns the condition that all pods are there, and their sidecars run an image; no image means that they have no sidecar.
func (b *bench) podsRun(image string) condition {
	return func(ctx context.Context) (progress string, done bool, err error) {
		var pods corev1.PodList
		if err := b.client.List(ctx, &pods, client.InNamespace(namespace)); err != nil {
			return "", false, err
		}
		count := 0
		for i := range pods.Items {
			if isReady(&pods.Items[i]) && runs(&pods.Items[i], image) {
				count++
			}
		}
		wanted := b.workloads * b.pods
		return fmt.Sprintf("%d of %d pods run %q", count, wanted, image), count == wanted && len(pods.Items) == wanted, nil
	}
}

// templatesHave returns the condition that podsRun has, and that the templates say so and no Deployment is paused.
func (b *bench) templatesHave(image string) condition {
	return func(ctx context.Context) (progress string, done bool, err error) {
		if progress, done, err = b.podsRun(image)(ctx); err != nil || !done {
			return progress, done, err
		}
		var deployments appsv1.DeploymentList
		if err := b.client.List(ctx, &deployments, client.InNamespace(namespace)); err != nil {
			return "", false, err
		}
		count := 0
		for i := range deployments.Items {
			spec := &deployments.Items[i].Spec
			if sidecar := containerOf(&spec.Template.Spec); sidecar != nil && sidecar.Image == image && !spec.Paused {
				count++
			}
		}
		return fmt.Sprintf("%d of %d templates have %q", count, b.workloads, image), count == b.workloads, nil
	}
}

// always is the condition of a step that is over when its act returns.
func always(context.Context) (progress string, done bool, err error) { return "", true, nil }

func isReady(pod *corev1.Pod) bool {
	for i := range pod.Status.Conditions {
		if condition := &pod.Status.Conditions[i]; condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// runs is true when a pod's sidecar is to run an image and does, or when neither is there.
func runs(pod *corev1.Pod, image string) bool {
	sidecar := containerOf(&pod.Spec)
	if sidecar == nil || image == "" {
		return sidecar == nil && image == ""
	}
	for i := range pod.Status.ContainerStatuses {
		if status := &pod.Status.ContainerStatuses[i]; status.Name == sidecarName {
			return sidecar.Image == image && status.Image == image && status.State.Running != nil
		}
	}
	return false
}

func containerOf(spec *corev1.PodSpec) *corev1.Container {
	for i := range spec.Containers {
		if spec.Containers[i].Name == sidecarName {
			return &spec.Containers[i]
		}
	}
	return nil
}
