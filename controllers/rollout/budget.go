// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"time"

	"k8s.io/apimachinery/pkg/util/intstr"
)

// budget is how many pods of a workload may become unavailable through us now.
type budget struct {
	free int32
	// blockedByDisruptionBudget is true when only a PodDisruptionBudget stands in the way.
	blockedByDisruptionBudget bool
}

// budgetOf computes the budget of a workload. A pod that does not exist, terminates, is not ready, or is about to restart is unavailable,
// whatever the cause.
func budgetOf(update *PodUpdate) budget {
	var available, restarting int32
	for i := range update.Pods {
		pod := &update.Pods[i]
		if pod.isAvailable(update.MinReadySeconds, update.Now) {
			available++
		}
		if pod.isRestarting() {
			restarting++
		}
	}
	unavailable := max(0, update.Desired-available)
	free := max(0, update.maxUnavailable()-unavailable)
	if free == 0 || update.DisruptionsAllowed == nil {
		return budget{free: free}
	}
	// What the PodDisruptionBudget allows does not know yet of the pods that are about to restart.
	allowed := max(0, *update.DisruptionsAllowed-restarting)
	return budget{free: min(free, allowed), blockedByDisruptionBudget: allowed == 0}
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
