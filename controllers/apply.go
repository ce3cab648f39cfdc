// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/promotion"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// writer makes all writes. Each is guarded by the version of the object that was observed, so that a decision from an old cache is
// refused (409) instead of carried out.
type writer struct {
	client client.Client
}

// templateWrite is a write of a Deployment's template.
type templateWrite struct {
	plan *injection.Plan
	// intent, when there is one, is written with the template, and pauses the Deployment.
	intent *promotion.Intent
}

// applyTemplate brings a Deployment's template to a plan by server-side apply, never forced. The claims that this makes on items of the
// application are handed back, unless a promotion begins: the write that ends it will make them again. What an earlier promotion applied
// (pause, intent) is taken back by not being applied again.
//
// changed is false when the template is the same as before.
func (w *writer) applyTemplate(ctx context.Context, deployment *appsv1.Deployment, write templateWrite) (changed bool, err error) {
	applied, err := w.sendTemplate(ctx, deployment, write)
	if err != nil {
		return false, err
	}
	changed = !equality.Semantic.DeepEqual(deployment.Spec.Template, applied.Spec.Template)
	if write.intent != nil || !write.plan.Claims {
		return changed, nil
	}
	return changed, w.keepFields(ctx, applied, write.plan.Keep)
}

// dryRunTemplate returns what a Deployment's template would be with a plan, or the API server's refusal of it. Nothing is changed.
func (w *writer) dryRunTemplate(ctx context.Context, deployment *appsv1.Deployment, plan *injection.Plan) (*corev1.PodTemplateSpec, error) {
	applied, err := w.sendTemplate(ctx, deployment, templateWrite{plan: plan}, client.DryRunAll)
	if err != nil {
		return nil, err
	}
	return &applied.Spec.Template, nil
}

// dryRunPod returns the API server's refusal of a pod. None is made.
func (w *writer) dryRunPod(ctx context.Context, pod *corev1.Pod) error {
	if err := w.client.Create(ctx, pod, client.DryRunAll, client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return fmt.Errorf("trying a pod: %w", err)
	}
	return nil
}

// sendTemplate sends an apply, and returns the Deployment as it is then.
func (w *writer) sendTemplate(ctx context.Context, deployment *appsv1.Deployment, write templateWrite, options ...client.ApplyOption) (*appsv1.Deployment, error) {
	config := write.configuration(deployment)
	options = append(options, client.FieldOwner(v1alpha1.FieldManager))
	if err := w.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(config), options...); err != nil {
		return nil, fmt.Errorf("applying the template: %w", err)
	}
	applied := &appsv1.Deployment{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(config.Object, applied); err != nil {
		return nil, fmt.Errorf("reading the applied Deployment: %w", err)
	}
	return applied, nil
}

// configuration is the apply configuration of a write. Without the uid, it would create a Deployment that was deleted in the meantime.
func (t *templateWrite) configuration(deployment *appsv1.Deployment) *unstructured.Unstructured {
	metadata := map[string]any{
		"namespace": deployment.Namespace, "name": deployment.Name,
		"uid": string(deployment.UID), "resourceVersion": deployment.ResourceVersion,
	}
	spec := map[string]any{}
	if t.plan.Template != nil {
		spec["template"] = runtime.DeepCopyJSON(t.plan.Template)
	}
	if t.intent != nil {
		metadata["annotations"] = map[string]any{v1alpha1.PromotionAnnotation: t.intent.Encode()}
		spec["paused"] = true
	}
	config := map[string]any{"apiVersion": appsv1.SchemeGroupVersion.String(), "kind": "Deployment", "metadata": metadata}
	if len(spec) > 0 {
		config["spec"] = spec
	}
	return &unstructured.Unstructured{Object: config}
}

// keepFields reduces what our field manager owns of a Deployment to the given fields. It changes nothing but the managed fields, and is guarded
// by our entry in them alone: the Deployment controller's writes may pass.
func (w *writer) keepFields(ctx context.Context, deployment *appsv1.Deployment, keep *fieldpath.Set) error {
	index := slices.IndexFunc(deployment.ManagedFields, func(entry metav1.ManagedFieldsEntry) bool { return injection.IsOurs(&entry) })
	if index < 0 {
		return nil
	}
	patch := jsonPatch{{Op: "test", Path: "/metadata/uid", Value: deployment.UID}}
	path := fmt.Sprintf("/metadata/managedFields/%d", index)
	patch.add("test", path+"/manager", v1alpha1.FieldManager)
	patch.add("test", path+"/fieldsV1", deployment.ManagedFields[index].FieldsV1)
	if err := patch.replaceFields(index, keep); err != nil {
		return err
	}
	return w.patchObject(ctx, referenceTo(deployment), patch)
}

// handOver leaves the content of a set to the Deployment's owner: our field manager keeps only the given fields, and the slip loses the
// set, in one write. The Deployment has to come with its managed fields.
func (w *writer) handOver(ctx context.Context, deployment *appsv1.Deployment, keep *fieldpath.Set, slip map[string]string) error {
	patch := newJSONPatch(deployment)
	patch.setSlip(slip)
	if err := patch.changeFields(deployment, func(entry *metav1.ManagedFieldsEntry, fields *fieldpath.Set) *fieldpath.Set {
		switch {
		case injection.IsOurs(entry):
			return keep
		case isSlipEntry(entry) && len(slip) == 0:
			return fieldpath.NewSet()
		}
		return fields
	}); err != nil {
		return err
	}
	return w.patchDeployment(ctx, deployment, patch)
}

// removeSlip removes a Deployment's order slip, and the last trace of it: our patch may have brought the first annotation, and with it the
// ownership of all annotations as such. The Deployment has to come with its managed fields.
func (w *writer) removeSlip(ctx context.Context, deployment *appsv1.Deployment) error {
	patch := newJSONPatch(deployment)
	patch.setSlip(nil)
	if err := patch.changeFields(deployment, func(entry *metav1.ManagedFieldsEntry, fields *fieldpath.Set) *fieldpath.Set {
		if isSlipEntry(entry) {
			return fieldpath.NewSet()
		}
		return fields
	}); err != nil {
		return err
	}
	return w.patchDeployment(ctx, deployment, patch)
}

// takeBack makes us the owner of fields, and takes them from those who wrote them once, such as "kubectl rollout undo" and "kubectl edit". Who
// declares them, by apply, keeps them. The fields have to hold what we rendered, and the Deployment has to come with its managed fields. It
// returns false when that changes nothing.
func (w *writer) takeBack(ctx context.Context, deployment *appsv1.Deployment, lost *fieldpath.Set) (changed bool, err error) {
	patch := newJSONPatch(deployment)
	if err := patch.changeFields(deployment, func(entry *metav1.ManagedFieldsEntry, fields *fieldpath.Set) *fieldpath.Set {
		switch {
		case injection.IsOurs(entry):
			return fields.Union(lost)
		case entry.Operation == metav1.ManagedFieldsOperationApply || entry.Manager == clientSideApply:
			return fields
		}
		return fields.Difference(lost)
	}); err != nil {
		return false, err
	}
	return patch.changes(), w.patchDeployment(ctx, deployment, patch)
}

// removeIntent removes the annotation of a promotion that is not ours, which applying without it does not.
func (w *writer) removeIntent(ctx context.Context, deployment *appsv1.Deployment) error {
	patch := newJSONPatch(deployment)
	patch.add("remove", annotationPath(v1alpha1.PromotionAnnotation), nil)
	return w.patchDeployment(ctx, deployment, patch)
}

// cedePause makes the pause a field of who recorded what a client-side apply declares, and takes it from us. The Deployment has to come with its
// managed fields.
func (w *writer) cedePause(ctx context.Context, deployment *appsv1.Deployment) error {
	pause := fieldpath.NewSet(pauseField)
	patch := newJSONPatch(deployment)
	if err := patch.changeFields(deployment, func(entry *metav1.ManagedFieldsEntry, fields *fieldpath.Set) *fieldpath.Set {
		switch {
		case injection.IsOurs(entry):
			return fields.Difference(pause)
		case fields.Has(lastAppliedField):
			return fields.Union(pause)
		}
		return fields
	}); err != nil {
		return err
	}
	return w.patchDeployment(ctx, deployment, patch)
}

// clientSideApply is the manager that "kubectl apply" writes as: an update in form, and a declaration in meaning.
const clientSideApply = "kubectl-client-side-apply"

// writeSlip replaces a Deployment's order slip by one that is not empty.
func (w *writer) writeSlip(ctx context.Context, deployment *appsv1.Deployment, slip map[string]string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": deployment.UID, "resourceVersion": deployment.ResourceVersion,
		"annotations": map[string]any{v1alpha1.TargetRevisionsAnnotation: injection.EncodeRevisions(slip)},
	}})
	if err != nil {
		return fmt.Errorf("encoding the order slip: %w", err)
	}
	if err := w.client.Patch(ctx, referenceTo(deployment), client.RawPatch(types.MergePatchType, patch), client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return fmt.Errorf("writing the order slip of Deployment %s/%s: %w", deployment.Namespace, deployment.Name, err)
	}
	return nil
}

func (w *writer) patchDeployment(ctx context.Context, deployment *appsv1.Deployment, patch jsonPatch) error {
	if !patch.changes() {
		return nil
	}
	return w.patchObject(ctx, referenceTo(deployment), patch)
}

// patchObject sends a patch; object takes the answer.
func (w *writer) patchObject(ctx context.Context, object client.Object, patch jsonPatch) error {
	data, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("encoding a patch: %w", err)
	}
	if err := w.client.Patch(ctx, object, client.RawPatch(types.JSONPatchType, data), client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return fmt.Errorf("patching %T %s/%s: %w", object, object.GetNamespace(), object.GetName(), err)
	}
	return nil
}

// patchReplicaSet gives a ReplicaSet the template of its Deployment. Its own label pod-template-hash stays, which its selector needs.
func (w *writer) patchReplicaSet(ctx context.Context, rs *appsv1.ReplicaSet, template *corev1.PodTemplateSpec) error {
	wanted := template.DeepCopy()
	wanted.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = rs.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
	patch := newJSONPatch(rs)
	patch.add("replace", "/spec/template", wanted)
	return w.patchObject(ctx, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: rs.Namespace, Name: rs.Name}}, patch)
}

// deleteReplicaSet deletes a ReplicaSet if it is still the observed one.
func (w *writer) deleteReplicaSet(ctx context.Context, rs *appsv1.ReplicaSet) error {
	guard := client.Preconditions{UID: &rs.UID, ResourceVersion: &rs.ResourceVersion}
	if err := w.client.Delete(ctx, rs.DeepCopy(), guard); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("deleting ReplicaSet %s/%s: %w", rs.Namespace, rs.Name, err)
	}
	return nil
}

// updatePod brings a pod to the revisions of a patch: resources first, then images together with the marks, so that a pod that says it has a
// revision has all of it; what is left of an update that comes to nothing in between is put right later (rollout.Pod.Resized). The patches fail when
// a container is not where it was, and when a pod that was unavailable, and so cost nothing, may be available by now.
func (w *writer) updatePod(ctx context.Context, namespace string, patch *rollout.PodPatch, now time.Time) error {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: patch.Pod.Name, ResourceVersion: patch.Pod.Version}}
	if resources := patch.Resources(); len(resources) > 0 {
		if err := w.resizePod(ctx, pod, patch, resources); err != nil {
			return err
		}
	}
	update := newPodPatch(patch, pod.ResourceVersion)
	images := patch.Images()
	for _, name := range slices.Sorted(maps.Keys(images)) {
		update.add("replace", testContainer(&update, patch, name)+"/image", images[name])
		testRunning(&update, patch, name)
	}
	record, err := json.Marshal(patch.Record(now))
	if err != nil {
		return fmt.Errorf("encoding the record of an update: %w", err)
	}
	update.add("add", annotationPath(v1alpha1.RevisionsAnnotation), injection.EncodeRevisions(patch.Revisions()))
	update.add("add", annotationPath(v1alpha1.InPlaceAnnotation), string(record))
	return w.patchObject(ctx, pod, update)
}

// resizePod gives containers of a pod other resources; pod takes the answer, and with it the version that the pod has then.
func (w *writer) resizePod(ctx context.Context, pod *corev1.Pod, patch *rollout.PodPatch, resources map[string]corev1.ResourceRequirements) error {
	resize := newPodPatch(patch, pod.ResourceVersion)
	for _, name := range slices.Sorted(maps.Keys(resources)) {
		resize.add("replace", testContainer(&resize, patch, name)+"/resources", resources[name])
	}
	data, err := json.Marshal(resize)
	if err != nil {
		return fmt.Errorf("encoding a resize: %w", err)
	}
	if err := w.client.SubResource(rollout.ResizeSubresource).Patch(ctx, pod, client.RawPatch(types.JSONPatchType, data), client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return resizeError{fmt.Errorf("resizing pod %s/%s: %w", pod.Namespace, pod.Name, err), patch}
	}
	return nil
}

// resizeError is of the resources that a patch brings, and not of its images.
type resizeError struct {
	error
	patch *rollout.PodPatch
}

func (e resizeError) Unwrap() error { return e.error }

// newPodPatch begins a patch that fails for another pod of the same name, for one that was updated since, and for one that was unavailable and
// has another version than the given one.
func newPodPatch(patch *rollout.PodPatch, version string) jsonPatch {
	operations := jsonPatch{
		{Op: "test", Path: "/metadata/uid", Value: patch.Pod.UID},
		{Op: "test", Path: annotationPath(v1alpha1.RevisionsAnnotation), Value: patch.Pod.RevisionsMark},
	}
	if patch.Unavailable {
		operations.add("replace", "/metadata/resourceVersion", version)
	}
	return operations
}

// testContainer lets a patch fail when a container is not where it was, and returns the path to it.
func testContainer(operations *jsonPatch, patch *rollout.PodPatch, name string) string {
	container := patch.Pod.Containers[name]
	path := fmt.Sprintf("/spec/%s/%d", container.List, container.Index)
	operations.add("test", path+"/name", name)
	return path
}

// testRunning lets a patch fail when a container has been restarted or has stopped since the decision: its record would be wrong.
func testRunning(operations *jsonPatch, patch *rollout.PodPatch, name string) {
	container := patch.Pod.Containers[name]
	path := fmt.Sprintf("/status/%s/%d", container.StatusList, container.StatusIndex)
	if container.ID != "" {
		operations.add("test", path+"/containerID", container.ID)
	}
	if !container.RunningSince.IsZero() {
		operations.add("test", path+"/state/running/startedAt", metav1.NewTime(container.RunningSince))
	}
}

// createPull creates a pre-pull pod.
func (w *writer) createPull(ctx context.Context, pod *corev1.Pod) error {
	if err := w.client.Create(ctx, pod, client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return fmt.Errorf("creating pre-pull pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// deletePull deletes a pre-pull pod without waiting for its kubelet, which may be gone.
func (w *writer) deletePull(ctx context.Context, namespace string, pull *rollout.Pull) error {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: pull.Name}}
	err := w.client.Delete(ctx, pod, client.GracePeriodSeconds(0), client.Preconditions{UID: &pull.UID})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("deleting pre-pull pod %s/%s: %w", namespace, pull.Name, err)
	}
	return nil
}

// referenceTo is a Deployment for a client to write the answer into: what is in the cache stays as it is.
func referenceTo(deployment *appsv1.Deployment) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: deployment.Namespace, Name: deployment.Name}}
}

// createRevision adds a revision to the history of a set.
func (w *writer) createRevision(ctx context.Context, set *v1alpha1.SidecarSet, revision rollout.Revision) error {
	object := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: set.Namespace, Name: revision.Name,
			Labels: map[string]string{v1alpha1.SetLabel: set.Name},
		},
		Data:     runtime.RawExtension{Raw: revision.Content},
		Revision: revision.Number,
	}
	if err := controllerutil.SetControllerReference(set, object, w.client.Scheme()); err != nil {
		return fmt.Errorf("naming the owner of revision %q: %w", revision.Name, err)
	}
	if err := w.client.Create(ctx, object, client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return fmt.Errorf("creating revision %q: %w", revision.Name, err)
	}
	return nil
}

// renumberRevision makes an older revision the newest one of its history.
func (w *writer) renumberRevision(ctx context.Context, namespace string, revision rollout.Revision) error {
	patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"revision":%d}`, revision.Number))
	if err := w.client.Patch(ctx, revisionReference(namespace, revision.Name), patch, client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return fmt.Errorf("renumbering revision %q: %w", revision.Name, err)
	}
	return nil
}

func (w *writer) deleteRevision(ctx context.Context, namespace, name string) error {
	if err := w.client.Delete(ctx, revisionReference(namespace, name)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("deleting revision %q: %w", name, err)
	}
	return nil
}

func revisionReference(namespace, name string) *appsv1.ControllerRevision {
	return &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
}

// setFinalizer adds or removes our finalizer.
func (w *writer) setFinalizer(ctx context.Context, set *v1alpha1.SidecarSet, present bool) error {
	changed := set.DeepCopy()
	if present {
		controllerutil.AddFinalizer(changed, v1alpha1.ReleaseFinalizer)
	} else {
		controllerutil.RemoveFinalizer(changed, v1alpha1.ReleaseFinalizer)
	}
	patch := client.MergeFromWithOptions(set, client.MergeFromWithOptimisticLock{})
	if err := w.client.Patch(ctx, changed, patch, client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return fmt.Errorf("changing the finalizer: %w", err)
	}
	set.Finalizers, set.ResourceVersion = changed.Finalizers, changed.ResourceVersion
	return nil
}

// writeStatus replaces the status of a set. We are its only writer.
func (w *writer) writeStatus(ctx context.Context, set *v1alpha1.SidecarSet, status v1alpha1.SidecarSetStatus) error {
	changed := set.DeepCopy()
	changed.Status = status
	patch := client.MergeFromWithOptions(set, client.MergeFromWithOptimisticLock{})
	if err := w.client.Status().Patch(ctx, changed, patch, client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	return nil
}
