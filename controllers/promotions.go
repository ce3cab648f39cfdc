// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sidecarset/sidecarset/controllers/promotion"
)

const (
	// promotionsAtATime is how many workloads may begin a promotion before one of them is over. The Deployment controller has to see each pause
	// in time, and writes five times for a promotion or more; by default, kube-controller-manager lets it write 20 times a second (--kube-api-qps).
	promotionsAtATime = 20
	// promotionTurn is after how long a workload that waits for its turn asks again, if it is not called before.
	promotionTurn = 10 * time.Second
)

// promotions are those under way, as far as we know: one that is forgotten lets another begin too early, which costs time at most.
type promotions struct {
	atATime  int
	mutex    sync.Mutex
	underWay map[types.NamespacedName]underWay
	// waiting are the workloads whose turn it was not, and call lets one come again.
	waiting []waiter
	call    func(types.NamespacedName)
}

type underWay struct {
	// until is when it is over at the latest.
	until time.Time
	// seen is true when the cache has shown it.
	seen bool
}

// waiter is a workload that waits for its turn, and when it asked last: one that does not ask again has given up.
type waiter struct {
	workload types.NamespacedName
	asked    time.Time
}

func newPromotions(atATime int, call func(types.NamespacedName)) *promotions {
	return &promotions{atATime: atATime, underWay: map[types.NamespacedName]underWay{}, call: call}
}

// begin tells whether it is a workload's turn to begin a promotion. If not, it is called when it is.
func (p *promotions) begin(workload types.NamespacedName, now time.Time) bool {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	others := 0
	for other, known := range p.underWay {
		if other != workload && now.Before(known.until) {
			others++
		}
	}
	place := slices.IndexFunc(p.waiting, func(waiting waiter) bool { return waiting.workload == workload })
	switch {
	case others < p.atATime:
		p.underWay[workload] = underWay{until: now.Add(promotion.Deadline)}
		if place >= 0 {
			p.waiting = slices.Delete(p.waiting, place, place+1)
		}
		return true
	case place >= 0:
		p.waiting[place].asked = now
	default:
		p.waiting = append(p.waiting, waiter{workload, now})
	}
	return false
}

// see takes in what the cache shows of a workload: one that it showed and shows no more is over.
func (p *promotions) see(workload types.NamespacedName, intent *promotion.Intent, now time.Time) {
	if intent == nil {
		p.endIf(workload, now, func(known underWay) bool { return known.seen })
		return
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	until := intent.StartedAt.Add(promotion.Deadline)
	if latest := now.Add(promotion.Deadline); until.After(latest) {
		until = latest // another clock is ahead of ours.
	}
	p.underWay[workload] = underWay{until: until, seen: true}
}

// end is the end of a promotion that came to nothing, or whose Deployment is gone.
func (p *promotions) end(workload types.NamespacedName, now time.Time) {
	p.endIf(workload, now, func(underWay) bool { return true })
}

// endIf ends a promotion, if there is one of which that is true, and calls who waits first.
func (p *promotions) endIf(workload types.NamespacedName, now time.Time, isOver func(underWay) bool) {
	if next, ok := p.endAndNext(workload, now, isOver); ok {
		p.call(next)
	}
}

func (p *promotions) endAndNext(workload types.NamespacedName, now time.Time, isOver func(underWay) bool) (next types.NamespacedName, ok bool) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if known, ok := p.underWay[workload]; !ok || !isOver(known) {
		return next, false
	}
	delete(p.underWay, workload)
	p.waiting = slices.DeleteFunc(p.waiting, func(waiting waiter) bool { return now.Sub(waiting.asked) >= 2*promotionTurn })
	if len(p.waiting) == 0 {
		return next, false
	}
	next, p.waiting = p.waiting[0].workload, p.waiting[1:]
	return next, true
}
