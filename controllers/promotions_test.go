// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

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
		"it is written":                  {func(p *promotions) { p.see(first, intent, now) }, time.Second, false, false},
		"the cache does not show it yet": {func(p *promotions) { p.see(first, nil, now) }, time.Second, false, false},
		"it is over":                     {func(p *promotions) { p.see(first, intent, now); p.see(first, nil, now) }, time.Second, true, true},
		"it could not be written":        {func(p *promotions) { p.end(first, now) }, time.Second, true, true},
		"it is tried once more":          {func(p *promotions) { p.begin(first, now) }, time.Second, false, false},
		"it has had its time":            {func(*promotions) {}, promotion.Deadline, false, true},
		"another is over":                {func(p *promotions) { p.see(numbered(-1), nil, now) }, time.Second, false, false},
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

// TestPromotionsCallWhoStillWaits calls nobody who has begun since, or has not asked again.
func TestPromotionsCallWhoStillWaits(t *testing.T) {
	start := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	first, other, slow := numbered(0), numbered(1), numbered(2)
	for name, test := range map[string]struct {
		// waiting are in the order in which they came, after the first has begun.
		waiting []types.NamespacedName
		happens func(p *promotions)
		want    []types.NamespacedName
	}{
		"who begins before another that is called": {[]types.NamespacedName{slow, other}, func(p *promotions) {
			p.end(first, start)
			p.begin(other, start)
			p.begin(slow, start)
			p.end(other, start)
		}, []types.NamespacedName{slow, slow}},
		"who does not ask again": {[]types.NamespacedName{other, slow}, func(p *promotions) {
			p.begin(slow, start.Add(promotionTurn))
			p.end(first, start.Add(2*promotionTurn))
		}, []types.NamespacedName{slow}},
	} {
		t.Run(name, func(t *testing.T) {
			var called []types.NamespacedName
			p := newPromotions(1, func(workload types.NamespacedName) { called = append(called, workload) })
			for _, workload := range append([]types.NamespacedName{first}, test.waiting...) {
				p.begin(workload, start)
			}
			test.happens(p)
			if !slices.Equal(called, test.want) {
				t.Errorf("called are %v, want %v", called, test.want)
			}
		})
	}
}

// TestPromotionsCount counts those that a process before this one has begun: the cache shows them. Its clock may have been ahead.
func TestPromotionsCount(t *testing.T) {
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	p := newPromotions(promotionsAtATime, func(types.NamespacedName) {})
	for number := range promotionsAtATime {
		p.see(numbered(number), &promotion.Intent{StartedAt: now.Add(time.Hour)}, now)
	}
	if p.begin(numbered(promotionsAtATime), now) {
		t.Error("one more may begin")
	}
	if !p.begin(numbered(promotionsAtATime), now.Add(promotion.Deadline)) {
		t.Error("none may begin when all have had their time")
	}
}

// TestPromotionWaitsForItsTurn begins promotions while there is room. One that may have been written keeps it.
func TestPromotionWaitsForItsTurn(t *testing.T) {
	deployments := appsv1.Resource("deployments")
	for name, test := range map[string]struct {
		room    int
		refusal error
		// writes are how many of two are sent.
		writes int
	}{
		"no room":      {0, nil, 0},
		"room for one": {1, nil, 1},
		"one that the API server does not answer about, and may have written": {1, context.DeadlineExceeded, 1},
		"one that is not what it was":                                         {1, apierrors.NewConflict(deployments, "web-0", errors.New("of its version")), 1},
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
				if err != nil && !errors.Is(err, test.refusal) {
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

var _ = Describe("A promotion", func() {
	It("gives way to others when the cache, which showed it, shows it no more, and when its Deployment is gone", func(ctx context.Context) {
		w := newWorld(ctx)
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "agent", rolling(`containers: [{name: agent, image: "a:1"}]`))
		w.converge(ctx)
		for _, name := range []string{"web", "gone"} {
			workload := types.NamespacedName{Namespace: w.namespace, Name: name}
			w.deployments.promotions.see(workload, &promotion.Intent{StartedAt: time.Now()}, time.Now())
			Expect(w.deployments.Reconcile(ctx, reconcile.Request{NamespacedName: workload})).To(BeZero())
			Expect(w.deployments.promotions.underWay).NotTo(HaveKey(workload))
		}
	})
})
