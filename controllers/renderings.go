// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/utils/lru"

	"github.com/sidecarset/sidecarset/controllers/injection"
)

// renderingsKept is for how many workloads renderings remember: what happens to one workload comes close together, so that those under way are
// among them. One takes some 20 KiB.
const renderingsKept = 256

// renderings remembers what workloads were rendered to last: in an update, much happens to a workload that changes nothing of that. Losing one
// costs rendering it again.
type renderings struct{ byWorkload *lru.Cache }

func newRenderings() *renderings { return &renderings{byWorkload: lru.New(renderingsKept)} }

// rendering is a plan and all that it follows from. Nobody may change it.
type rendering struct {
	from string
	plan *injection.Plan
}

// render renders the sets of a workload, unless nothing that this depends on has changed since the last time.
func (r *deploymentReconciler) render(observed *workloadObservation) (*injection.Plan, error) {
	workload, sets := observed.workload, observed.sets()
	from := renderedFrom(observed.template, workload, sets)
	if last, ok := r.renderings.byWorkload.Get(workload.Name); ok {
		if last, ok := last.(*rendering); ok && last.from == from {
			return last.plan, nil
		}
	}
	plan, err := r.renderer.Render(workload, sets)
	if err != nil {
		return nil, err
	}
	r.renderings.byWorkload.Add(workload.Name, &rendering{from: from, plan: plan})
	return plan, nil
}

// renderedFrom tells apart what workloads of one name are rendered from. A revision's name stands for its content, which never changes.
func renderedFrom(template string, workload injection.Workload, sets []injection.Set) string {
	var from strings.Builder
	known := slices.Sorted(maps.Keys(workload.Rendered)) // the template tells at which revisions
	_, _ = fmt.Fprintf(&from, "%s %q %s", template, known, workload.Owned.Fingerprint())
	for i := range sets {
		set := &sets[i]
		_, _ = fmt.Fprintf(&from, " %q %q %d %t", set.Key, set.Revision, set.CreatedAt.UnixNano(), set.Held)
	}
	return from.String() // whose writes never fail.
}
