// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/promotion"
)

// What a promotion is undone to has to be what was there, in the order of the sets' ages: another order would be a rollout.
func TestSetsBeforeAPromotionKeepTheirAge(t *testing.T) {
	older, younger := time.Unix(1, 0), time.Unix(2, 0)
	observed := &workloadObservation{
		intent: &promotion.Intent{From: map[string]string{"zebra": "zebra-1", "ant": "ant-1", "gone": "gone-1"}},
		before: map[string]*injection.Content{"zebra": {}, "ant": {}},
		assigned: []assignedSet{
			{Set: injection.Set{Key: "ant", Revision: "ant-2", CreatedAt: younger}},
			{Set: injection.Set{Key: "zebra", Revision: "zebra-2", CreatedAt: older}},
		},
	}
	want := map[string]injection.Set{
		"ant":   {Key: "ant", Revision: "ant-1", CreatedAt: younger},
		"zebra": {Key: "zebra", Revision: "zebra-1", CreatedAt: older},
	}
	sets := observed.setsBefore()
	if len(sets) != len(want) {
		t.Errorf("%d sets, want %d", len(sets), len(want))
	}
	for _, set := range sets {
		if is := want[set.Key]; set.Revision != is.Revision || !set.CreatedAt.Equal(is.CreatedAt) {
			t.Errorf("%s is at %s, of %s; want %s of %s", set.Key, set.Revision, set.CreatedAt, is.Revision, is.CreatedAt)
		}
	}
}

func TestAContentIsHandedOverAfterAPromotion(t *testing.T) {
	observed := &workloadObservation{
		slip:     map[string]string{"agent": "agent-1"},
		assigned: []assignedSet{{Set: injection.Set{Key: "agent"}, standing: handedOver}},
		intent:   &promotion.Intent{},
	}
	r := &deploymentReconciler{} // without a writer
	if done, _, err := r.settle(t.Context(), observed); done || err != nil {
		t.Errorf("it settles the slip first: %t, %v", done, err)
	}
}

// A promotion that the API server does not let end in one way ends in the other: else the Deployment would stay paused.
func TestAPromotionEndsEitherWay(t *testing.T) {
	content := func(image string) *injection.Content {
		return &injection.Content{Containers: []v1alpha1.SidecarContainer{{Container: corev1.Container{Name: "agent", Image: image}}}}
	}
	finish := func(r *deploymentReconciler, observed *workloadObservation, asIs *injection.Plan) error {
		return r.finishPromotion(t.Context(), observed, asIs, "")
	}
	undo := func(r *deploymentReconciler, observed *workloadObservation, asIs *injection.Plan) error {
		return r.undoPromotion(t.Context(), observed, asIs)
	}
	unreadable := func(o *workloadObservation) { o.intent = &promotion.Intent{} }
	gone := func(o *workloadObservation) { o.before = nil }
	collides := func(o *workloadObservation) { o.workload.Template.Spec.Containers[0].Name = "agent" }
	for name, test := range map[string]struct {
		end     func(*deploymentReconciler, *workloadObservation, *injection.Plan) error
		refused []string
		change  func(*workloadObservation)
		want    []string
		fails   bool
	}{
		"a finish":                              {finish, nil, nil, []string{"agent:2"}, false},
		"a finish that is refused":              {finish, []string{"agent:2"}, nil, []string{"agent:2", "agent:1"}, false},
		"when all is refused":                   {finish, []string{"agent:1", "agent:2"}, nil, []string{"agent:2", "agent:1"}, true},
		"whose intent can not be read":          {finish, []string{"agent:2"}, unreadable, []string{"agent:2"}, true},
		"whose revision from before is gone":    {finish, []string{"agent:2"}, gone, []string{"agent:2"}, true},
		"whose application collides by now":     {finish, []string{"agent:2"}, collides, []string{"agent:2"}, true},
		"an undo":                               {undo, nil, nil, []string{"agent:1"}, false},
		"an undo that is refused":               {undo, []string{"agent:1"}, nil, []string{"agent:1", "agent:2"}, false},
		"an undo when all is refused":           {undo, []string{"agent:1", "agent:2"}, nil, []string{"agent:1", "agent:2"}, true},
		"an undo to a revision that is gone":    {undo, nil, gone, []string{"agent:2"}, false},
		"an undo that can not be read any more": {undo, nil, unreadable, []string{"agent:2"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			observed := &workloadObservation{
				deployment: &appsv1.Deployment{},
				workload:   injection.Workload{Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:1"}}}}},
				intent:     &promotion.Intent{From: map[string]string{"agent": "agent-1"}},
				before:     map[string]*injection.Content{"agent": content("agent:1")},
			}
			own(t, observed, `{"f:spec":{}}`)
			var applied []string
			r := &deploymentReconciler{renderer: injection.NewRenderer(), writer: &writer{client: interceptor.NewClient(nil, interceptor.Funcs{
				Apply: func(_ context.Context, _ client.WithWatch, config runtime.ApplyConfiguration, _ ...client.ApplyOption) error {
					data, err := json.Marshal(config)
					if err != nil {
						return err
					}
					image := "none"
					for _, known := range []string{"agent:1", "agent:2"} {
						if strings.Contains(string(data), known) {
							image = known
						}
					}
					if applied = append(applied, image); slices.Contains(test.refused, image) {
						return apierrors.NewForbidden(appsv1.Resource("deployments"), "web", errors.New("not this one"))
					}
					return nil
				},
			})}}
			asIs, err := r.renderer.Render(observed.workload, []injection.Set{{Key: "agent", Revision: "agent-2", Content: content("agent:2")}})
			if err != nil {
				t.Fatal(err)
			}
			if test.change != nil {
				test.change(observed)
			}
			err = test.end(r, observed, asIs)
			if !slices.Equal(applied, test.want) || (err != nil) != test.fails {
				t.Errorf("applies %v, and fails: %v; want %v, and %t", applied, err, test.want, test.fails)
			}
			result, left := newOutcome(nil).tellRefusal(err)
			if left != nil || (result.recheck == tryAgain) != test.fails {
				t.Errorf("looks again after %s, with error %v", result.recheck, left)
			}
		})
	}
}
