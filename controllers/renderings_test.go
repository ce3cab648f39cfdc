// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
)

// TestRenderings renders a workload again exactly when something has changed that its plan follows from.
func TestRenderings(t *testing.T) {
	agent := &injection.Content{Containers: []v1alpha1.SidecarContainer{{Container: corev1.Container{Name: "agent", Image: "agent:1"}}}}
	observe := func(name string, change func(*workloadObservation)) *workloadObservation {
		observed := &workloadObservation{
			workload: injection.Workload{
				Name:     name,
				Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:1"}}}},
				Rendered: map[string]*injection.Content{},
			},
			assigned: []assignedSet{{Set: injection.Set{Key: "agent", Revision: "agent-1", Content: agent}}},
		}
		own(t, observed, `{"f:spec":{}}`)
		change(observed)
		observed.template = injection.TemplateIdentity(observed.workload.Template)
		return observed
	}
	nothing := func(*workloadObservation) {}
	for name, change := range map[string]func(*workloadObservation){
		"the template":                         func(o *workloadObservation) { o.workload.Template.Spec.Containers[0].Image = "web:2" },
		"our fields":                           func(o *workloadObservation) { own(t, o, `{"f:spec":{"f:paused":{}}}`) },
		"a revision that the marks name comes": func(o *workloadObservation) { o.workload.Rendered["agent"] = agent },
		"the revision":                         func(o *workloadObservation) { o.assigned[0].Revision = "agent-2" },
		"the set is held":                      func(o *workloadObservation) { o.assigned[0].Held = true },
		"the set's age":                        func(o *workloadObservation) { o.assigned[0].CreatedAt = time.Unix(1, 0) },
		"the set":                              func(o *workloadObservation) { o.assigned[0].Key = "other" },
		"the set leaves":                       func(o *workloadObservation) { o.assigned[0].standing = leaving },
		"another set comes":                    func(o *workloadObservation) { o.assigned = append(o.assigned, o.assigned[0]) },
	} {
		t.Run(name, func(t *testing.T) {
			r := &deploymentReconciler{renderer: injection.NewRenderer(), renderings: newRenderings()}
			render := func(observed *workloadObservation) *injection.Plan {
				plan, err := r.render(observed)
				if err != nil {
					t.Fatal(err)
				}
				return plan
			}
			first, other := render(observe("shop/cart", nothing)), render(observe("shop/till", nothing))
			if first == other {
				t.Error("two workloads share a plan")
			}
			if render(observe("shop/cart", nothing)) != first {
				t.Error("it is rendered again although nothing has changed")
			}
			if render(observe("shop/cart", change)) == first {
				t.Error("it is not rendered again")
			}
			if render(observe("shop/till", nothing)) != other {
				t.Error("the other workload is rendered again as well")
			}
		})
	}
}

// own makes fields ours, as the API server encodes them.
func own(t *testing.T, observed *workloadObservation, fields string) {
	t.Helper()
	var err error
	observed.workload.Owned, err = injection.OwnershipOf([]metav1.ManagedFieldsEntry{{
		Manager: v1alpha1.FieldManager, Operation: metav1.ManagedFieldsOperationApply, FieldsV1: metav1.NewFieldsV1(fields),
	}})
	if err != nil {
		t.Fatal(err)
	}
}
