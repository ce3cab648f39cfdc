// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	applyconfigurations "k8s.io/client-go/applyconfigurations"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// schema merges apply configurations as the API server does, with the same library and the same types, so that a write that would
// change nothing is never sent.
type schema struct {
	converter managedfields.TypeConverter
}

func newSchema() schema {
	return schema{converter: applyconfigurations.NewTypeConverter(clientgoscheme.Scheme)}
}

// live types a template that the API server returned.
func (s schema) live(template *corev1.PodTemplateSpec) (*typed.TypedValue, error) {
	deployment := &appsv1.Deployment{
		TypeMeta: metav1.TypeMeta{APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "Deployment"},
		Spec:     appsv1.DeploymentSpec{Template: *template},
	}
	return s.typed(deployment, typed.AllowDuplicates)
}

// config types an apply configuration of a template.
func (s schema) config(template tree) (*typed.TypedValue, error) {
	content := tree{"apiVersion": appsv1.SchemeGroupVersion.String(), "kind": "Deployment"}
	if len(template) > 0 {
		content["spec"] = tree{"template": template}
	}
	return s.typed(&unstructured.Unstructured{Object: content})
}

func (s schema) typed(object runtime.Object, options ...typed.ValidationOptions) (*typed.TypedValue, error) {
	value, err := s.converter.ObjectToTyped(object, options...)
	if err != nil {
		return nil, fmt.Errorf("reading the template by its schema: %w", err)
	}
	return value, nil
}

// fieldsOf returns the fields that the API server credits the author of a configuration with.
func fieldsOf(config *typed.TypedValue) (*fieldpath.Set, error) {
	fields, err := config.ToFieldSet()
	if err != nil {
		return nil, fmt.Errorf("listing the fields of the apply configuration: %w", err)
	}
	return fields.Difference(fieldpath.NewSet(fieldpath.MakePathOrDie("apiVersion"), fieldpath.MakePathOrDie("kind"))), nil
}
