// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"hash/fnv"
	"slices"

	"k8s.io/apimachinery/pkg/util/intstr"
)

// MaxConcurrentWorkloads is a number, or a percentage of the set's workloads, rounded down but at least 1. The default is 10%.
func MaxConcurrentWorkloads(value *intstr.IntOrString, workloads int32) int32 {
	return max(1, scaled(value, workloads, int(workloads)/10, false))
}

// freePlaces is how many more workloads may become busy; it is below zero when new workloads came besides.
func freePlaces(set *Set, workloads []Workload) int32 {
	free := MaxConcurrentWorkloads(set.MaxConcurrentWorkloads, int32(len(workloads)))
	for i := range workloads {
		if workloads[i].isBusy(set) {
			free--
		}
	}
	return free
}

// inOrder returns the workloads in the order in which they are changed: those in which the revision failed, which it can only get better for;
// canaries; then by a hash, which is the same after every restart and another one for every revision, so that not the same teams are always
// the first.
func inOrder(set *Set, workloads []Workload) []Workload {
	type place struct {
		rank int
		hash uint64
	}
	places := map[string]place{}
	for i := range workloads {
		workload := &workloads[i]
		at := place{rank: 2, hash: orderHash(string(workload.UID), set.UpdateRevision)}
		switch {
		case set.failed() && workload.current().Problem.IsFailure():
			at.rank = 0
		case workload.Canary:
			at.rank = 1
		}
		places[workload.Namespace+"/"+workload.Name] = at
	}
	ordered := slices.Clone(workloads)
	slices.SortFunc(ordered, func(a, b Workload) int {
		placeA, placeB := places[a.Namespace+"/"+a.Name], places[b.Namespace+"/"+b.Name]
		switch {
		case placeA.rank != placeB.rank:
			return placeA.rank - placeB.rank
		case placeA.hash < placeB.hash:
			return -1
		case placeA.hash > placeB.hash:
			return 1
		}
		return a.compare(&b)
	})
	return ordered
}

func orderHash(uid, revision string) uint64 {
	hasher := fnv.New64a()
	_, _ = hasher.Write([]byte(uid + "/" + revision)) // a hash takes every write.
	return hasher.Sum64()
}
