// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
)

// jsonPatch is an RFC 6902 patch of a Deployment.
type jsonPatch []jsonPatchOperation

type jsonPatchOperation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// newJSONPatch begins a patch that is refused with 409 when the Deployment is not the observed one any more: the API server compares the
// uid and version of the patched object with the stored ones.
func newJSONPatch(deployment *appsv1.Deployment) jsonPatch {
	return jsonPatch{
		{Op: "replace", Path: "/metadata/uid", Value: deployment.UID},
		{Op: "replace", Path: "/metadata/resourceVersion", Value: deployment.ResourceVersion},
	}
}

// changes is false of a patch that holds nothing but its guards.
func (p jsonPatch) changes() bool { return len(p) > len(newJSONPatch(&appsv1.Deployment{})) }

// keepOnly reduces our own entry in the managed fields to the given fields.
func (p *jsonPatch) keepOnly(deployment *appsv1.Deployment, keep *fieldpath.Set) error {
	for i := range deployment.ManagedFields {
		if injection.IsOurs(&deployment.ManagedFields[i]) {
			return p.replaceFields(i, keep)
		}
	}
	return nil
}

// takeFromOthers removes fields from all entries but ours, the last entry first, so that the indexes of the others hold.
func (p *jsonPatch) takeFromOthers(deployment *appsv1.Deployment, fields *fieldpath.Set) error {
	for i, entry := range slices.Backward(deployment.ManagedFields) {
		if injection.IsOurs(&entry) {
			continue
		}
		owned, err := injection.ParseFields(&entry)
		if err != nil {
			return err
		}
		kept := owned.Difference(fields)
		if kept.Equals(owned) {
			continue
		}
		if err := p.replaceFields(i, kept); err != nil {
			return err
		}
	}
	return nil
}

// replaceFields replaces the fields of an entry of the managed fields, and drops the entry when none are left.
func (p *jsonPatch) replaceFields(index int, fields *fieldpath.Set) error {
	path := fmt.Sprintf("/metadata/managedFields/%d", index)
	if fields.Empty() {
		*p = append(*p, jsonPatchOperation{Op: "remove", Path: path})
		return nil
	}
	data, err := fields.ToJSON()
	if err != nil {
		return fmt.Errorf("encoding managed fields: %w", err)
	}
	*p = append(*p, jsonPatchOperation{Op: "replace", Path: path + "/fieldsV1", Value: json.RawMessage(data)})
	return nil
}

// setSlip replaces the order slip; an empty one is removed.
func (p *jsonPatch) setSlip(slip map[string]string) {
	path := "/metadata/annotations/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(v1alpha1.TargetRevisionsAnnotation)
	if len(slip) == 0 {
		*p = append(*p, jsonPatchOperation{Op: "remove", Path: path})
		return
	}
	*p = append(*p, jsonPatchOperation{Op: "replace", Path: path, Value: injection.EncodeRevisions(slip)})
}
