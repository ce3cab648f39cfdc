// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
)

const (
	// setIndex finds the Deployments that a set was assigned to, or whose template still holds something of it.
	setIndex = "sidecarset.io/set"
	// ownerIndex finds the ReplicaSets, pods and revisions of an owner by its uid, and pre-pull pods by pullsOf.
	ownerIndex = "metadata.ownerReferences.controller.uid"
)

func addIndexes(ctx context.Context, indexer client.FieldIndexer) error {
	if err := indexer.IndexField(ctx, &appsv1.Deployment{}, setIndex, func(object client.Object) []string {
		deployment, ok := object.(*appsv1.Deployment)
		if !ok {
			return nil
		}
		return setsOf(deployment)
	}); err != nil {
		return fmt.Errorf("indexing Deployments by set: %w", err)
	}
	for _, object := range []client.Object{&appsv1.ReplicaSet{}, &corev1.Pod{}, &appsv1.ControllerRevision{}} {
		if err := indexer.IndexField(ctx, object, ownerIndex, ownerUID); err != nil {
			return fmt.Errorf("indexing %T by owner: %w", object, err)
		}
	}
	return nil
}

// setsOf returns the keys of the sets on a Deployment's slip and of those that its template carries.
func setsOf(deployment *appsv1.Deployment) []string {
	keys := slipOf(deployment)
	if carriesOurs(deployment) {
		maps.Copy(keys, injection.Revisions(deployment.Spec.Template.Annotations[v1alpha1.RevisionsAnnotation]))
	}
	return slices.Collect(maps.Keys(keys))
}

func slipOf(deployment *appsv1.Deployment) map[string]string {
	return injection.Revisions(deployment.Annotations[v1alpha1.TargetRevisionsAnnotation])
}

// slipWritten is when a Deployment's order slip was written, to the second, and whether we wrote it. Others do in a manifest that was copied, and
// with "kubectl rollout undo". When managed fields do not tell, it came with the Deployment.
func slipWritten(deployment *appsv1.Deployment) (written time.Time, byUs bool) {
	written = deployment.CreationTimestamp.Time
	for i := range deployment.ManagedFields {
		entry := &deployment.ManagedFields[i]
		if entry.Time == nil || !holdsSlip(entry) {
			continue
		}
		if written = entry.Time.Time; isSlipEntry(entry) {
			return written, true
		}
	}
	return written, false
}

// holdsSlip is true of the managed fields of who wrote the order slip.
func holdsSlip(entry *metav1.ManagedFieldsEntry) bool {
	if entry.FieldsV1 == nil || !bytes.Contains(entry.FieldsV1.GetRawBytes(), []byte(v1alpha1.TargetRevisionsAnnotation)) {
		return false // as most do not; to read them takes time.
	}
	fields, err := injection.ParseFields(entry)
	return err == nil && fields.Has(slipField)
}

var (
	slipField        = fieldpath.MakePathOrDie("metadata", "annotations", v1alpha1.TargetRevisionsAnnotation)
	intentField      = fieldpath.MakePathOrDie("metadata", "annotations", v1alpha1.PromotionAnnotation)
	lastAppliedField = fieldpath.MakePathOrDie("metadata", "annotations", corev1.LastAppliedConfigAnnotation)
	pauseField       = fieldpath.MakePathOrDie("spec", "paused")
)

// carriesOurs is true while our field manager owns something that it applied. A retained template has our marks and not this.
func carriesOurs(deployment *appsv1.Deployment) bool {
	return slices.ContainsFunc(deployment.ManagedFields, func(entry metav1.ManagedFieldsEntry) bool { return injection.IsOurs(&entry) })
}

func ownerUID(object client.Object) []string {
	if owner := metav1.GetControllerOf(object); owner != nil {
		if isPrePull(object) {
			return []string{pullsOf(owner.Name)}
		}
		return []string{string(owner.UID)}
	}
	return nil
}

func isPrePull(object client.Object) bool {
	return object.GetLabels()[v1alpha1.InjectedLabel] == v1alpha1.PrePullLabelValue
}

// pullsOf is where ownerIndex has the pre-pull pods of a Deployment: under its name, which is known also when it is gone.
func pullsOf(deployment string) string { return v1alpha1.PrePullLabelValue + "/" + deployment }
