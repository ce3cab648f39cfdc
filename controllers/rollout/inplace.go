// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// PodUpdate is what is decided from when the pods of a workload are updated in place.
type PodUpdate struct {
	// Desired is how many pods the Deployment wants, and MinReadySeconds for how long it wants them to be ready.
	Desired         int32
	MinReadySeconds int32
	// GracePeriod is how long a kubelet gives a container to end at most.
	GracePeriod time.Duration
	// Pods are those that are not terminating.
	Pods []Pod
	// Sets are those that may be updated in this workload.
	Sets []SetUpdate
	// RollingOut is true while the Deployment replaces pods. Those that it keeps are updated then when they are unavailable anyway: it may be
	// waiting for them.
	RollingOut bool
	// DisruptionBudgets are those that cover the pods.
	DisruptionBudgets []DisruptionBudget
	// Pulls are the pre-pull pods of the workload.
	Pulls []Pull
	Now   time.Time
}

// PodStep is what to do with the pods of a workload.
type PodStep struct {
	// Updates are the pods to update now.
	Updates []PodPatch
	// Done is true when every pod runs every set's revision and is available with it, and no partition would have pods born at old revisions.
	Done bool
	// Vacant is true when there is no pod, or is to be none, and no partition that would have pods born at old revisions.
	Vacant bool
	// Resting has the keys of the sets that are at rest because of a partition, or because it is not their turn to go on after it was lowered, whatever
	// the others do.
	Resting map[string]Phase
	// BlockedByDisruptionBudget is true when a PodDisruptionBudget alone keeps pods from being updated.
	BlockedByDisruptionBudget bool
	// PrePull is what to do about images that have to be on nodes first.
	PrePull PrePullStep
	// Recheck is after how long time alone makes a pod available; zero when it does not.
	Recheck time.Duration

	partitioned bool            // only partitions keep pods, or those that are to come, at old revisions
	settling    map[string]bool // the keys of the sets that some pod is current with, and not available yet
}

// PodPatch says which sets to update in a pod.
type PodPatch struct {
	Pod  Pod
	Sets []SetUpdate
	// Unavailable is true of a pod that was chosen because it is unavailable anyway: it has to be so still.
	Unavailable bool
}

// Images are the images that a patch brings, by container, of those that change.
func (p *PodPatch) Images() map[string]string {
	images := map[string]string{}
	for i := range p.Sets {
		for _, sidecar := range p.Sets[i].Sidecars {
			if p.Pod.Containers[sidecar.Name].Image != sidecar.Image {
				images[sidecar.Name] = sidecar.Image
			}
		}
	}
	return images
}

// isRepair is true of a patch that only gives a pod the resources of the revisions that it has, and restarts nothing for that: it needs no budget.
func (p *PodPatch) isRepair() bool {
	restarts := func(sidecar corev1.Container) bool {
		return slices.ContainsFunc(sidecar.ResizePolicy, func(policy corev1.ContainerResizePolicy) bool { return policy.RestartPolicy == corev1.RestartContainer })
	}
	return !slices.ContainsFunc(p.Sets, func(set SetUpdate) bool {
		return !set.hasRevision(&p.Pod) || slices.ContainsFunc(set.Sidecars, restarts)
	})
}

// Revisions are the pod's marks after a patch.
func (p *PodPatch) Revisions() map[string]string {
	revisions := maps.Clone(p.Pod.Revisions)
	for i := range p.Sets {
		revisions[p.Sets[i].Key] = p.Sets[i].Revision
	}
	return revisions
}

// Resources are the resources that a patch brings, by container, of those that change.
func (p *PodPatch) Resources() map[string]corev1.ResourceRequirements {
	resources := map[string]corev1.ResourceRequirements{}
	for i := range p.Sets {
		maps.Copy(resources, p.Sets[i].resources(&p.Pod))
	}
	return resources
}

// Resizes is true when a patch changes resources for the sake of a set.
func (p *PodPatch) Resizes(key string) bool {
	return slices.ContainsFunc(p.Sets, func(set SetUpdate) bool { return set.Key == key && len(set.resources(&p.Pod)) > 0 })
}

// Record is what the pod's annotation is to say of a patch. What an earlier update recorded of other sets is kept, so that they are judged
// further on: a container that an update restarted has not crashed.
func (p *PodPatch) Record(now time.Time) InPlaceUpdate {
	record := InPlaceUpdate{
		Revisions: map[string]string{}, StartedAt: now.UTC().Truncate(time.Second),
		Containers: map[string]StartedContainer{}, Restarts: map[string]int32{},
	}
	if earlier := p.Pod.Update; earlier != nil {
		maps.Copy(record.Revisions, earlier.Revisions)
		maps.Copy(record.Restarts, earlier.Restarts)
		for name, before := range earlier.Containers {
			if p.Pod.Containers[name].ID == before.ID { // it has still to restart, or may have
				record.Containers[name] = before
			}
		}
	}
	for name := range p.Images() {
		container := p.Pod.Containers[name]
		record.Containers[name] = StartedContainer{ID: container.ID, Stopped: container.RunningSince.IsZero()}
	}
	for _, key := range p.Pod.Resized {
		if !slices.ContainsFunc(p.Sets, func(set SetUpdate) bool { return set.Key == key }) {
			record.Resized = append(record.Resized, key)
		}
	}
	for i := range p.Sets {
		record.Revisions[p.Sets[i].Key] = p.Sets[i].Revision
		for _, sidecar := range p.Sets[i].Sidecars {
			record.Restarts[sidecar.Name] = p.Pod.Containers[sidecar.Name].Restarts
			if _, restarts := record.Containers[sidecar.Name]; restarts {
				record.Restarts[sidecar.Name]++
			}
		}
	}
	return record
}

// NextPods decides which pods are updated now: unavailable ones first, which cost nothing, then the youngest, as far as the budget allows.
// An old snapshot therefore leads to the same pods again.
func NextPods(update PodUpdate) PodStep {
	update.Sets = update.provenSets()
	pods := slices.Clone(update.Pods)
	slices.SortFunc(pods, update.compare)
	budget := budgetOf(&update)
	left := make([]int32, len(update.Sets))
	for i := range update.Sets {
		left[i] = update.quota(&update.Sets[i])
	}
	pulls := pulls{now: update.Now, existing: update.Pulls, wanted: map[string]map[string]PullImage{}}
	step := PodStep{Done: len(pods) >= int(update.Desired), settling: map[string]bool{}}
	for i := range pods {
		pod := &pods[i]
		behind, allowed := update.behind(pod, left)
		step.count(&update, pod, behind)
		available := pod.isAvailable(update.MinReadySeconds, update.Now)
		if len(allowed) == 0 || update.leavesAlone(pod, available) {
			continue
		}
		if wait, updatable := pod.untilUpdatable(update.Now); !updatable {
			step.Recheck = soonest(step.Recheck, wait)
			continue
		}
		patch := PodPatch{Pod: *pod, Unavailable: !available, Sets: update.claim(pod, allowed, left)}
		if !pulls.admits(&patch) {
			continue
		}
		if !patch.isRepair() && !budget.take(available, pod.isReady(update.Now)) {
			step.BlockedByDisruptionBudget = budget.noDisruption && (budget.unavailable > 0 || !available)
			step.Recheck = soonest(step.Recheck, budget.recheck)
			continue
		}
		step.Updates = append(step.Updates, patch)
	}
	step.PrePull = pulls.step()
	step.Recheck = soonest(step.Recheck, step.PrePull.Recheck)
	step.conclude(&update, len(pods))
	step.Resting = step.resting(&update)
	if step.awaitsTurn() && len(step.PrePull.Create) == 0 {
		step.PrePull.Delete = nil // what was pulled before the operator restarted is of use when it is the workload's turn
	}
	return step
}

// conclude tells what a step over so many pods comes to.
func (s *PodStep) conclude(update *PodUpdate, pods int) {
	if pods == 0 || update.Desired == 0 {
		s.partitioned = update.keepsNewPodsOld()
		s.Vacant, s.Done = !s.partitioned, s.Done && !s.partitioned
		return
	}
	if s.Done && update.keepsNewPodsOld() { // the template has to wait: a partition that was raised, or pods that scaling down took
		s.Done, s.partitioned = false, true
		return
	}
	s.partitioned = s.partitioned && len(s.Updates) == 0 && update.onlyPartitioned()
}

// resting are the sets with which no more happens because of partitions, by key.
func (s *PodStep) resting(update *PodUpdate) map[string]Phase {
	phases := map[string]Phase{}
	for i := range update.Sets {
		set := &update.Sets[i]
		isUpdated := slices.ContainsFunc(s.Updates, func(patch PodPatch) bool {
			return slices.ContainsFunc(patch.Sets, func(updated SetUpdate) bool { return updated.Key == set.Key })
		})
		isBehind := set.IsBehind(update.Pods, update.Now)
		isKept := (KeepsPods(set.Partition) || set.AwaitsTurn) && isBehind && !update.letsGo(set)
		switch {
		case s.settling[set.Key] || isUpdated || !s.partitioned && !isKept:
		case set.AwaitsTurn && isBehind && update.beyondPartition(set) > 0:
			phases[set.Key] = AwaitingTurn
		default:
			phases[set.Key] = Partitioned
		}
	}
	return phases
}

// awaitsTurn is true when it is another workload's turn to go on with some set.
func (s *PodStep) awaitsTurn() bool {
	return slices.Contains(slices.Collect(maps.Values(s.Resting)), AwaitingTurn)
}

// leavesAlone is true of a pod that the Deployment's rollout replaces, or that it may be counting on.
func (u *PodUpdate) leavesAlone(pod *Pod, available bool) bool {
	return pod.Replaced || u.RollingOut && available
}

// provenSets are the sets, of which those are not unproven any more that some pod has proven.
func (u *PodUpdate) provenSets() []SetUpdate {
	sets := slices.Clone(u.Sets)
	for i := range sets {
		set := &sets[i]
		set.Unproven = set.Unproven && !slices.ContainsFunc(u.Pods, func(pod Pod) bool { return set.isProvenBy(&pod, u.Now) })
	}
	return sets
}

// keepsNewPodsOld is true when pods that are to come are born at an old revision, because of a partition.
func (u *PodUpdate) keepsNewPodsOld() bool {
	return slices.ContainsFunc(u.Sets, func(set SetUpdate) bool { return KeepsPods(set.Partition) })
}

// count takes a pod into account that is behind with so many sets.
func (s *PodStep) count(update *PodUpdate, pod *Pod, behind int) {
	if behind > 0 || pod.isRestarting(update.Now) {
		s.Done = false
	}
	s.partitioned = s.partitioned || behind > 0
	for i := range update.Sets {
		set := &update.Sets[i]
		if !set.isCurrent(pod) {
			s.Recheck = soonest(s.Recheck, set.untilLacked(pod, update.Now))
			continue
		}
		if remaining, available := set.untilAvailable(pod, update.Now); !available || remaining > 0 {
			s.Done, s.settling[set.Key] = false, true
			s.Recheck = soonest(s.Recheck, remaining)
		}
	}
}

// compare orders pods: unavailable ones first, then the youngest, then by name.
func (u *PodUpdate) compare(a, b Pod) int {
	availableA, availableB := a.isAvailable(u.MinReadySeconds, u.Now), b.isAvailable(u.MinReadySeconds, u.Now)
	switch {
	case availableA != availableB && !availableA:
		return -1
	case availableA != availableB:
		return 1
	case !a.CreatedAt.Equal(b.CreatedAt):
		return b.CreatedAt.Compare(a.CreatedAt)
	}
	return strings.Compare(a.Name, b.Name)
}

// quota is how many more pods of a set may be updated now before its partition keeps the rest.
func (u *PodUpdate) quota(set *SetUpdate) int32 {
	if set.AwaitsTurn {
		return 0
	}
	return u.beyondPartition(set)
}

// beyondPartition is how many more pods of a set may be updated before its partition keeps the rest, when it is its turn.
func (u *PodUpdate) beyondPartition(set *SetUpdate) int32 {
	quota := u.Desired - Partition(set.Partition, u.Desired)
	for i := range u.Pods {
		if set.hasRevision(&u.Pods[i]) {
			quota--
		}
	}
	return max(0, quota)
}

// behind counts the sets that a pod is behind with, and returns the indexes of those whose partition lets it be updated.
func (u *PodUpdate) behind(pod *Pod, left []int32) (count int, allowed []int) {
	for i := range u.Sets {
		set := &u.Sets[i]
		if !set.isLacked(pod, u.Now) {
			continue
		}
		count++
		if left[i] > 0 || set.hasRevision(pod) || (set.Kept != nil && set.Kept.isLacked(pod, u.Now)) {
			allowed = append(allowed, i)
		}
	}
	return count, allowed
}

// claim takes a place in the quota of each of these sets, for a pod that is their next one and has not taken it yet, and returns them. A pod that is
// to go back with some of them does so first, and alone: what the API server refuses then is that.
func (u *PodUpdate) claim(pod *Pod, allowed []int, left []int32) (sets []SetUpdate) {
	for _, i := range allowed {
		if left[i] <= 0 && !u.Sets[i].hasRevision(pod) {
			sets = append(sets, *u.Sets[i].Kept)
		}
	}
	if len(sets) > 0 {
		return sets
	}
	for _, i := range allowed {
		if !u.Sets[i].hasRevision(pod) {
			left[i]--
		}
		sets = append(sets, u.Sets[i])
	}
	return sets
}

// untilReleased tells whether a pod that was updated in place holds its place, because the sidecars of that update are not available yet, and
// after how long they are without any event.
func (u *PodUpdate) untilReleased(pod *Pod) (remaining time.Duration, holds bool) {
	for i := range u.Sets {
		set := &u.Sets[i]
		if !set.isUpdateOf(pod) {
			set = set.Kept
		}
		if set == nil || !set.isUpdateOf(pod) {
			continue
		}
		wait, ready := set.untilAvailable(pod, u.Now)
		holds = holds || !ready || wait > 0
		remaining = max(remaining, wait)
	}
	return remaining, holds
}

// startsUp is how long a sidecar that runs is given to become ready before a rollout that brought it is not waited for any longer.
const startsUp = 30 * time.Second

// UntilHopeless tells whether a rollout that brought these pods does not end by waiting, because a sidecar can not be started or does not become
// ready, and otherwise after how long that is so if nothing happens; zero when it is not.
func (u *PodUpdate) UntilHopeless() (wait time.Duration, hopeless bool) {
	for i := range u.Pods {
		for j := range u.Sets {
			for _, sidecar := range u.Sets[j].Sidecars {
				container := u.Pods[i].Containers[sidecar.Name]
				if container.RunningSince.IsZero() || !container.AvailableSince.IsZero() {
					hopeless = hopeless || container.Failing != nil
					continue
				}
				remaining := container.RunningSince.Add(startsUp).Sub(u.Now)
				wait, hopeless = soonest(wait, remaining), hopeless || remaining <= 0
			}
		}
	}
	return wait, hopeless
}

// onlyPartitioned is true when no set has pods left that its partition would let go.
func (u *PodUpdate) onlyPartitioned() bool {
	return !slices.ContainsFunc(u.Sets, func(set SetUpdate) bool { return u.letsGo(&set) })
}

// letsGo is true when a set's partition lets some pod have what it lacks.
func (u *PodUpdate) letsGo(set *SetUpdate) bool {
	isLeft := u.quota(set) > 0
	return slices.ContainsFunc(u.Pods, func(pod Pod) bool { return set.isLacked(&pod, u.Now) && (isLeft || set.hasRevision(&pod)) })
}
