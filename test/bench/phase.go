// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

// phase is a stretch of time, and what was written and computed in it.
type phase struct {
	start  time.Time
	writes []localcluster.Write
	usage  []usage
	// operator is the name of the operator's program.
	operator string
}

// step is something to observe.
type step struct {
	what string
	// act begins it. When it returns, the step may go on without us.
	act func(ctx context.Context) error
	// met is cheap and asked all the time; verify looks closely, when nobody has written for a while.
	met, verify condition
	// rest is for how long nothing happens before it.
	rest time.Duration
}

// observe does a step, and watches until it is met, nobody writes any more, and it stands up to a close look.
func (b *bench) observe(ctx context.Context, s step) (*phase, error) {
	if err := b.settle(ctx, s.rest); err != nil {
		return nil, err
	}
	if _, err := b.requests.Next(); err != nil {
		return nil, err
	}
	b.say("%s", s.what)
	p := &phase{start: time.Now(), operator: filepath.Base(b.options.operator)}
	stop := p.watchUsage(ctx, b.cluster)
	defer func() { _ = stop() }() // a second time it does nothing, and what it says was asked for then
	if err := s.act(ctx); err != nil {
		return nil, err
	}
	err := b.await(ctx, s.what, func(ctx context.Context) (string, bool, error) {
		isQuiet, err := p.collect(b.requests)
		if err != nil {
			return "", false, err
		}
		progress, done, err := s.met(ctx)
		if err != nil || !done || !isQuiet {
			return progress, false, err
		}
		return s.verify(ctx)
	})
	if err != nil {
		return nil, err
	}
	return p, stop()
}

// settle lets the machine rest, and has the API server collect its garbage, which it does two or three times in a wave. What the phase before has
// left behind would else make a difference of more than a tenth.
func (b *bench) settle(ctx context.Context, rest time.Duration) error {
	select {
	case <-ctx.Done():
	case <-time.After(rest):
	}
	if err := b.server.Get().AbsPath("/debug/pprof/heap").Param("gc", "1").Do(ctx).Error(); err != nil {
		return fmt.Errorf("having the API server collect its garbage: %w", err)
	}
	return nil
}

// collect reads on in the audit log. isQuiet is true when the fleet's namespace has not been written to lately.
func (p *phase) collect(requests *localcluster.WriteReader) (isQuiet bool, err error) {
	more, err := requests.Next()
	if err != nil {
		return false, err
	}
	for i := range more {
		if more[i].Object.Namespace == namespace {
			p.writes = append(p.writes, more[i])
		}
	}
	last := p.start
	if len(p.writes) > 0 {
		last = p.writes[len(p.writes)-1].CompletedAt
	}
	return time.Since(last) > quiet, nil
}

// watchUsage notes now and then how much processor time everybody has had. The returned function ends that; it may be called again.
func (p *phase) watchUsage(ctx context.Context, cluster *localcluster.Cluster) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	var failure error
	go func() {
		defer close(done)
		ticker := time.NewTicker(usageInterval)
		defer ticker.Stop()
		for ctx.Err() == nil {
			now, err := measureUsage(cluster)
			if err != nil {
				failure = err
				return
			}
			p.usage = append(p.usage, now)
			select {
			case <-ctx.Done():
			case <-ticker.C:
			}
		}
	}()
	return func() error {
		cancel()
		<-done
		return failure
	}
}
