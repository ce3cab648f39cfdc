// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/promotion"
)

func numbered(number int) types.NamespacedName {
	return types.NamespacedName{Namespace: "shop", Name: fmt.Sprintf("web-%d", number)}
}

// TestPromotionsTakeTurns begins as many promotions as there may be, has others wait, and looks at who is called when one of the first is over.
func TestPromotionsTakeTurns(t *testing.T) {
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	first, waits, waitsToo := numbered(0), numbered(promotionsAtATime), numbered(promotionsAtATime+1)
	intent := &promotion.Intent{StartedAt: now}
	for name, test := range map[string]struct {
		// what happens to the first, and after how long.
		happens func(p *promotions)
		after   time.Duration
		// whether somebody is called, and whether who waits may begin then.
		called, mayBegin bool
	}{
		"nothing":                        {func(*promotions) {}, time.Second, false, false},
		"it is written":                  {func(p *promotions) { p.see(first, intent) }, time.Second, false, false},
		"the cache does not show it yet": {func(p *promotions) { p.see(first, nil) }, time.Second, false, false},
		"it is over":                     {func(p *promotions) { p.see(first, intent); p.see(first, nil) }, time.Second, true, true},
		"it could not be written":        {func(p *promotions) { p.end(first) }, time.Second, true, true},
		"it is tried once more":          {func(p *promotions) { p.begin(first, now) }, time.Second, false, false},
		"it has had its time":            {func(*promotions) {}, promotion.Deadline, false, true},
		"another is over":                {func(p *promotions) { p.see(numbered(-1), nil) }, time.Second, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			var called []types.NamespacedName
			p := newPromotions(promotionsAtATime, func(workload types.NamespacedName) { called = append(called, workload) })
			for number := range promotionsAtATime {
				if !p.begin(numbered(number), now) {
					t.Fatalf("promotion %d of %d may not begin", number+1, promotionsAtATime)
				}
			}
			for range 2 {
				if p.begin(waits, now) || p.begin(waitsToo, now) {
					t.Fatal("more may begin")
				}
			}
			test.happens(p)
			var want []types.NamespacedName
			if test.called {
				want = append(want, waits)
			}
			if !slices.Equal(called, want) {
				t.Errorf("called are %v, want %v", called, want)
			}
			if got := p.begin(waits, now.Add(test.after)); got != test.mayBegin {
				t.Errorf("who waits may begin: %t, want %t", got, test.mayBegin)
			}
		})
	}
}

// TestPromotionsCount counts those that a process before this one has begun: the cache shows them.
func TestPromotionsCount(t *testing.T) {
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	p := newPromotions(promotionsAtATime, func(types.NamespacedName) {})
	for number := range promotionsAtATime {
		p.see(numbered(number), &promotion.Intent{StartedAt: now})
	}
	if p.begin(numbered(promotionsAtATime), now) {
		t.Error("one more may begin")
	}
}

// TestPromotionWaitsForItsTurn begins promotions while there is room, and gives it back when one can not be written.
func TestPromotionWaitsForItsTurn(t *testing.T) {
	for name, test := range map[string]struct {
		room    int
		refusal error
		// writes are how many of two are sent.
		writes int
	}{
		"no room":                 {0, nil, 0},
		"room for one":            {1, nil, 1},
		"one that is not written": {1, context.DeadlineExceeded, 2},
	} {
		t.Run(name, func(t *testing.T) {
			nothing, err := injection.OwnershipOf(nil)
			if err != nil {
				t.Fatal(err)
			}
			writes := 0
			r := &deploymentReconciler{
				now: time.Now, refusals: newRefusals(), promotions: newPromotions(test.room, func(types.NamespacedName) {}),
				writer: &writer{client: interceptor.NewClient(nil, interceptor.Funcs{
					Apply: func(context.Context, client.WithWatch, runtime.ApplyConfiguration, ...client.ApplyOption) error {
						writes++
						return test.refusal
					},
				})},
			}
			for number := range 2 {
				observed := &workloadObservation{
					deployment: &appsv1.Deployment{
						ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: numbered(number).Name},
						Spec:       appsv1.DeploymentSpec{Replicas: new(int32(1))},
					},
					workload:    injection.Workload{Template: &corev1.PodTemplateSpec{}, Owned: nothing},
					replicaSets: []appsv1.ReplicaSet{{Spec: appsv1.ReplicaSetSpec{Replicas: new(int32(1))}}},
				}
				before := writes
				result, err := r.beginPromotion(t.Context(), observed, &injection.Plan{}, newOutcome(nil))
				if test.refusal == nil && err != nil {
					t.Fatal(err)
				}
				if waits := writes == before; waits != (result.recheck == promotionTurn) {
					t.Errorf("workload %d waits: %t, and comes again after %s", number, waits, result.recheck)
				}
			}
			if writes != test.writes {
				t.Errorf("%d of two are written, want %d", writes, test.writes)
			}
		})
	}
}
