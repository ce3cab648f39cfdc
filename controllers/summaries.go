// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"maps"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// summaries holds what the controller of Deployments saw last, for the controller of sets.
type summaries struct {
	mutex      sync.RWMutex
	byWorkload map[types.NamespacedName]map[string]rollout.Summary
	// failed are the workloads in which a set, by its namespace and key, has failed.
	failed map[types.NamespacedName]map[types.NamespacedName]bool
	// changed is told the sets of a namespace, by key, whose summary in some workload is another one.
	changed func(namespace string, keys []string)
}

func newSummaries(changed func(namespace string, keys []string)) *summaries {
	return &summaries{
		byWorkload: map[types.NamespacedName]map[string]rollout.Summary{},
		failed:     map[types.NamespacedName]map[types.NamespacedName]bool{},
		changed:    changed,
	}
}

// put replaces the summaries of a workload; an empty map forgets it.
func (s *summaries) put(workload types.NamespacedName, bySet map[string]rollout.Summary) {
	s.mutex.Lock()
	before := s.byWorkload[workload]
	if len(bySet) == 0 {
		delete(s.byWorkload, workload)
	} else {
		s.byWorkload[workload] = bySet
	}
	s.noteFailures(workload, before, bySet)
	s.mutex.Unlock()

	if keys := changedKeys(before, bySet); len(keys) > 0 {
		s.changed(workload.Namespace, keys)
	}
}

// noteFailures keeps failed up to date. The mutex is held.
func (s *summaries) noteFailures(workload types.NamespacedName, before, after map[string]rollout.Summary) {
	for key := range before {
		set := types.NamespacedName{Namespace: workload.Namespace, Name: key}
		if delete(s.failed[set], workload); len(s.failed[set]) == 0 {
			delete(s.failed, set)
		}
	}
	for key, summary := range after {
		if !summary.Problem.IsFailure() {
			continue
		}
		set := types.NamespacedName{Namespace: workload.Namespace, Name: key}
		if s.failed[set] == nil {
			s.failed[set] = map[types.NamespacedName]bool{}
		}
		s.failed[set][workload] = true
	}
}

// hasFailed is true when a set's revision has failed in some other workload.
func (s *summaries) hasFailed(workload types.NamespacedName, key, revision string) bool {
	s.mutex.RLock()
	defer s.mutex.RUnlock()
	for other := range s.failed[types.NamespacedName{Namespace: workload.Namespace, Name: key}] {
		if other != workload && s.byWorkload[other][key].Target == revision {
			return true
		}
	}
	return false
}

func changedKeys(before, after map[string]rollout.Summary) []string {
	all := maps.Clone(before)
	if all == nil {
		all = map[string]rollout.Summary{}
	}
	maps.Copy(all, after)
	var keys []string
	for key := range all {
		old, had := before[key]
		current, has := after[key]
		if had != has || !old.Equal(current) {
			keys = append(keys, key)
		}
	}
	return keys
}

// has is true of a workload that its controller has seen.
func (s *summaries) has(workload types.NamespacedName) bool {
	s.mutex.RLock()
	defer s.mutex.RUnlock()
	return len(s.byWorkload[workload]) > 0
}

// get returns the summary of a set in a workload; nil when its controller has not seen it.
func (s *summaries) get(workload types.NamespacedName, key string) *rollout.Summary {
	s.mutex.RLock()
	defer s.mutex.RUnlock()
	if summary, ok := s.byWorkload[workload][key]; ok {
		return &summary
	}
	return nil
}
