// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"bytes"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// Ownership is the set of a Deployment's fields that we applied and nobody changed since, as the API server keeps it.
type Ownership struct {
	fields *fieldpath.Set
	// encoded is how the API server keeps them.
	encoded string
}

// OwnershipOf reads our own entry in a Deployment's managed fields.
func OwnershipOf(entries []metav1.ManagedFieldsEntry) (Ownership, error) {
	for i := range entries {
		if IsOurs(&entries[i]) {
			fields, err := ParseFields(&entries[i])
			return Ownership{fields: fields, encoded: entries[i].FieldsV1.GetRawString()}, err
		}
	}
	return Ownership{fields: fieldpath.NewSet()}, nil
}

// IsOurs is true of the entry for what we apply. Patches of ours, such as that of the order slip, have an entry of their own.
func IsOurs(entry *metav1.ManagedFieldsEntry) bool {
	return entry.Manager == v1alpha1.FieldManager && entry.Operation == metav1.ManagedFieldsOperationApply && entry.Subresource == ""
}

// ParseFields reads the fields of an entry.
func ParseFields(entry *metav1.ManagedFieldsEntry) (*fieldpath.Set, error) {
	fields := fieldpath.NewSet()
	if entry.FieldsV1 == nil {
		return fields, nil
	}
	if err := fields.FromJSON(bytes.NewReader(entry.FieldsV1.GetRawBytes())); err != nil {
		return nil, fmt.Errorf("reading the managed fields of %q: %w", entry.Manager, err)
	}
	return fields, nil
}

// Empty is true when we own nothing.
func (o Ownership) Empty() bool { return o.fields.Empty() }

// Has is true of a field that is ours.
func (o Ownership) Has(field fieldpath.Path) bool { return o.fields.Has(field) }

// Lacks returns the fields that we do not own.
func (o Ownership) Lacks(fields *fieldpath.Set) *fieldpath.Set {
	if fields == nil {
		return fieldpath.NewSet()
	}
	return fields.Difference(o.fields)
}

// Shares is true when one of these fields is ours.
func (o Ownership) Shares(fields *fieldpath.Set) bool { return !o.fields.Intersection(fields).Empty() }

// Fingerprint tells two ownerships apart.
func (o Ownership) Fingerprint() string { return o.encoded }

func (o Ownership) has(path ...any) bool {
	return o.fields.Has(templatePath(path...))
}

// ownsContainer is true of a container that we rendered. A claim that was left behind by a crash (the bare name of an application's
// container) is none; rendered tells whether the marked revisions have a container of this name, because somebody else may have
// taken its image over.
func (o Ownership) ownsContainer(list, name string, rendered bool) bool {
	return o.has(list, byName(name)) && (rendered || o.has(list, byName(name), "image"))
}

func (o Ownership) ownsMount(container, mountPath string) bool {
	return o.has("containers", byName(container), "volumeMounts", fieldpath.KeyByFields("mountPath", mountPath))
}

// templatePath is a path in a Deployment, from its pod template's spec on.
func templatePath(path ...any) fieldpath.Path {
	return fieldpath.MakePathOrDie(append([]any{"spec", "template", "spec"}, path...)...)
}

// MarksIn returns the fields of a template that are marks of ours, whoever wrote them last.
func MarksIn(template *corev1.PodTemplateSpec) *fieldpath.Set {
	marks := fieldpath.NewSet()
	for field, values := range map[string]map[string]string{"labels": template.Labels, "annotations": template.Annotations} {
		for key := range values {
			if isMark(key) {
				marks.Insert(metadataPath(field, key))
			}
		}
	}
	return marks
}

func metadataPath(path ...any) fieldpath.Path {
	return fieldpath.MakePathOrDie(append([]any{"spec", "template", "metadata"}, path...)...)
}

func byName(name string) any { return fieldpath.KeyByFields("name", name) }
