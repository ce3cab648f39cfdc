// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// brings is true of a set whose update revision has not reached every pod yet: only such a one is judged, since there is something to go
// back to.
func (s *Set) brings() bool { return s.UpdateRevision != s.Status.CurrentRevision }

// failed is true when the update revision has failed and is taken back. The condition is the memory of it: it is written before anything is
// taken back, because the pods that failed do not tell any more afterwards. A new spec gets a new chance.
func (s *Set) failed() bool {
	return Degraded(&s.Status, s.Generation, s.UpdateRevision) == v1alpha1.ReasonRolledBack
}

// isHalted is true when the status says of this spec that pods fail. Not all failures can be seen at once again after a restart.
func (s *Set) isHalted() bool {
	return Degraded(&s.Status, s.Generation, s.UpdateRevision) == v1alpha1.ReasonPodsFailing
}

// Degraded is the reason of the condition Degraded, as far as it speaks of a generation's update revision, while that has not reached every pod; else
// it is empty.
func Degraded(status *v1alpha1.SidecarSetStatus, generation int64, updateRevision string) string {
	degraded := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionDegraded)
	if degraded == nil || degraded.ObservedGeneration != generation || updateRevision == status.CurrentRevision {
		return ""
	}
	return degraded.Reason
}

// firstFailed returns the first workload, by name, in which the update revision has failed, while it is judged; nil when there is none.
func firstFailed(set *Set, workloads []Workload) *Workload {
	if set.Deleting || !set.brings() || set.failed() {
		return nil
	}
	var first *Workload
	for i := range workloads {
		workload := &workloads[i]
		if workload.Selected && workload.Slip == set.UpdateRevision && workload.current().Problem.IsFailure() && (first == nil || workload.compare(first) < 0) {
			first = workload
		}
	}
	return first
}

// rolledBack is what the condition Degraded says from a failure on, until the spec changes: what happened, where, when, and what to do.
func rolledBack(set *Set, workload *Workload) metav1.Condition {
	target := "the revision " + set.Status.CurrentRevision + " from before"
	if set.Status.CurrentRevision == "" {
		target = "what was there before the set"
	}
	return metav1.Condition{
		Type: v1alpha1.ConditionDegraded, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonRolledBack,
		Message: truncate(fmt.Sprintf(
			"Revision %s failed in Deployment %s/%s at %s, and everything goes back to %s. Correct the spec: it is not tried again until the spec changes. What failed: %s",
			set.UpdateRevision, workload.Namespace, workload.Name, set.Now.UTC().Format(time.RFC3339), target, oneLine(workload.current().Problem.Message))),
	}
}

// isBack is true when a workload has nothing of a failed revision any more, and its sidecars are available with the one before.
func (s *Set) isBack(workload *Workload) bool {
	current := s.Status.CurrentRevision
	if current == "" {
		return workload.Slip == "" && !workload.Carried
	}
	return workload.Slip == current && workload.hasSettled(current, s.UpdateRevision)
}
