// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ClusterSidecarSetSpec is a SidecarSetSpec for the Deployments of many namespaces.
type ClusterSidecarSetSpec struct {
	SidecarSetSpec `json:",inline"`

	// namespaceSelector selects namespaces by their labels; an empty one selects all. kube-system and the operator's own
	// namespace are never selected.
	// +required
	NamespaceSelector metav1.LabelSelector `json:"namespaceSelector"`
}

// ClusterSidecarSet is a SidecarSet for the Deployments of every namespace that it selects.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=cscs
type ClusterSidecarSet struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object's metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// spec is what is wanted.
	// +required
	Spec ClusterSidecarSetSpec `json:"spec"`

	// status is what was observed.
	// +optional
	Status SidecarSetStatus `json:"status,omitempty,omitzero"`
}

// ClusterSidecarSetList is a list of ClusterSidecarSets.
//
// +kubebuilder:object:root=true
type ClusterSidecarSetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty,omitzero"`
	Items           []ClusterSidecarSet `json:"items"`
}
