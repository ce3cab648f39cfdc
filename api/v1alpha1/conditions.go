// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// The types of the conditions in a set's status. All three are always present.
const (
	// ConditionReady is True when nothing is under way and nothing is wrong, at the observed generation.
	ConditionReady = "Ready"
	// ConditionProgressing is True while the operator, or a Deployment on its behalf, is changing something.
	ConditionProgressing = "Progressing"
	// ConditionDegraded is True while some workload can not be brought to what is declared.
	ConditionDegraded = "Degraded"
)

// Reasons of Ready being True. When it is False, it has the reason of the condition that prevents it.
const (
	// ReasonAllPodsUpdated: every pod of every selected workload is at the update revision and its sidecars are available.
	ReasonAllPodsUpdated = "AllPodsUpdated"
	// ReasonNoWorkloads: no Deployment is selected, or all that are selected are excluded.
	ReasonNoWorkloads = "NoWorkloads"
)

// Reasons of Progressing being True.
const (
	// ReasonInjecting: some workload gets the set's containers for the first time.
	ReasonInjecting = "Injecting"
	// ReasonUpdatingPods: running pods are being updated in place.
	ReasonUpdatingPods = "UpdatingPods"
	// ReasonRollingWorkloads: some Deployment is rolling out a template with the update revision.
	ReasonRollingWorkloads = "RollingWorkloads"
	// ReasonPromoting: every pod is updated, and a template is following.
	ReasonPromoting = "Promoting"
	// ReasonWaitingForCanary: the canaries are done first.
	ReasonWaitingForCanary = "WaitingForCanary"
	// ReasonRollingBack: workloads go back to the current revision because a pod failed.
	ReasonRollingBack = "RollingBack"
	// ReasonRemoving: rendered content is being taken out of workloads, because the set is being deleted or no longer selects them.
	ReasonRemoving = "Removing"
)

// Reasons of Progressing being False.
const (
	// ReasonComplete: there is nothing left to do.
	ReasonComplete = "Complete"
	// ReasonPaused: updateStrategy.paused is true.
	ReasonPaused = "Paused"
	// ReasonPartitioned: only the pods that updateStrategy.partition keeps are at the old revision.
	ReasonPartitioned = "Partitioned"
	// ReasonHalted: a pod failed, and updateStrategy.onFailure is Halt.
	ReasonHalted = "Halted"
)

// Reasons of Degraded being True. A problem of a single workload has one of these, too.
const (
	// ReasonPodsFailing: an updated sidecar is not available in time.
	ReasonPodsFailing = "PodsFailing"
	// ReasonRolledBack: the update revision failed and was taken back; the spec has to change.
	ReasonRolledBack = "RolledBack"
	// ReasonNameConflict: a container or volume of that name belongs to the application or to an older set.
	ReasonNameConflict = "NameConflict"
	// ReasonMountConflict: something else is mounted at a path in an application container.
	ReasonMountConflict = "MountConflict"
	// ReasonFieldConflict: another field manager, the application or an older set has another value for a field.
	ReasonFieldConflict = "FieldConflict"
	// ReasonPreflightFailed: the set can not be rendered for a workload, or the API server refuses the result.
	ReasonPreflightFailed = "PreflightFailed"
	// ReasonWorkloadStuck: a Deployment exceeded its own progress deadline with the rendered template, or it waits for what is not the set's: something
	// else in its pods that can not be started or does not become ready, or pods that are not created, have no node, or are not started or updated.
	ReasonWorkloadStuck = "WorkloadStuck"
)

// ReasonAsExpected is the reason of Degraded being False.
const ReasonAsExpected = "AsExpected"

// Reasons of a single workload's problem, besides those of Degraded.
const (
	// ReasonImagePullFailed: the image of an updated sidecar can not be pulled.
	ReasonImagePullFailed = "ImagePullFailed"
	// ReasonCrashLoop: an updated sidecar does not stay up.
	ReasonCrashLoop = "CrashLoop"
	// ReasonProgressDeadlineExceeded: an updated sidecar is not available within updateStrategy.progressDeadlineSeconds; in a rolling update,
	// within the Deployment's own.
	ReasonProgressDeadlineExceeded = "ProgressDeadlineExceeded"
	// ReasonDisruptionBudget: a PodDisruptionBudget allows no disruption; the workload waits.
	ReasonDisruptionBudget = "DisruptionBudget"
	// ReasonPrePullWaiting: a node does not get on with pulling images ahead, for a reason that is not the image's; its pods wait.
	ReasonPrePullWaiting = "PrePullWaiting"
	// ReasonWorkloadRollingOut: the Deployment is rolling out a change of its own; the workload waits.
	ReasonWorkloadRollingOut = "WorkloadRollingOut"
	// ReasonWorkloadPaused: the Deployment's owner paused it; its pods follow when it is resumed.
	ReasonWorkloadPaused = "WorkloadPaused"
)
