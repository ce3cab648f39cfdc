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
	waiting []types.NamespacedName
	call    func(types.NamespacedName)
}

type underWay struct {
	// until is when it is over at the latest.
	until time.Time
	// seen is true when the cache has shown it.
	seen bool
}

func newPromotions(atATime int, call func(types.NamespacedName)) *promotions {
	return &promotions{atATime: atATime, underWay: map[types.NamespacedName]underWay{}, call: call}
}

// begin tells whether it is a workload's turn to begin a promotion. If not, it is called when it is.
func (p *promotions) begin(workload types.NamespacedName, now time.Time) bool {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	others := 0
	for other, promotion := range p.underWay {
		if other != workload && now.Before(promotion.until) {
			others++
		}
	}
	if others >= p.atATime {
		if !slices.Contains(p.waiting, workload) {
			p.waiting = append(p.waiting, workload)
		}
		return false
	}
	p.underWay[workload] = underWay{until: now.Add(promotion.Deadline)}
	return true
}

// see takes in what the cache shows of a workload: one that it showed and shows no more is over.
func (p *promotions) see(workload types.NamespacedName, intent *promotion.Intent) {
	if intent == nil {
		p.endIf(workload, func(known underWay) bool { return known.seen })
		return
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.underWay[workload] = underWay{until: intent.StartedAt.Add(promotion.Deadline), seen: true}
}

// end is the end of a promotion that came to nothing.
func (p *promotions) end(workload types.NamespacedName) {
	p.endIf(workload, func(underWay) bool { return true })
}

// endIf ends a promotion, if there is one of which that is true, and calls who waits first.
func (p *promotions) endIf(workload types.NamespacedName, isOver func(underWay) bool) {
	p.mutex.Lock()
	known, ok := p.underWay[workload]
	if !ok || !isOver(known) {
		p.mutex.Unlock()
		return
	}
	delete(p.underWay, workload)
	next := p.waiting[:min(len(p.waiting), 1)]
	p.waiting = p.waiting[len(next):]
	p.mutex.Unlock()
	for _, workload := range next {
		p.call(workload)
	}
}
