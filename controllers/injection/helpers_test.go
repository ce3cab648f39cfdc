// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/yaml"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

var renderer = NewRenderer()

// parse reads YAML into a value, strictly.
func parse[T any](t testing.TB, text string) *T {
	t.Helper()
	value := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), value); err != nil {
		t.Fatalf("parsing %s: %v", text, err)
	}
	return value
}

// makeWorkload is a workload that nobody has rendered anything into.
func makeWorkload(t testing.TB, template string) Workload {
	t.Helper()
	return Workload{
		Name:     "Deployment shop/cart",
		Template: parse[corev1.PodTemplateSpec](t, template),
		Owned:    Ownership{fields: fieldpath.NewSet()},
		Rendered: map[string]*Content{},
	}
}

// makeSet is a set of a name, with a revision <name>-1, that was created at a second.
func makeSet(t testing.TB, name string, second int64, content string) Set {
	t.Helper()
	return Set{Key: name, CreatedAt: time.Unix(second, 0), Revision: name + "-1", Content: parse[Content](t, content)}
}

func render1(t testing.TB, workload Workload, sets ...Set) *Plan {
	t.Helper()
	plan, err := renderer.Render(workload, sets)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// applied is the workload after its plan was applied to a template that had nothing of ours.
func applied(t testing.TB, workload Workload, plan *Plan, sets ...Set) Workload {
	t.Helper()
	live, err := renderer.schema.live(workload.Template)
	if err != nil {
		t.Fatal(err)
	}
	_, merged, err := renderer.merge(plan.Template, live)
	if err != nil {
		t.Fatal(err)
	}
	object, ok := merged.AsValue().Unstructured().(map[string]any)
	if !ok {
		t.Fatal("the merged Deployment is no object")
	}
	deployment := &appsv1.Deployment{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object, deployment); err != nil {
		t.Fatal(err)
	}
	result := workload
	result.Template = &deployment.Spec.Template
	result.Owned = Ownership{fields: throughManagedFields(t, plan.Keep)}
	result.Rendered = map[string]*Content{}
	for _, set := range sets {
		if _, ok := plan.Revisions[set.Key]; ok {
			result.Rendered[set.Key] = set.Content
		}
	}
	return result
}

// throughManagedFields encodes fields as the API server stores them, and reads them back.
func throughManagedFields(t testing.TB, fields *fieldpath.Set) *fieldpath.Set {
	t.Helper()
	data, err := fields.ToJSON()
	if err != nil {
		t.Fatal(err)
	}
	owned, err := OwnershipOf([]metav1.ManagedFieldsEntry{
		{Manager: "somebody", Operation: metav1.ManagedFieldsOperationApply},
		{Manager: v1alpha1.FieldManager, Operation: metav1.ManagedFieldsOperationUpdate},
		{Manager: v1alpha1.FieldManager, Operation: metav1.ManagedFieldsOperationApply, FieldsV1: metav1.NewFieldsV1(string(data))},
	})
	if err != nil {
		t.Fatal(err)
	}
	return owned.fields
}

func toYAML(t testing.TB, value any) string {
	t.Helper()
	data, err := yaml.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
