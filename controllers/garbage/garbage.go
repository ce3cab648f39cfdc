// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

// Package garbage paces the garbage collector of a process whose memory is mostly a cache.
package garbage

import (
	"context"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/manager"
)

const (
	// Percent is how much garbage there may be, in percent of what is in use, before it is collected. What is in use is the cache, which grows
	// with the number of objects: Go's default, 100, would have each of them take its memory twice.
	Percent = 50
	// smallHeap is about how large the heap may get in any case, in bytes, so that a small cache is not collected all the time: with the
	// rest of the process, it is about what the manifest requests (config/manager/manager.yaml).
	smallHeap = 48 << 20
	// interval is how often the pace is set.
	interval = time.Second
)

// Pacer sets the pace of the garbage collector. It is to begin when the caches are there: while they are filled, what was in use a moment ago
// says little about what will be.
type Pacer struct{}

var _ manager.LeaderElectionRunnable = Pacer{}

// NeedLeaderElection is false: replicas that wait to lead have caches as well.
func (Pacer) NeedLeaderElection() bool { return false }

// Start sets the pace until ctx is done.
func (Pacer) Start(ctx context.Context) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		debug.SetGCPercent(percentFor(live()))
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// live is the size of what was in use at the last collection, in bytes.
func live() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// percentFor is what lets the heap grow to smallHeap, or until Percent is garbage if that is more (runtime/debug.SetGCPercent, which
// counts a percentage of stacks and globals as well).
func percentFor(live uint64) int {
	if live == 0 { // nothing was collected yet.
		return Percent
	}
	return max(Percent, int(min(100*smallHeap/live, math.MaxInt32))-100)
}
