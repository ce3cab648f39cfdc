// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// writer makes all writes. Each is guarded by the version of the object that was observed, so that a decision from an old cache is
// refused (409) instead of carried out.
type writer struct {
	client client.Client
}

// applyTemplate brings a Deployment's template to a plan by server-side apply, never forced, and hands back the claims that this makes
// on items of the application.
func (w *writer) applyTemplate(ctx context.Context, deployment *appsv1.Deployment, plan *injection.Plan, options ...client.ApplyOption) error {
	// Without the uid, an apply would create a Deployment that was deleted in the meantime.
	config := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": appsv1.SchemeGroupVersion.String(),
		"kind":       "Deployment",
		"metadata": map[string]any{
			"namespace": deployment.Namespace, "name": deployment.Name,
			"uid": string(deployment.UID), "resourceVersion": deployment.ResourceVersion,
		},
	}}
	if plan.Template != nil {
		config.Object["spec"] = map[string]any{"template": runtime.DeepCopyJSON(plan.Template)}
	}
	dryRun := len(options) > 0
	if err := w.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(config), append(options, client.FieldOwner(v1alpha1.FieldManager))...); err != nil {
		return fmt.Errorf("applying the template: %w", err)
	}
	if dryRun || !plan.Claims {
		return nil
	}
	applied := &appsv1.Deployment{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(config.Object, applied); err != nil {
		return fmt.Errorf("reading the applied Deployment: %w", err)
	}
	return w.keepFields(ctx, applied, plan.Keep)
}

// keepFields reduces what our field manager owns of a Deployment to the given fields. It changes nothing but the managed fields.
func (w *writer) keepFields(ctx context.Context, deployment *appsv1.Deployment, keep *fieldpath.Set) error {
	patch := newJSONPatch(deployment)
	if err := patch.reduceFields(deployment, func(entry *metav1.ManagedFieldsEntry, fields *fieldpath.Set) *fieldpath.Set {
		if injection.IsOurs(entry) {
			return keep
		}
		return fields
	}); err != nil {
		return err
	}
	return w.patchDeployment(ctx, deployment, patch)
}

// handOver leaves the content of a set to the Deployment's owner: our field manager keeps only the given fields, and the slip loses the
// set, in one write. The Deployment has to come with its managed fields.
func (w *writer) handOver(ctx context.Context, deployment *appsv1.Deployment, keep *fieldpath.Set, slip map[string]string) error {
	patch := newJSONPatch(deployment)
	patch.setSlip(slip)
	if err := patch.reduceFields(deployment, func(entry *metav1.ManagedFieldsEntry, fields *fieldpath.Set) *fieldpath.Set {
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
	if err := patch.reduceFields(deployment, func(entry *metav1.ManagedFieldsEntry, fields *fieldpath.Set) *fieldpath.Set {
		if isSlipEntry(entry) {
			return fieldpath.NewSet()
		}
		return fields
	}); err != nil {
		return err
	}
	return w.patchDeployment(ctx, deployment, patch)
}

// takeBack removes fields from the entries of all other managers. It is for fields that hold what we rendered earlier, and that a
// "kubectl rollout undo" has put under its own name. The Deployment has to come with its managed fields.
func (w *writer) takeBack(ctx context.Context, deployment *appsv1.Deployment, taken *fieldpath.Set) error {
	patch := newJSONPatch(deployment)
	if err := patch.reduceFields(deployment, func(entry *metav1.ManagedFieldsEntry, fields *fieldpath.Set) *fieldpath.Set {
		if injection.IsOurs(entry) {
			return fields
		}
		return fields.Difference(taken)
	}); err != nil {
		return err
	}
	return w.patchDeployment(ctx, deployment, patch)
}

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
	data, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("encoding a patch: %w", err)
	}
	if err := w.client.Patch(ctx, referenceTo(deployment), client.RawPatch(types.JSONPatchType, data), client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return fmt.Errorf("patching Deployment %s/%s: %w", deployment.Namespace, deployment.Name, err)
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
	if err := w.client.Status().Patch(ctx, changed, client.MergeFrom(set), client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	return nil
}
