// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// The bare loop does by heart what the operator decides: it knows all objects, and reads nothing while it is measured. What it sends is what
// controllers/apply.go sends.

// operation is one of an RFC 6902 patch.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// preparedPatch is a patch of a pod, ready to be sent.
type preparedPatch struct {
	pod  string
	data []byte
}

// preparePatches makes the patches that bring all pods to an image.
func (b *bench) preparePatches(ctx context.Context, image string) ([]preparedPatch, error) {
	var pods corev1.PodList
	if err := b.client.List(ctx, &pods, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	// Workload by workload, as the operator goes.
	slices.SortFunc(pods.Items, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	update := rollout.SetUpdate{Key: setName, Sidecars: injection.ContentOf(&makeSet(image).Spec).Sidecars()}
	var err error
	if update.Revision, err = revisionOf(image); err != nil {
		return nil, err
	}
	patches := make([]preparedPatch, 0, len(pods.Items))
	for i := range pods.Items {
		data, err := preparePatch(&rollout.PodPatch{Pod: rollout.PodOf(&pods.Items[i]), Sets: []rollout.SetUpdate{update}})
		if err != nil {
			return nil, err
		}
		patches = append(patches, preparedPatch{pod: pods.Items[i].Name, data: data})
	}
	return patches, nil
}

// revisionOf is the name of the revision of the set with an image.
func revisionOf(image string) (string, error) {
	content, err := injection.ContentOf(&makeSet(image).Spec).Canonical()
	if err != nil {
		return "", err
	}
	return injection.RevisionName(setName, content, 0), nil
}

func preparePatch(patch *rollout.PodPatch) ([]byte, error) {
	record, err := json.Marshal(patch.Record(time.Now()))
	if err != nil {
		return nil, err
	}
	operations := []operation{
		{"test", "/metadata/uid", patch.Pod.UID},
		{"test", annotationPath(v1alpha1.RevisionsAnnotation), patch.Pod.RevisionsMark},
	}
	for name, image := range patch.Images() {
		container := patch.Pod.Containers[name]
		path := fmt.Sprintf("/spec/%s/%d", container.List, container.Index)
		status := fmt.Sprintf("/status/%s/%d", container.StatusList, container.StatusIndex)
		operations = append(operations,
			operation{"test", path + "/name", name},
			operation{"replace", path + "/image", image},
			operation{"test", status + "/containerID", container.ID},
			operation{"test", status + "/state/running/startedAt", metav1.NewTime(container.RunningSince)})
	}
	operations = append(operations,
		operation{"add", annotationPath(v1alpha1.RevisionsAnnotation), injection.EncodeRevisions(patch.Revisions())},
		operation{"add", annotationPath(v1alpha1.InPlaceAnnotation), string(record)})
	return json.Marshal(operations)
}

func annotationPath(key string) string {
	return "/metadata/annotations/" + strings.ReplaceAll(key, "/", "~1")
}

// sendPatches is the limit for a wave.
func (b *bench) sendPatches(patches []preparedPatch) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		return b.inParallel(len(patches), func(i int) error {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: patches[i].pod}}
			return b.bare.Patch(ctx, pod, client.RawPatch(types.JSONPatchType, patches[i].data), client.FieldOwner(v1alpha1.FieldManager))
		})
	}
}

// preparedInjection is what brings the sidecar into a Deployment, ready to be sent.
type preparedInjection struct {
	deployment string
	template   map[string]any
	// keep is what our field manager is to own in the end.
	keep []byte
}

// prepareInjections renders the set into all Deployments, as the operator does.
func (b *bench) prepareInjections(ctx context.Context, image string) ([]preparedInjection, error) {
	var deployments appsv1.DeploymentList
	if err := b.client.List(ctx, &deployments, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	revision, err := revisionOf(image)
	if err != nil {
		return nil, err
	}
	renderer := injection.NewRenderer()
	set := injection.Set{Key: setName, Revision: revision, Content: injection.ContentOf(&makeSet(image).Spec)}
	injections := make([]preparedInjection, 0, len(deployments.Items))
	for i := range deployments.Items {
		deployment := &deployments.Items[i]
		workload := injection.Workload{Name: deployment.Name, Template: &deployment.Spec.Template}
		if workload.Owned, err = injection.OwnershipOf(deployment.ManagedFields); err != nil {
			return nil, err
		}
		plan, err := renderer.Render(workload, []injection.Set{set})
		if err != nil {
			return nil, err
		}
		prepared := preparedInjection{deployment: deployment.Name, template: plan.Template}
		if prepared.keep, err = plan.Keep.ToJSON(); err != nil {
			return nil, err
		}
		injections = append(injections, prepared)
	}
	return injections, nil
}

// slipPatch writes a Deployment's order slip; an empty one removes it.
func slipPatch(slip any) ([]byte, error) {
	return json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{v1alpha1.TargetRevisionsAnnotation: slip}}})
}

// writeSlips writes the order slips for an image.
func (b *bench) writeSlips(ctx context.Context, image string) error {
	revision, err := revisionOf(image)
	if err != nil {
		return err
	}
	slip, err := slipPatch(injection.EncodeRevisions(map[string]string{setName: revision}))
	if err != nil {
		return err
	}
	return b.inParallel(b.workloads, func(i int) error { return b.patchBare(ctx, makeDeployment(i, 0).Name, types.MergePatchType, slip) })
}

// inject is the limit for a first injection: the order slips, then for each Deployment the apply of its template and the patch that hands
// back what that claimed.
func (b *bench) inject(image string, injections []preparedInjection) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		if err := b.writeSlips(ctx, image); err != nil {
			return err
		}
		return b.inParallel(len(injections), func(i int) error { return b.applyBare(ctx, &injections[i]) })
	}
}

func (b *bench) applyBare(ctx context.Context, injection *preparedInjection) error {
	config := configuration(injection.deployment)
	config.Object["spec"] = map[string]any{"template": runtime.DeepCopyJSON(injection.template)}
	if err := b.bare.Apply(ctx, client.ApplyConfigurationFromUnstructured(config), client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return err
	}
	for i, entry := range config.GetManagedFields() {
		if entry.Manager != v1alpha1.FieldManager || entry.Operation != metav1.ManagedFieldsOperationApply {
			continue
		}
		path := fmt.Sprintf("/metadata/managedFields/%d", i)
		patch, err := json.Marshal([]operation{
			{"test", "/metadata/uid", config.GetUID()},
			{"test", path + "/manager", v1alpha1.FieldManager},
			{"test", path + "/fieldsV1", entry.FieldsV1},
			{"replace", path + "/fieldsV1", json.RawMessage(injection.keep)},
		})
		if err != nil {
			return err
		}
		return b.patchBare(ctx, injection.deployment, types.JSONPatchType, patch)
	}
	return fmt.Errorf("nothing was applied to %s", injection.deployment)
}

// takeOut undoes an injection: an apply of nothing, and the removal of the slip.
func (b *bench) takeOut(ctx context.Context) error {
	removal, err := slipPatch(nil)
	if err != nil {
		return err
	}
	return b.inParallel(b.workloads, func(i int) error {
		name := makeDeployment(i, 0).Name
		if err := b.bare.Apply(ctx, client.ApplyConfigurationFromUnstructured(configuration(name)), client.FieldOwner(v1alpha1.FieldManager)); err != nil {
			return err
		}
		return b.patchBare(ctx, name, types.MergePatchType, removal)
	})
}

func configuration(deployment string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": appsv1.SchemeGroupVersion.String(), "kind": "Deployment",
		"metadata": map[string]any{"namespace": namespace, "name": deployment},
	}}
}

func (b *bench) patchBare(ctx context.Context, deployment string, patchType types.PatchType, data []byte) error {
	object := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: deployment}}
	return b.bare.Patch(ctx, object, client.RawPatch(patchType, data), client.FieldOwner(v1alpha1.FieldManager))
}
