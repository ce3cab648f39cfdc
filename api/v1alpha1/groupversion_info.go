// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 is the API that users of SidecarSet write and read: the kinds SidecarSet and ClusterSidecarSet,
// the reasons of their conditions, and the marks that the operator leaves on Deployments and pods.
//
// +kubebuilder:object:generate=true
// +groupName=apps.sidecarset.io
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of every kind in this package.
var GroupVersion = schema.GroupVersion{Group: "apps.sidecarset.io", Version: "v1alpha1"}

// AddToScheme registers the kinds of this package. It returns no error; the signature is that of every AddToScheme.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion,
		&SidecarSet{}, &SidecarSetList{},
		&ClusterSidecarSet{}, &ClusterSidecarSetList{},
	)
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
