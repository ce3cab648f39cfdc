// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
)

func TestAYoungSlipWaitsForItsNeighbours(t *testing.T) {
	written := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	reconciler := &deploymentReconciler{now: func() time.Time { return written.Add(500 * time.Millisecond) }}
	// observe returns a Deployment with sets at revision 1, whose slip names revision 2 of them and was written half a second ago.
	observe := func(keys ...string) (*workloadObservation, *injection.Plan) {
		old, updated := map[string]string{}, map[string]string{}
		observed := &workloadObservation{deployment: &appsv1.Deployment{}}
		for _, key := range keys {
			old[key], updated[key] = key+"-1", key+"-2"
			observed.assigned = append(observed.assigned, assignedSet{Set: injection.Set{Key: key, Revision: updated[key]}, judged: true})
		}
		deployment := observed.deployment
		deployment.Annotations = map[string]string{v1alpha1.TargetRevisionsAnnotation: injection.EncodeRevisions(updated)}
		deployment.Spec.Template.Annotations = map[string]string{v1alpha1.RevisionsAnnotation: injection.EncodeRevisions(old)}
		deployment.ManagedFields = []metav1.ManagedFieldsEntry{{
			Manager: v1alpha1.FieldManager, Operation: metav1.ManagedFieldsOperationUpdate, Time: new(metav1.NewTime(written)),
			FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:annotations":{"f:` + v1alpha1.TargetRevisionsAnnotation + `":{}}}}`),
		}}
		observed.workload.Template = &deployment.Spec.Template
		observed.slip = slipOf(deployment)
		return observed, &injection.Plan{Changed: true, InPlace: true, Revisions: updated}
	}
	one, inPlace := observe("a")
	two, bothInPlace := observe("a", "b")
	unseen, _ := observe("a")
	unseen.deployment.Generation = 1
	unseen.deployment.ManagedFields[0].Time = new(metav1.NewTime(written.Add(-slipSettles)))
	back, _ := observe("a", "b")
	back.assigned[0].judged, back.assigned[1].judged = false, false
	foreign, _ := observe("a")
	foreign.deployment.ManagedFields[0].Manager = "kubectl-rollout"
	copied, _ := observe("a")
	copied.assigned[0].today = true
	copied.deployment.ManagedFields[0].Manager = "kubectl-create"
	cleared, _ := observe("a")
	cleared.assigned[0].today = true
	cleared.deployment.ManagedFields = nil
	for name, test := range map[string]struct {
		observed *workloadObservation
		plan     *injection.Plan
		want     time.Duration
	}{
		"in place, the only set so far":            {one, inPlace, slipSettles - 500*time.Millisecond},
		"in place, one of two sets":                {two, bothInPlace, slipSettles - 500*time.Millisecond},
		"in place, back to what has proven itself": {back, bothInPlace, 0},
		"through the template":                     {one, &injection.Plan{Changed: true, Revisions: inPlace.Revisions}, slipSettles - 500*time.Millisecond},
		"not seen by the Deployment controller":    {unseen, inPlace, slipObserved - slipSettles - 500*time.Millisecond},
		"a slip that a rollback restored":          {foreign, inPlace, slipSettles},
		"a slip that came with a copied manifest":  {copied, inPlace, slipSettles - 500*time.Millisecond},
		"a slip that nobody is known to have made": {cleared, inPlace, 0},
		"a template that is as it has to be":       {one, &injection.Plan{}, 0},
		"a revision that is not there, of one set": {missingRevision(one), &injection.Plan{}, slipSettles - 500*time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			if got := reconciler.tooYoung(test.observed, test.plan); got != test.want {
				t.Errorf("waits %s, want %s", got, test.want)
			}
		})
	}
}

func missingRevision(observed *workloadObservation) *workloadObservation {
	changed := *observed
	changed.assigned = []assignedSet{{Set: observed.assigned[0].Set, standing: missing}}
	return &changed
}
