// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"math"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// DisruptionBudget is what the status of a PodDisruptionBudget says of the pods that it covers, those of other workloads included.
type DisruptionBudget struct {
	UID types.UID
	// Allowed is how many of them may be disrupted, Healthy how many are ready, and Expected how many there are to be.
	Allowed, Healthy, Expected int32
	// Others are the pods of other workloads that updates have made unavailable, of which its status may not know yet.
	Others int32
}

// budget is how many pods of a workload may become unavailable through us now.
type budget struct {
	// unavailable is what maxUnavailable leaves, and disruptions what the PodDisruptionBudgets do.
	unavailable, disruptions int32
	// noDisruption is true when the PodDisruptionBudgets allow none to begin with.
	noDisruption bool
	// recheck is after how long time alone gives a place back; zero when it does not.
	recheck time.Duration
}

// budgetOf computes the budget of a workload. A pod that does not exist, terminates, is not ready, or is about to restart is unavailable,
// whatever the cause. One whose sidecars were updated and are not available yet counts as such, though it may serve.
func budgetOf(update *PodUpdate) budget {
	var available int32
	var recheck time.Duration
	for i := range update.Pods {
		pod := &update.Pods[i]
		untilAvailable, ready := pod.untilAvailable(update.MinReadySeconds, update.Now)
		untilReleased, holds := update.untilReleased(pod)
		if ready && untilAvailable <= 0 && !holds && !pod.Replaced {
			available++
		}
		recheck = soonest(recheck, untilAvailable, untilReleased)
	}
	unavailable := max(0, update.Desired-available)
	disruptions := update.disruptions()
	return budget{
		unavailable: max(0, update.maxUnavailable()-unavailable), disruptions: disruptions, noDisruption: disruptions == 0, recheck: recheck,
	}
}

// take takes what it costs to update a pod, if that is left: one that is available becomes unavailable, one that is ready is disrupted, and any
// other costs nothing.
func (b *budget) take(available, ready bool) bool {
	if (available && b.unavailable == 0) || (ready && b.disruptions == 0) {
		return false
	}
	if available {
		b.unavailable--
	}
	if ready {
		b.disruptions--
	}
	return true
}

// disruptions is how many pods the PodDisruptionBudgets allow to disrupt.
func (u *PodUpdate) disruptions() int32 {
	allowed := int32(math.MaxInt32)
	for i := range u.DisruptionBudgets {
		allowed = min(allowed, u.disruptionsOf(&u.DisruptionBudgets[i]))
	}
	return allowed
}

// disruptionsOf is what a PodDisruptionBudget allows, less what its controller does not know yet: pods of the workload that it takes for healthy
// and that are not. When the budget covers the pods of others as well, those that it takes for healthy can not be told; then every pod
// counts that we updated and that is not ready again, and every one beyond those that there are to be: a rollout is about to delete it.
func (u *PodUpdate) disruptionsOf(disruptionBudget *DisruptionBudget) int32 {
	var healthy int32
	for i := range u.Pods {
		if pod := &u.Pods[i]; !pod.Replaced && pod.isReady(u.Now) {
			healthy++
		}
	}
	unknown := max(0, disruptionBudget.Healthy-healthy)
	if disruptionBudget.Expected > u.Desired {
		unknown = int32(len(u.Disrupted())) + disruptionBudget.Others + max(0, disruptionBudget.Healthy-disruptionBudget.Expected)
	}
	return max(0, disruptionBudget.Allowed-unknown)
}

// Disrupted are the pods that were updated and are not ready again.
func (u *PodUpdate) Disrupted() (pods []*Pod) {
	for i := range u.Pods {
		if pod := &u.Pods[i]; !pod.Replaced && pod.Update != nil && !pod.isReady(u.Now) {
			pods = append(pods, pod)
		}
	}
	return pods
}

// maxUnavailable is the smallest one of the sets that have something to update.
func (u *PodUpdate) maxUnavailable() int32 {
	result := u.Desired
	for i := range u.Sets {
		result = min(result, MaxUnavailable(u.Sets[i].MaxUnavailable, u.Desired))
	}
	return result
}

// MaxUnavailable is a number, or a percentage of the desired replicas, rounded down but at least 1. The default is 1.
func MaxUnavailable(value *intstr.IntOrString, desired int32) int32 {
	return max(1, scaled(value, desired, 1, false))
}

// Partition is a number, or a percentage of the desired replicas, rounded up. The default is 0.
func Partition(value *intstr.IntOrString, desired int32) int32 {
	return min(desired, scaled(value, desired, 0, true))
}

// KeepsPods is true of a partition that keeps pods: a number above 0 keeps one at least, if there is one, and so does a percentage, which is rounded up.
func KeepsPods(partition *intstr.IntOrString) bool { return Partition(partition, 1) > 0 }

func scaled(value *intstr.IntOrString, total int32, byDefault int, roundUp bool) int32 {
	if value == nil {
		return int32(byDefault)
	}
	result, err := intstr.GetScaledValueFromIntOrPercent(value, int(total), roundUp)
	if err != nil {
		return int32(byDefault) // admission and Validate refuse what is neither.
	}
	return int32(result)
}

// soonest returns the shortest of the durations that are above zero, and zero when none is.
func soonest(durations ...time.Duration) time.Duration {
	var result time.Duration
	for _, duration := range durations {
		if duration > 0 && (result == 0 || duration < result) {
			result = duration
		}
	}
	return result
}
