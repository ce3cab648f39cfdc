// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/semaphore"
)

// podsInARow is how many pods of a workload are updated before it is the turn of another one's.
const podsInARow = 10

// podSlots limit how many pods are updated at the same time, in all workloads together. Who comes first is served first, and many pods of a
// workload begin one right after the other: what the controllers behind them make of it, such as a status, they make once then, instead of for
// each pod.
type podSlots struct{ free, turn *semaphore.Weighted }

func newPodSlots(count int) *podSlots {
	return &podSlots{free: semaphore.NewWeighted(int64(count)), turn: semaphore.NewWeighted(1)}
}

// one calls update when there is room.
func (s *podSlots) one(ctx context.Context, update func() error) error {
	if err := s.free.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("waiting to update a pod: %w", err)
	}
	defer s.free.Release(1)
	return update()
}

// each calls update for 0 up to count, as many at a time as there is room for, and returns what each call returned. None of the calls stops the
// others; the end of ctx keeps those back that have not begun, which is said once.
func (s *podSlots) each(ctx context.Context, count int, update func(i int) error) []error {
	errs := make([]error, count)
	var underWay sync.WaitGroup
	begin := func(from, to int) error {
		if err := s.turn.Acquire(ctx, 1); err != nil {
			return err
		}
		defer s.turn.Release(1)
		for i := from; i < to; i++ {
			if err := s.free.Acquire(ctx, 1); err != nil {
				return err
			}
			underWay.Go(func() {
				defer s.free.Release(1)
				errs[i] = update(i)
			})
		}
		return nil
	}
	var ended error
	for i := 0; i < count && ended == nil; i += podsInARow {
		ended = begin(i, min(i+podsInARow, count))
	}
	underWay.Wait()
	if ended != nil {
		errs = append(errs, fmt.Errorf("waiting to update pods: %w", ended))
	}
	return errs
}
