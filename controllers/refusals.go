// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"
	"hash/fnv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sidecarset/sidecarset/controllers/injection"
)

// refusals remembers which templates the API server refused, so that not every event of a workload sends them again. Losing it costs one
// more try.
type refusals struct {
	mutex      sync.Mutex
	byWorkload map[types.NamespacedName]refusal
}

type refusal struct {
	attempt  uint64
	problems map[string]injection.Problem
	until    time.Time
}

func newRefusals() *refusals {
	return &refusals{byWorkload: map[types.NamespacedName]refusal{}}
}

// recall returns the problems of an attempt that was refused, and after how long to try it again; zero when it was not, or is due.
func (r *refusals) recall(workload types.NamespacedName, attempt uint64, now time.Time) (problems map[string]injection.Problem, wait time.Duration) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	last, ok := r.byWorkload[workload]
	if !ok || last.attempt != attempt {
		return nil, 0
	}
	return last.problems, max(0, last.until.Sub(now))
}

func (r *refusals) remember(workload types.NamespacedName, attempt uint64, problems map[string]injection.Problem, now time.Time) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.byWorkload[workload] = refusal{attempt: attempt, problems: problems, until: now.Add(tryAgain)}
}

func (r *refusals) forget(workload types.NamespacedName) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	delete(r.byWorkload, workload)
}

// fingerprint identifies an attempt: the template and what we own of it, and what is to be applied. Which other managers there are is not in
// it: what they let go is seen when the attempt is due again, or when the template changes.
func fingerprint(observed *workloadObservation, plan *injection.Plan) uint64 {
	hasher := fnv.New64a()
	// A hash takes every write, and maps are printed in the order of their keys.
	_, _ = fmt.Fprint(hasher, observed.template, observed.workload.Owned.Fingerprint(), plan.Template)
	return hasher.Sum64()
}
