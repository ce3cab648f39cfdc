// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

const (
	// InjectedLabel is "true" on every pod template with rendered content, hence on its ReplicaSets and pods. The operator
	// watches only ReplicaSets and pods that have it.
	InjectedLabel = "sidecarset.io/injected"

	// PrePullLabelValue is the value of InjectedLabel on a pre-pull pod, which has no other label: no Deployment, Service or
	// PodDisruptionBudget that selects by labels takes it for its own.
	PrePullLabelValue = "pre-pull"

	// RevisionsAnnotation on a pod template, and hence on its pods, holds a JSON object from set keys to the names of the
	// rendered revisions. In-place updates patch it on pods.
	RevisionsAnnotation = "sidecarset.io/revisions"

	// ContainersAnnotation on a pod template, and hence on its pods, holds the sorted, comma-separated names of the rendered
	// containers and native sidecars.
	ContainersAnnotation = "sidecarset.io/containers"

	// TargetRevisionsAnnotation on a Deployment is its order slip: a JSON object from set keys to the revisions that the
	// sets' controller assigned to it.
	TargetRevisionsAnnotation = "sidecarset.io/target-revisions"

	// PromotionAnnotation on a Deployment is there only while its template is being brought after its pods; it holds the intent as JSON
	// (controllers/promotion).
	PromotionAnnotation = "sidecarset.io/promotion"

	// InPlaceAnnotation on a pod records its last in-place update as JSON: the revisions by set, when it began, and the IDs that the
	// containers had which it restarts.
	InPlaceAnnotation = "sidecarset.io/in-place"

	// ExcludeAnnotation on a Deployment is set by its owner: "true" keeps every set away from it, a comma-separated list
	// keeps the sets of these names away.
	ExcludeAnnotation = "sidecarset.io/exclude"

	// SetLabel on a ControllerRevision holds the name of the set whose history it belongs to. The operator watches only revisions
	// that have it.
	SetLabel = "sidecarset.io/set"

	// ReleaseFinalizer keeps a set until its content is out of every workload, or handed over to its owner.
	ReleaseFinalizer = "sidecarset.io/release"

	// FieldManager is the name under which the operator makes every write.
	FieldManager = "sidecarset"

	// ClusterSetKeyPrefix precedes the name of a ClusterSidecarSet where sets are keys; a SidecarSet's key is its name.
	ClusterSetKeyPrefix = "cluster/"
)
