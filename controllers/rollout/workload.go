// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// Deployment is what decisions need to know of a Deployment's own rollout.
type Deployment struct {
	// Observed is true when its controller has seen today's spec.
	Observed bool
	// New is true when its controller has seen no spec of it yet.
	New bool
	// Complete is true when its last rollout has come to its end, whatever happened to pods afterwards.
	Complete bool
	// Rolling is true while its controller replaces pods. New ones may be there that Replicas does not count yet.
	Rolling bool
	// Stuck is true when its rollout exceeded its own progress deadline.
	Stuck bool
	// Paused is true when its owner paused it.
	Paused bool
	// Endless is true when its rollouts have no deadline.
	Endless bool
	// Empty is true when it is to have pods and has none, as when the strategy Recreate waits for old ones to be gone: they are counted no more.
	Empty bool
	// Stalled is why pods of it are missing that can not be created; zero when none are.
	Stalled Stall
	// Replicas and ReadyReplicas count its pods, terminating ones excluded.
	Replicas, ReadyReplicas int32
}

// Problem is why a workload is not as declared, for one set.
type Problem struct {
	Reason, Message string
}

// degrades is false for the reasons that only say why a workload waits.
func (p *Problem) degrades() bool {
	waits := []string{v1alpha1.ReasonDisruptionBudget, v1alpha1.ReasonWorkloadRollingOut, v1alpha1.ReasonWorkloadPaused, v1alpha1.ReasonPrePullWaiting}
	return p != nil && !slices.Contains(waits, p.Reason)
}

// Phase is how a workload that has not settled gets there.
type Phase string

// The phases. A workload without one goes through its Deployment's own rollout.
const (
	UpdatingPods Phase = "UpdatingPods"
	Promoting    Phase = "Promoting"
	Partitioned  Phase = "Partitioned"
	// Withheld is the phase of a workload that keeps its revision in all pods, because a partition would have some keep it, and the change can not
	// be brought to the others alone. It takes no place in the wave, which does not go on before it: without the partition, not all workloads are to
	// replace their pods at once.
	Withheld Phase = "Withheld"
	// AwaitingTurn is the phase of a workload at rest, of which a partition that was lowered would let more pods go. They do when the sets' controller
	// calls the workload, which then takes a place in the wave.
	AwaitingTurn Phase = "AwaitingTurn"
)

// Rests is true of a phase in which nothing happens until a partition changes, or somebody calls.
func (p Phase) Rests() bool { return slices.Contains([]Phase{Partitioned, Withheld, AwaitingTurn}, p) }

// Summary is what a workload's controller saw of one set in it.
type Summary struct {
	// Target is the revision on the slip that was acted upon.
	Target string
	// Rendered is the revision that the template holds; empty when it holds none.
	Rendered string
	Phase    Phase
	// Injected, Updated and Available count pods: with any revision of the set, with Target, and those whose sidecars are available.
	Injected, Updated, Available int32
	// CameToEnd is true from when Target's sidecars were available in all pods, for as long as slip and template keep it and it has not failed. It is
	// known to this process only: after a restart, or with another leader, they have to be so once more.
	CameToEnd bool
	// RestsAt is the partition at which the workload came to rest last: to go on beyond it, it has to be called. It is empty of one that has not come to
	// rest since it was assigned Target, or called.
	RestsAt string
	// Restarting counts those of the updated ones whose containers have still to restart for an update in place.
	Restarting int32
	// PodRevisions are the revisions of the set that its pods have, sorted and separated by commas.
	PodRevisions string
	// Problem is nil when all is well.
	Problem *Problem
}

// RememberEnd sets CameToEnd from what the rest says, from the last summary of the same, nil when there is none, and from whether the revision has failed.
func (s *Summary) RememberEnd(last *Summary, deployment Deployment, failed bool) {
	cameBefore := last != nil && last.CameToEnd && last.Target == s.Target && last.Rendered == s.Rendered
	comesNow := s.reachesAllPods(&deployment) && !deployment.Rolling && deployment.Replicas > 0 && s.Available >= deployment.Replicas
	s.CameToEnd = !failed && (cameBefore || comesNow)
}

// unknown is where a workload rests that was not seen before, by this process: it may be one that waits for its turn.
const unknown = "unknown"

// AwaitsTurn tells whether a workload may not go on to a partition before it is called, from the last summary of the same, nil when there is none. One
// with pods that are not done takes a place already.
func (s *Summary) AwaitsTurn(last *Summary, partition string) bool {
	switch {
	case s.Updated > s.Available:
		return false
	case last == nil:
		return true
	}
	return last.Target == s.Target && last.RestsAt != "" && last.RestsAt != partition
}

// RememberRest sets RestsAt from the rest, from the last summary of the same, nil when there is none, from the set's partition, and from whether the
// workload awaits its turn to go on to that.
func (s *Summary) RememberRest(last *Summary, partition string, awaitsTurn bool) {
	switch {
	case s.Phase == Partitioned:
		s.RestsAt = partition
	case awaitsTurn && last == nil:
		s.RestsAt = unknown
	case awaitsTurn, last != nil && last.Target == s.Target && last.RestsAt == partition:
		s.RestsAt = last.RestsAt
	}
}

// StayAtRest leaves a workload at rest where it was, by its last summary, nil when there is none, and from whether it awaits its turn, while its set may
// change nothing in it.
func (s *Summary) StayAtRest(last *Summary, awaitsTurn bool) {
	switch {
	case last == nil && awaitsTurn:
		s.Phase = AwaitingTurn
	case last != nil && last.Target == s.Target && last.Phase.Rests():
		s.Phase, s.RestsAt = last.Phase, last.RestsAt
	}
}

// reachesAllPods is true when a Deployment's template and all its pods have the target. The template has it from the begin of a promotion on; the
// Deployment is ours until its end.
func (s *Summary) reachesAllPods(deployment *Deployment) bool {
	return s.Target != "" && s.Rendered == s.Target && s.Phase != Promoting && deployment.Observed &&
		s.Updated >= deployment.Replicas && s.Updated >= s.Injected
}

// Equal is true of summaries that say the same.
func (s Summary) Equal(other Summary) bool {
	a, b := s.Problem, other.Problem
	s.Problem, other.Problem = nil, nil
	return s == other && (a == b || (a != nil && b != nil && *a == *b))
}

// Summarize counts what became of a set's revision in the pods of a workload. recheck is in how long a pod becomes available without any
// event; zero when none does.
func Summarize(set SetUpdate, pods []Pod, now time.Time) (summary Summary, recheck time.Duration) {
	summary = Summary{Target: set.Revision}
	set.Unproven = false // which makes updates wait, and is no part of what available means
	revisions := map[string]bool{}
	for i := range pods {
		revision, injected := pods[i].Revisions[set.Key]
		if !injected {
			continue
		}
		revisions[revision] = true
		summary.Injected++
		if revision != set.Revision || set.isResized(&pods[i]) {
			continue
		}
		summary.Updated++
		if pods[i].isRestarting(now) {
			summary.Restarting++
		}
		if remaining, ready := set.untilAvailable(&pods[i], now); ready && remaining <= 0 {
			summary.Available++
		} else {
			recheck = soonest(recheck, remaining)
		}
	}
	summary.PodRevisions = strings.Join(slices.Sorted(maps.Keys(revisions)), ",")
	return summary, recheck
}

// DeploymentProblem is why a Deployment's own rollout does not get on with a set; nil when it does, or has.
func DeploymentProblem(deployment Deployment, summary Summary) *Problem {
	switch {
	case deployment.Stuck:
		return &Problem{v1alpha1.ReasonWorkloadStuck, "its rollout exceeded the Deployment's progressDeadlineSeconds: look at the pods of its newest ReplicaSet"}
	case deployment.Paused && summary.Updated < deployment.Replicas && summary.Rendered == summary.Target:
		return &Problem{v1alpha1.ReasonWorkloadPaused, "its owner paused the Deployment: pods follow the template when it is resumed"}
	}
	return nil
}

// Workload is one set's view of a Deployment.
type Workload struct {
	Namespace, Name string
	UID             types.UID
	// Selected is true when the set selects it and it is not excluded, and Canary when the set's canaries are selected so as well.
	Selected, Canary bool
	// Slip is the revision that it was assigned; empty when none.
	Slip string
	// Carried is true when its template still holds something of the set.
	Carried bool
	// Leaving is true when its template does not, and pods still do.
	Leaving bool
	Deployment
	// Summary is nil until the workload's controller has seen it.
	Summary *Summary
	// Called is true of a workload that awaited its turn, until it has gone on.
	Called bool
	// Refused is what the API server said when it refused a change of the slip last; nil when it did not. Retry is true when it is time to try again.
	Refused *Problem
	Retry   bool
}

// isRefused is true of a workload whose slip can not be changed now.
func (w *Workload) isRefused() bool { return w.Refused != nil && !w.Retry }

func (w *Workload) compare(other *Workload) int {
	return compareNames(w.Namespace, w.Name, other.Namespace, other.Name)
}

// current returns the summary as far as it speaks of the slip as it is.
func (w *Workload) current() Summary {
	if w.Summary == nil {
		return Summary{}
	}
	if w.Summary.Target != w.Slip {
		return Summary{Injected: w.Summary.Injected}
	}
	return *w.Summary
}

// problem is what is wrong in the workload, or else that its slip can not be changed.
func (w *Workload) problem() *Problem {
	if problem := w.current().Problem; problem != nil {
		return problem
	}
	return w.Refused
}

// hasSettled is true when the template holds the revision, every pod has it, and the sidecars are available. Once the workload, or the set, has come to
// its end with this revision, pods that are new or restart do not change that: in a large fleet, some always do. While it is the first that the set
// brings, pods without the set may be left, which are in no cache, until a rollout is over.
func (w *Workload) hasSettled(revision, currentRevision string) bool {
	summary := w.current()
	if summary.Target != revision || !summary.reachesAllPods(&w.Deployment) || (w.Rolling && currentRevision == "") {
		return false
	}
	setCameToEnd := w.Complete && revision == currentRevision && summary.Restarting == 0
	return summary.CameToEnd || !w.Empty && (summary.Available >= w.Replicas || setCameToEnd)
}

// isAtRest is true when nothing more happens in a workload with the revision on its slip, unless people act.
func (w *Workload) isAtRest(set *Set) bool {
	return w.hasSettled(w.Slip, set.Status.CurrentRevision) || w.isAtPartition(set)
}

// isAtPartition is true of a workload that the set's partition keeps as it is. One that rests at another has not seen yet what it is today.
func (w *Workload) isAtPartition(set *Set) bool {
	summary := w.current()
	return summary.Phase == Partitioned && summary.RestsAt == set.Partition
}

// awaitsTurn is true of a workload with the update revision that is at rest, and would go on.
func (w *Workload) awaitsTurn(set *Set) bool {
	return w.Slip == set.UpdateRevision && w.current().Phase == AwaitingTurn
}

// isBusy is true of a workload from the change of its slip until it is at rest or has failed. One that waits for its owner is not busy, so
// that it delays only itself; but one of which a PodDisruptionBudget has let some pods go is.
func (w *Workload) isBusy(set *Set) bool {
	summary := w.current()
	switch {
	case w.Slip == "":
		return (w.Carried || w.Leaving) && !w.Paused && !w.Stuck && !summary.Problem.degrades()
	case summary.Phase == AwaitingTurn:
		return w.Called
	case w.isAtRest(set) || summary.Phase == Withheld:
		return false
	case summary.Phase == Partitioned && (w.Slip != set.UpdateRevision || set.failed()):
		return false // It rests, at whatever partition, until it is its turn to have something else.
	case summary.Problem == nil:
		return true
	case summary.Problem.Reason == v1alpha1.ReasonDisruptionBudget:
		return summary.Updated > 0
	}
	return false
}
