// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// SidecarSetSpec says which sidecars to render, into which Deployments, and how a change reaches them.
// SidecarSet and ClusterSidecarSet share it.
type SidecarSetSpec struct {
	// selector selects Deployments by their own labels (not by those of their pods). An empty selector selects all
	// Deployments in scope.
	// +required
	Selector metav1.LabelSelector `json:"selector"`

	// initContainers are rendered before the workload's own init containers, in this order. One with
	// restartPolicy Always is a native sidecar.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	InitContainers []SidecarContainer `json:"initContainers,omitempty"`

	// containers are rendered after the workload's own containers, in this order.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	Containers []SidecarContainer `json:"containers,omitempty"`

	// volumes are added to the pod template, and mounted into application containers where appMounts says so.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	Volumes []SidecarVolume `json:"volumes,omitempty"`

	// imagePullSecrets are added to those of the pod template. They must exist in the workload's namespace.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`

	// podMetadata holds labels and annotations that are added to the pod template.
	// +optional
	PodMetadata *PodMetadata `json:"podMetadata,omitempty"`

	// updateStrategy says how a change of the rendered content reaches the workloads.
	// +optional
	// +kubebuilder:default={}
	UpdateStrategy UpdateStrategy `json:"updateStrategy,omitempty,omitzero"`

	// deletionPolicy says what happens to the rendered content when the set is deleted: Remove takes it out again
	// before the object goes, Retain leaves it to the workload's owner.
	// +optional
	// +kubebuilder:default=Remove
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`

	// revisionHistoryLimit is how many revisions that no workload uses are kept.
	// +optional
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	RevisionHistoryLimit *int32 `json:"revisionHistoryLimit,omitempty"`
}

// SidecarContainer is a container, and what it takes over from the application it is rendered beside.
type SidecarContainer struct {
	corev1.Container `json:",inline"`

	// inherit names what is copied from an application container when this one is rendered. Not allowed on an init
	// container that is not a native sidecar.
	// +optional
	Inherit *Inherit `json:"inherit,omitempty"`
}

// IsNativeSidecar is true of an init container that keeps running beside the application.
func (c *SidecarContainer) IsNativeSidecar() bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// Inherit names what a sidecar copies from an application container.
type Inherit struct {
	// from is the name of the application container; default: the workload's first one.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	From string `json:"from,omitempty"`

	// env are names of environment variables, copied as the application declares them. One that the application does not
	// declare, or that the sidecar declares itself, is not copied.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=1024
	Env []string `json:"env,omitempty"`

	// volumeMounts is All to mount every volume of the application container at the same paths (the sidecar's own mounts
	// win), or None.
	// +optional
	// +kubebuilder:default=None
	VolumeMounts InheritVolumeMounts `json:"volumeMounts,omitempty"`
}

// InheritVolumeMounts says which volume mounts of the application a sidecar takes over.
// +kubebuilder:validation:Enum=None;All
type InheritVolumeMounts string

// The values of InheritVolumeMounts.
const (
	InheritVolumeMountsNone InheritVolumeMounts = "None"
	InheritVolumeMountsAll  InheritVolumeMounts = "All"
)

// SidecarVolume is a volume, and where the application mounts it.
type SidecarVolume struct {
	corev1.Volume `json:",inline"`

	// appMounts mount the volume into the application's own containers.
	// +optional
	// +listType=map
	// +listMapKey=mountPath
	// +kubebuilder:validation:MaxItems=32
	AppMounts []AppMount `json:"appMounts,omitempty"`
}

// AppMount mounts a set's volume into application containers.
type AppMount struct {
	// mountPath is the path inside the application's containers.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	MountPath string `json:"mountPath"`

	// readOnly mounts the volume read-only.
	// +optional
	ReadOnly bool `json:"readOnly,omitempty"`

	// subPath is the path inside the volume that is mounted; default: the volume's root.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	SubPath string `json:"subPath,omitempty"`

	// containers are names of application containers; default: every one (init containers excluded).
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=63
	Containers []string `json:"containers,omitempty"`
}

// PodMetadata holds labels and annotations for the pod template.
type PodMetadata struct {
	// labels are added to the pod template's labels.
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	Labels map[string]string `json:"labels,omitempty"`

	// annotations are added to the pod template's annotations.
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	Annotations map[string]string `json:"annotations,omitempty"`
}

// UpdateStrategy says how a change of the rendered content reaches the workloads.
type UpdateStrategy struct {
	// type is InPlace to carry changes of a sidecar's image and resources into the running pods, and RollingUpdate to let every
	// change go through the Deployment's own rolling update.
	// +optional
	// +kubebuilder:default=InPlace
	Type UpdateStrategyType `json:"type,omitempty"`

	// paused stops every change, first injection included; the status keeps counting.
	// +optional
	Paused bool `json:"paused,omitempty"`

	// maxUnavailable is how many pods of one workload may be unavailable, for any cause, while they are updated in place: a number, or a
	// percentage of the desired replicas (rounded down, at least 1). A rolling update obeys the Deployment's own strategy.
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 1 : self.matches('^([1-9][0-9]?|100)%$')",message="must be a number of at least 1 or a percentage from \"1%\" to \"100%\"; to change nothing for now, write paused: true"
	MaxUnavailable *intstr.IntOrString `json:"maxUnavailable,omitempty"`

	// partition is how many pods of one workload stay at the old revision: a number, or a percentage of the desired replicas (rounded up). A
	// change that needs a rolling update reaches no pod before it is 0.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 0 : self.matches('^([0-9]|[1-9][0-9]|100)%$')",message="must be a number of at least 0 or a percentage from \"0%\" to \"100%\""
	Partition *intstr.IntOrString `json:"partition,omitempty"`

	// maxConcurrentWorkloads is how many workloads are changed at the same time: a number, or a percentage of the set's
	// workloads (rounded down, at least 1).
	// +optional
	// +kubebuilder:default="10%"
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 1 : self.matches('^([1-9][0-9]?|100)%$')",message="must be a number of at least 1 or a percentage from \"1%\" to \"100%\"; to change nothing for now, write paused: true"
	MaxConcurrentWorkloads *intstr.IntOrString `json:"maxConcurrentWorkloads,omitempty"`

	// canary selects workloads that are changed, and must succeed, before any other.
	// +optional
	Canary *Canary `json:"canary,omitempty"`

	// prePull is BeforeUpdate to pull new images on a node before the first pod there is updated in place, and Never to let each pod's
	// sidecar be down while its image is pulled.
	// +optional
	// +kubebuilder:default=Never
	PrePull PrePullPolicy `json:"prePull,omitempty"`

	// minReadySeconds is for how many seconds an updated sidecar must be ready to count as available.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	MinReadySeconds int32 `json:"minReadySeconds,omitempty"`

	// progressDeadlineSeconds is after how many seconds a sidecar that was updated in place and is not available counts as failed. In a
	// rolling update it is the Deployment's own deadline.
	// +optional
	// +kubebuilder:default=300
	// +kubebuilder:validation:Minimum=1
	ProgressDeadlineSeconds *int32 `json:"progressDeadlineSeconds,omitempty"`

	// onFailure is Rollback to take everything back to the current revision when a pod fails, and Halt to stop and keep what is.
	// +optional
	// +kubebuilder:default=Rollback
	OnFailure FailurePolicy `json:"onFailure,omitempty"`
}

// Canary selects the workloads that are changed before all others.
type Canary struct {
	// selector selects among the set's Deployments, by their own labels.
	// +required
	Selector metav1.LabelSelector `json:"selector"`
}

// UpdateStrategyType is the way in which changes reach running pods.
// +kubebuilder:validation:Enum=InPlace;RollingUpdate
type UpdateStrategyType string

// The values of UpdateStrategyType.
const (
	InPlaceUpdateStrategyType       UpdateStrategyType = "InPlace"
	RollingUpdateUpdateStrategyType UpdateStrategyType = "RollingUpdate"
)

// PrePullPolicy says whether images are pulled ahead of in-place updates.
// +kubebuilder:validation:Enum=Never;BeforeUpdate
type PrePullPolicy string

// The values of PrePullPolicy.
const (
	NeverPrePullPolicy        PrePullPolicy = "Never"
	BeforeUpdatePrePullPolicy PrePullPolicy = "BeforeUpdate"
)

// FailurePolicy is what a failed pod leads to.
// +kubebuilder:validation:Enum=Rollback;Halt
type FailurePolicy string

// The values of FailurePolicy.
const (
	RollbackFailurePolicy FailurePolicy = "Rollback"
	HaltFailurePolicy     FailurePolicy = "Halt"
)

// DeletionPolicy is what happens to the rendered content when its set is deleted.
// +kubebuilder:validation:Enum=Remove;Retain
type DeletionPolicy string

// The values of DeletionPolicy.
const (
	RemoveDeletionPolicy DeletionPolicy = "Remove"
	RetainDeletionPolicy DeletionPolicy = "Retain"
)

// SidecarSetStatus is what was observed of a set's workloads. Only the operator writes it.
type SidecarSetStatus struct {
	// observedGeneration is the generation of the spec that this status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// currentRevision names the last revision that reached every pod.
	// +optional
	CurrentRevision string `json:"currentRevision,omitempty"`

	// updateRevision names the revision of today's spec.
	// +optional
	UpdateRevision string `json:"updateRevision,omitempty"`

	// collisionCount counts the hash collisions of revision names; it goes into the hash.
	// +optional
	CollisionCount int32 `json:"collisionCount"`

	// workloads is how many Deployments are selected and not excluded.
	// +optional
	Workloads int32 `json:"workloads"`

	// updatedWorkloads is how many of them have updateRevision in their template and in every pod, with its sidecars available once at least.
	// +optional
	UpdatedWorkloads int32 `json:"updatedWorkloads"`

	// pods is how many pods those Deployments have, terminating ones excluded.
	// +optional
	Pods int32 `json:"pods"`

	// injectedPods is how many of them carry this set's containers, of whatever revision.
	// +optional
	InjectedPods int32 `json:"injectedPods"`

	// updatedPods is how many of them carry updateRevision, in workloads that are to have it.
	// +optional
	UpdatedPods int32 `json:"updatedPods"`

	// updatedReadyPods is how many of those have sidecars that run it and are ready for minReadySeconds.
	// +optional
	UpdatedReadyPods int32 `json:"updatedReadyPods"`

	// unavailablePods is how many pods are not ready, for whatever cause.
	// +optional
	UnavailablePods int32 `json:"unavailablePods"`

	// conditions are Ready, Progressing and Degraded, all three always present.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// problems are the first ten workloads, by namespace and name, that are not as declared; Degraded's message counts all.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=10
	Problems []Problem `json:"problems,omitempty"`
}

// Problem says why a workload is not as declared.
type Problem struct {
	// kind is the workload's kind: Deployment.
	// +required
	// +kubebuilder:validation:MaxLength=63
	Kind string `json:"kind"`

	// namespace is the workload's namespace.
	// +required
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`

	// name is the workload's name.
	// +required
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// reason is a word for programs; see conditions.go.
	// +required
	// +kubebuilder:validation:MaxLength=63
	Reason string `json:"reason"`

	// message is a sentence for people: what is wrong, with what, and what to do.
	// +required
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message"`
}

// SidecarSet renders containers and volumes into the pod templates of the Deployments that it selects in its namespace,
// and keeps them up to date.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=scs
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63",message="metadata.name must have at most 63 characters: it is part of the names of the set's revisions"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Workloads",type=integer,JSONPath=`.status.workloads`
// +kubebuilder:printcolumn:name="Pods",type=integer,JSONPath=`.status.pods`
// +kubebuilder:printcolumn:name="Updated",type=integer,JSONPath=`.status.updatedPods`
// +kubebuilder:printcolumn:name="Available",type=integer,JSONPath=`.status.updatedReadyPods`
// +kubebuilder:printcolumn:name="Progress",type=string,JSONPath=`.status.conditions[?(@.type=="Progressing")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Revision",type=string,priority=1,JSONPath=`.status.updateRevision`
// +kubebuilder:printcolumn:name="Strategy",type=string,priority=1,JSONPath=`.spec.updateStrategy.type`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
type SidecarSet struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object's metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// spec is what is wanted.
	// +required
	Spec SidecarSetSpec `json:"spec"`

	// status is what was observed.
	// +optional
	Status SidecarSetStatus `json:"status,omitempty,omitzero"`
}

// SidecarSetList is a list of SidecarSets.
//
// +kubebuilder:object:root=true
type SidecarSetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty,omitzero"`
	Items           []SidecarSet `json:"items"`
}
