// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
)

// jsonPatch is an RFC 6902 patch.
type jsonPatch []jsonPatchOperation

type jsonPatchOperation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// pointerEscaper escapes what a part of a JSON pointer holds (RFC 6901, section 3).
var pointerEscaper = strings.NewReplacer("~", "~0", "/", "~1")

// annotationPath is the JSON pointer to an annotation.
func annotationPath(key string) string {
	return "/metadata/annotations/" + pointerEscaper.Replace(key)
}

func (p *jsonPatch) add(op, path string, value any) {
	*p = append(*p, jsonPatchOperation{Op: op, Path: path, Value: value})
}

// newJSONPatch begins a patch that is refused with 409 when the object is not the observed one any more: the API server compares the
// uid and version of the patched object with the stored ones.
func newJSONPatch(object client.Object) jsonPatch {
	return jsonPatch{
		{Op: "replace", Path: "/metadata/uid", Value: object.GetUID()},
		{Op: "replace", Path: "/metadata/resourceVersion", Value: object.GetResourceVersion()},
	}
}

// changes is false of a patch that holds nothing but its guards.
func (p jsonPatch) changes() bool { return len(p) > len(newJSONPatch(&appsv1.Deployment{})) }

// changeFields replaces the fields of the entries of the managed fields for which change returns others. The last entry comes first, so
// that the indexes of the others hold when one is dropped.
func (p *jsonPatch) changeFields(deployment *appsv1.Deployment, change func(entry *metav1.ManagedFieldsEntry, fields *fieldpath.Set) *fieldpath.Set) error {
	for i, entry := range slices.Backward(deployment.ManagedFields) {
		owned, err := injection.ParseFields(&entry)
		if err != nil {
			return err
		}
		kept := change(&entry, owned)
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
		p.add("remove", path, nil)
		return nil
	}
	data, err := fields.ToJSON()
	if err != nil {
		return fmt.Errorf("encoding managed fields: %w", err)
	}
	p.add("replace", path+"/fieldsV1", json.RawMessage(data))
	return nil
}

// setSlip replaces the order slip; an empty one is removed.
func (p *jsonPatch) setSlip(slip map[string]string) {
	path := annotationPath(v1alpha1.TargetRevisionsAnnotation)
	if len(slip) == 0 {
		p.add("remove", path, nil)
		return
	}
	p.add("replace", path, injection.EncodeRevisions(slip))
}

// isSlipEntry is true of the managed fields of our patches: the order slip is all that they write to a Deployment's fields.
func isSlipEntry(entry *metav1.ManagedFieldsEntry) bool {
	return entry.Manager == v1alpha1.FieldManager && entry.Operation == metav1.ManagedFieldsOperationUpdate && entry.Subresource == ""
}
