// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestPodSlotsTakeTurns has two workloads come at the same time, when there is room for one pod. Each pod takes some of the
// bubble's time, for which nobody waits.
func TestPodSlotsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slots := newPodSlots(1)
		var order []string
		var both sync.WaitGroup
		for _, workload := range []string{"a", "b"} {
			both.Go(func() {
				errs := slots.each(t.Context(), 2*podsInARow+1, func(int) error {
					order = append(order, workload)
					time.Sleep(time.Millisecond)
					return nil
				})
				if err := errors.Join(errs...); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		both.Wait()
		row := func(workload string) string { return strings.Repeat(workload, podsInARow) }
		if got, want := strings.Join(order, ""), row("a")+row("b")+row("a")+row("b")+"ab"; got != want {
			t.Errorf("pods are updated in the order\n%s, want\n%s", got, want)
		}
	})
}

// TestPodSlotsAnswerInOrder has the last pod be done first.
func TestPodSlotsAnswerInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count = 3
		errs := newPodSlots(count).each(t.Context(), count, func(i int) error {
			time.Sleep(time.Duration(count-i) * time.Millisecond)
			return fmt.Errorf("pod %d", i)
		})
		for i, err := range errs {
			if want := fmt.Sprintf("pod %d", i); err.Error() != want {
				t.Errorf("the answer of pod %d is %q, want %q", i, err, want)
			}
		}
	})
}

// TestPodSlotsEnd has the time of a reconcile end while it waits: for room, or for its turn.
func TestPodSlotsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slots := newPodSlots(1)
		release := make(chan struct{})
		go func() {
			_ = slots.one(t.Context(), func() error {
				<-release
				return nil
			})
		}()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		never := func() error { return errors.New("updated") }
		results := make(chan []error, 3)
		go func() { results <- []error{slots.one(ctx, never)} }()
		for range 2 { // the first has its turn, and waits for room.
			go func() { results <- slots.each(ctx, 2, func(int) error { return never() }) }()
		}
		synctest.Wait()
		cancel()
		for range cap(results) {
			if errs := <-results; !errors.Is(errors.Join(errs...), context.Canceled) || strings.Contains(fmt.Sprint(errs), "updated") {
				t.Errorf("it ends with %v, want what ended it and nothing else", errs)
			}
		}
		close(release)
		synctest.Wait()
		if err := errors.Join(slots.each(t.Context(), 3, func(int) error { return nil })...); err != nil {
			t.Errorf("afterwards there is no room: %v", err)
		}
	})
}
