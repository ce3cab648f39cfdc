// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// maxProblems is how many problems a status lists, and maxMessage how long one may be: the limits of the CRD.
const (
	maxProblems = 10
	maxMessage  = 1024
)

// Set is what the decisions need to know of a set.
type Set struct {
	Name           string
	Generation     int64
	UpdateRevision string
	CollisionCount int32
	Paused         bool
	Deleting       bool
	Retain         bool
	// Halt is true when a failure is to leave everything as it is, instead of taking the update revision back.
	Halt bool
	// Partitioned is true when some pods of each workload are to keep the current revision.
	Partitioned bool
	// Partition is that partition, as a summary's RestsAt has it.
	Partition              string
	MaxConcurrentWorkloads *intstr.IntOrString
	// Invalid says what is wrong with the spec; empty when it is valid.
	Invalid []string
	// Status is the status as it is.
	Status v1alpha1.SidecarSetStatus
	Now    time.Time
}

// isNew is true of a set that brings no new revision to workloads that have it.
func (s *Set) isNew() bool {
	return s.Status.CurrentRevision == "" || s.Status.CurrentRevision == s.UpdateRevision
}

// waits is true while nothing new may be assigned. Deletion goes before.
func (s *Set) waits() bool {
	return !s.Deleting && (s.Paused || len(s.Invalid) > 0)
}

// Known is false while some workload that the set was assigned to has not been looked at, as after a start of the operator: a
// status that was computed then would be wrong.
func Known(workloads []Workload) bool {
	return !slices.ContainsFunc(workloads, func(workload Workload) bool { return workload.Slip != "" && workload.Summary == nil })
}

// Status computes the status of a set from its workloads.
func Status(set Set, workloads []Workload) v1alpha1.SidecarSetStatus {
	workloads = slices.Clone(workloads)
	slices.SortFunc(workloads, func(a, b Workload) int { return a.compare(&b) })
	tally := count(set, workloads)
	status := v1alpha1.SidecarSetStatus{
		ObservedGeneration: set.Generation,
		CurrentRevision:    set.Status.CurrentRevision,
		UpdateRevision:     set.UpdateRevision,
		CollisionCount:     set.CollisionCount,
		Workloads:          tally.workloads,
		UpdatedWorkloads:   tally.settled,
		Pods:               tally.pods,
		InjectedPods:       tally.injected,
		UpdatedPods:        tally.updated,
		UpdatedReadyPods:   tally.available,
		UnavailablePods:    tally.unavailable,
		Problems:           tally.problems[:min(len(tally.problems), maxProblems)],
		Conditions:         slices.Clone(set.Status.Conditions),
	}
	if !set.waits() && !set.Deleting && !set.failed() && tally.settled == tally.workloads {
		status.CurrentRevision = tally.proven(set.UpdateRevision)
	}
	progressing, degraded := progressingCondition(set, tally), degradedCondition(set, tally)
	for _, condition := range []metav1.Condition{readyCondition(tally, progressing, degraded), progressing, degraded} {
		condition.ObservedGeneration = set.Generation
		meta.SetStatusCondition(&status.Conditions, condition)
	}
	return status
}

// tally is the sum over a set's workloads.
type tally struct {
	workloads, settled, removing int32
	injecting, rolling           int32
	updating, promoting          int32
	// partitioned are those of which a partition keeps some pods, and withheld those of which it keeps all.
	partitioned, withheld int32
	// queued are those with a revision from before, for which it is not the turn yet; goingBack those that a failed revision is being taken out of.
	queued, goingBack int32
	// awaiting are those with the update revision that go on when it is their turn.
	awaiting                                        int32
	canaries, pendingCanaries                       int32
	pods, injected, updated, available, unavailable int32
	problems                                        []v1alpha1.Problem
	// firstDegrading is the first problem that degrades the set; nil when none does.
	firstDegrading *v1alpha1.Problem
	// failed is the first workload in which the update revision has failed; nil when it has not, or is being taken back. goesBack is true from
	// then on, if it is to be taken back.
	failed   *Workload
	goesBack bool
}

// proven is what becomes the current revision when all workloads have the update revision. Without any, nothing has proven itself.
func (t *tally) proven(updateRevision string) string {
	if t.workloads == 0 {
		return ""
	}
	return updateRevision
}

func count(set Set, workloads []Workload) tally {
	sum := tally{failed: firstFailed(&set, workloads)}
	sum.goesBack = set.failed() || sum.failed != nil && !set.Halt && !set.Paused
	if waitsForCanaries(&set, workloads) {
		sum.canaries, sum.pendingCanaries = canaries(&set, workloads)
	}
	for i := range workloads {
		workload := &workloads[i]
		if !workload.Selected || set.Deleting {
			if workload.Slip != "" || workload.Carried {
				sum.removing++
				sum.addProblem(workload, workload.problem())
			}
			if !workload.Selected {
				continue
			}
		}
		sum.add(set, workload)
	}
	return sum
}

func (t *tally) add(set Set, workload *Workload) {
	summary := workload.current()
	t.workloads++
	t.pods += max(workload.Replicas, summary.Injected)
	t.injected += summary.Injected
	t.unavailable += workload.Replicas - workload.ReadyReplicas
	if workload.Slip == set.UpdateRevision {
		t.updated += summary.Updated
		t.available += summary.Available
	}
	if !set.Deleting {
		t.addProblem(workload, workload.problem())
	}
	if t.goesBack && !set.isBack(workload) {
		t.goingBack++
	}
	t.addProgress(set, workload, summary)
}

// addProgress counts a workload as what it is on its way to the update revision.
func (t *tally) addProgress(set Set, workload *Workload, summary Summary) {
	switch {
	case workload.hasSettled(set.UpdateRevision, set.Status.CurrentRevision):
		t.settled++
	case workload.Slip != set.UpdateRevision && summary.Phase.Rests():
		t.queued++
	case workload.isAtPartition(&set):
		t.partitioned++
	case summary.Phase == Withheld:
		t.withheld++
	case summary.Phase == AwaitingTurn || summary.Phase == Partitioned:
		t.awaiting++
	case workload.problem().degrades():
	case summary.Phase == UpdatingPods:
		t.updating++
	case summary.Phase == Promoting:
		t.promoting++
	case summary.Rendered == "" || (set.isNew() && summary.Injected < workload.Replicas):
		t.injecting++
	case workload.Slip != set.UpdateRevision:
		t.queued++
	default:
		t.rolling++
	}
}

func (t *tally) addProblem(workload *Workload, problem *Problem) {
	if problem == nil {
		return
	}
	reported := v1alpha1.Problem{
		Kind: "Deployment", Namespace: workload.Namespace, Name: workload.Name,
		Reason: problem.Reason, Message: truncate(oneLine(problem.Message)),
	}
	t.problems = append(t.problems, reported)
	if problem.degrades() && t.firstDegrading == nil {
		t.firstDegrading = &reported
	}
}

func progressingCondition(set Set, sum tally) metav1.Condition {
	is := func(status metav1.ConditionStatus, reason, format string, args ...any) metav1.Condition {
		return metav1.Condition{Type: v1alpha1.ConditionProgressing, Status: status, Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	switch {
	case set.Deleting:
		return is(metav1.ConditionTrue, v1alpha1.ReasonRemoving, "The set is being deleted; %s left to release.", workloads(sum.removing))
	case len(set.Invalid) > 0:
		return is(metav1.ConditionFalse, v1alpha1.ReasonComplete, "Nothing is changed until the spec is corrected.")
	case set.Paused:
		return is(metav1.ConditionFalse, v1alpha1.ReasonPaused, "Nothing is changed while updateStrategy.paused is true; %d of %s up to date.", sum.settled, workloads(sum.workloads))
	case sum.goingBack > 0:
		return is(metav1.ConditionTrue, v1alpha1.ReasonRollingBack, "Taking revision %s back; %s left.", set.UpdateRevision, workloads(sum.goingBack))
	case set.failed():
		return is(metav1.ConditionFalse, v1alpha1.ReasonComplete, "Revision %s was taken back; nothing is changed until the spec is corrected.", set.UpdateRevision)
	case sum.failed != nil:
		return is(metav1.ConditionFalse, v1alpha1.ReasonHalted, "No further pod is changed until those that failed recover, or the spec changes; %d of %s up to date.", sum.settled, workloads(sum.workloads))
	case sum.removing > 0:
		return is(metav1.ConditionTrue, v1alpha1.ReasonRemoving, "Taking the rendered content out of %s no longer selected.", workloads(sum.removing))
	}
	return goingOnCondition(set, sum, is)
}

// goingOnCondition tells how the update revision gets on. What is queued goes the way of what went last, so that the reason does not change with
// every wave.
func goingOnCondition(set Set, sum tally, is func(status metav1.ConditionStatus, reason, format string, args ...any) metav1.Condition) metav1.Condition {
	progress := fmt.Sprintf("; %d of %d up to date.", sum.settled, sum.workloads)
	if waiting := sum.queued + sum.awaiting; waiting > 0 {
		progress = fmt.Sprintf(", %d waiting for their turn%s", waiting, progress)
	}
	inPlace := sum.updating + sum.awaiting
	queuedInPlace := sum.queued > 0 && (sum.promoting > 0 || set.wentInPlace())
	switch {
	case sum.withheld > 0 && sum.injecting+sum.rolling+inPlace+sum.promoting == 0:
		return is(metav1.ConditionFalse, v1alpha1.ReasonPartitioned, "updateStrategy.partition keeps all pods of %s at the old revision, because this change can not be made in "+
			"running pods: set it to 0 to let the workloads replace them%s", workloads(sum.withheld), progress)
	case sum.pendingCanaries > 0 && sum.workloads > sum.canaries:
		return is(metav1.ConditionTrue, v1alpha1.ReasonWaitingForCanary, "The canaries go first: %d of %d left; %d of %d up to date.", sum.pendingCanaries, sum.canaries, sum.settled, sum.workloads)
	case sum.injecting > 0:
		return is(metav1.ConditionTrue, v1alpha1.ReasonInjecting, "Injecting into %s%s", workloads(sum.injecting), progress)
	case sum.rolling > 0:
		return is(metav1.ConditionTrue, v1alpha1.ReasonRollingWorkloads, "Rolling out in %s%s", workloads(sum.rolling), progress)
	case inPlace > 0 || queuedInPlace:
		return is(metav1.ConditionTrue, v1alpha1.ReasonUpdatingPods, "Updating pods of %s in place%s", workloads(sum.updating), progress)
	case sum.queued > 0:
		return is(metav1.ConditionTrue, v1alpha1.ReasonRollingWorkloads, "Rolling out in %s%s", workloads(sum.rolling), progress)
	case sum.promoting > 0:
		return is(metav1.ConditionTrue, v1alpha1.ReasonPromoting, "Bringing the template of %s after its pods%s", workloads(sum.promoting), progress)
	case sum.partitioned > 0:
		return is(metav1.ConditionFalse, v1alpha1.ReasonPartitioned, "updateStrategy.partition keeps pods or the template of %s at the old revision%s", workloads(sum.partitioned), progress)
	}
	return is(metav1.ConditionFalse, v1alpha1.ReasonComplete, "%d of %s up to date.", sum.settled, workloads(sum.workloads))
}

// wentInPlace is true when the last that was told of this generation's update is that it goes into running pods.
func (s *Set) wentInPlace() bool {
	progressing := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionProgressing)
	return progressing != nil && progressing.Reason == v1alpha1.ReasonUpdatingPods && progressing.ObservedGeneration == s.Generation
}

func degradedCondition(set Set, sum tally) metav1.Condition {
	condition := metav1.Condition{Type: v1alpha1.ConditionDegraded, Status: metav1.ConditionTrue}
	switch {
	case len(set.Invalid) > 0:
		condition.Reason = v1alpha1.ReasonPreflightFailed
		condition.Message = truncate("The spec is invalid: " + strings.Join(set.Invalid, "; ") + ".")
	case set.failed():
		condition = *meta.FindStatusCondition(set.Status.Conditions, v1alpha1.ConditionDegraded)
	case sum.failed != nil && sum.goesBack:
		return rolledBack(&set, sum.failed)
	case sum.firstDegrading != nil:
		first := sum.firstDegrading
		condition.Reason = first.Reason
		if slices.Contains(failureReasons, first.Reason) {
			condition.Reason = v1alpha1.ReasonPodsFailing
		}
		condition.Message = truncate(fmt.Sprintf("%s with a problem. %s %s/%s: %s", workloads(int32(len(sum.problems))),
			first.Kind, first.Namespace, first.Name, first.Message))
	default:
		condition.Status, condition.Reason = metav1.ConditionFalse, v1alpha1.ReasonAsExpected
		condition.Message = "No workload has a problem."
		if len(sum.problems) > 0 {
			condition.Message = fmt.Sprintf("%s waiting.", workloads(int32(len(sum.problems))))
		}
	}
	return condition
}

func readyCondition(sum tally, progressing, degraded metav1.Condition) metav1.Condition {
	condition := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse}
	switch {
	case degraded.Status == metav1.ConditionTrue:
		condition.Reason, condition.Message = degraded.Reason, degraded.Message
	case progressing.Status == metav1.ConditionTrue || progressing.Reason != v1alpha1.ReasonComplete && sum.settled < sum.workloads:
		condition.Reason, condition.Message = progressing.Reason, progressing.Message
	case sum.workloads == 0:
		condition.Status, condition.Reason = metav1.ConditionTrue, v1alpha1.ReasonNoWorkloads
		condition.Message = "No Deployment is selected."
	default:
		condition.Status, condition.Reason = metav1.ConditionTrue, v1alpha1.ReasonAllPodsUpdated
		condition.Message = fmt.Sprintf("%s up to date.", workloads(sum.workloads))
	}
	return condition
}

func workloads(n int32) string {
	if n == 1 {
		return "1 workload"
	}
	return fmt.Sprintf("%d workloads", n)
}

// oneLine makes a sentence of what an API server wrote as a list.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// truncate shortens a text to at most maxMessage bytes, without cutting a character in two.
func truncate(text string) string {
	if len(text) <= maxMessage {
		return text
	}
	return strings.ToValidUTF8(text[:maxMessage-len("...")], "") + "..."
}

func compareNames(namespaceA, nameA, namespaceB, nameB string) int {
	if order := strings.Compare(namespaceA, namespaceB); order != 0 {
		return order
	}
	return strings.Compare(nameA, nameB)
}
