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

func TestADeploymentIsNewUntilItsControllerHasSeenIt(t *testing.T) {
	for seen, want := range map[int64]bool{0: true, 1: false, 2: false} {
		deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Generation: 2}, Status: appsv1.DeploymentStatus{ObservedGeneration: seen}}
		if got := rolloutOf(deployment); got.New != want || got.Observed != (seen == 2) {
			t.Errorf("generation %d was seen: new %t, observed %t", seen, got.New, got.Observed)
		}
	}
}

// The cache has to tell when somebody else wrote an order slip.
func TestTheCacheKeepsWhoWroteTheSlip(t *testing.T) {
	written := metav1.NewTime(time.Unix(100, 0))
	slip := metav1.ManagedFieldsEntry{
		Manager: "kubectl-create", Operation: metav1.ManagedFieldsOperationUpdate, Time: &written,
		FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:annotations":{"f:` + v1alpha1.TargetRevisionsAnnotation + `":{}}}}`),
	}
	other := fieldsOf("kubectl", `{"f:spec":{"f:paused":{}}}`)
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{other, slip}}}
	if _, err := stripDeployment(deployment); err != nil {
		t.Fatal(err)
	}
	if at, byUs := slipWritten(deployment); !at.Equal(written.Time) || byUs {
		t.Errorf("written at %s, by us: %t", at, byUs)
	}
	if len(deployment.ManagedFields) != 1 {
		t.Errorf("%d entries are kept, want 1", len(deployment.ManagedFields))
	}
}

// Only what the template lacks can be kept out of it by a partition.
func TestAnUpdateKnowsWhatTheTemplateHas(t *testing.T) {
	observed := unseenWorkload(2, false) // its template has agent-1
	for revision, want := range map[string]bool{"agent-1": true, "agent-2": false} {
		observed.assigned[0].Revision = revision
		update := observed.podUpdate(&injection.Plan{Revisions: map[string]string{"agent": revision}})
		if len(update.Sets) != 1 || update.Sets[0].Templated != want {
			t.Errorf("%s: %+v", revision, update.Sets)
		}
	}
}
