// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"testing"
	"time"

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
	if done, err := r.settleSlip(t.Context(), observed); done || err != nil {
		t.Errorf("it settles the slip first: %t, %v", done, err)
	}
}
