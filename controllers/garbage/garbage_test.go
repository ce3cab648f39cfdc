// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package garbage

import (
	"context"
	"runtime"
	"runtime/metrics"
	"testing"
)

func TestPercentFor(t *testing.T) {
	for live, want := range map[uint64]int{
		0:             Percent,
		1:             2147483547,
		smallHeap / 4: 300,
		smallHeap / 2: 100,
		smallHeap:     Percent,
		1 << 40:       Percent,
	} {
		if got := percentFor(live); got != want {
			t.Errorf("percentFor(%d) = %d, want %d", live, got, want)
		}
	}
}

func TestPacer(t *testing.T) {
	cache := make([]byte, smallHeap)
	if got := paced(t); got != Percent {
		t.Errorf("with a large cache there may be %d percent of garbage, want %d", got, Percent)
	}
	runtime.KeepAlive(cache)
	if got := paced(t); got <= 100 {
		t.Errorf("with a small cache there may be %d percent of garbage, want more", got)
	}
}

// paced is how much garbage there may be, in percent, when the pace was set once.
func paced(t *testing.T) uint64 {
	t.Helper()
	runtime.GC()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (Pacer{}).Start(ctx); err != nil {
		t.Fatal(err)
	}
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
