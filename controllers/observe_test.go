// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"errors"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

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

// What a set's status says of its update revision is true of no other one on a slip.
func TestOnlyTheUpdateRevisionIsDegraded(t *testing.T) {
	set := &v1alpha1.SidecarSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "agent", Generation: 2}}
	set.Status.CurrentRevision, set.Status.UpdateRevision = "agent-1", "agent-3"
	set.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionDegraded, Reason: v1alpha1.ReasonRolledBack, ObservedGeneration: 2}}
	scheme := runtime.NewScheme()
	if err := errors.Join(v1alpha1.AddToScheme(scheme), appsv1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	observer := &observer{cache: fake.NewClientBuilder().WithScheme(scheme).WithObjects(set).Build()}
	for revision, want := range map[string]string{"agent-1": "", "agent-2": "", "agent-3": v1alpha1.ReasonRolledBack} {
		observed := &workloadObservation{deployment: &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}}, slip: map[string]string{"agent": revision}}
		observed.workload.Template = &observed.deployment.Spec.Template
		if err := observer.addSet(t.Context(), observed, "agent"); err != nil {
			t.Fatal(err)
		}
		if got := observed.assigned[0].degraded; got != want {
			t.Errorf("%s: %q, want %q", revision, got, want)
		}
	}
}

// The controller of PodDisruptionBudgets expects what a rollout is about to delete, when minAvailable is a number.
func TestPodsThatARolloutAddsAreNotExpected(t *testing.T) {
	deployment := func(name, partOf string, replicas, pods int32) *appsv1.Deployment {
		return &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
			Spec: appsv1.DeploymentSpec{Replicas: &replicas, Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"part-of": partOf}},
			}},
			Status: appsv1.DeploymentStatus{Replicas: pods},
		}
	}
	cache := fake.NewClientBuilder().WithObjects(deployment("web", "shop", 3, 4), deployment("cart", "shop", 3, 2), deployment("mail", "post", 3, 6)).Build()
	for name, test := range map[string]struct {
		spec policyv1.PodDisruptionBudgetSpec
		want int32
	}{
		"a number that has to be available":     {policyv1.PodDisruptionBudgetSpec{MinAvailable: new(intstr.FromInt32(5))}, 5},
		"a percentage that has to be available": {policyv1.PodDisruptionBudgetSpec{MinAvailable: new(intstr.FromString("80%"))}, 6},
		"a number that may be unavailable":      {policyv1.PodDisruptionBudgetSpec{MaxUnavailable: new(intstr.FromInt32(1))}, 6},
	} {
		t.Run(name, func(t *testing.T) {
			budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}, Spec: test.spec, Status: policyv1.PodDisruptionBudgetStatus{ExpectedPods: 6}}
			budget.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"part-of": "shop"}}
			if got := (&observer{cache: cache}).expectedPods(t.Context(), budget, 3); got != test.want {
				t.Errorf("expects %d, want %d", got, test.want)
			}
		})
	}
}
