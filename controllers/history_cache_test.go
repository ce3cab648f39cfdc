// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"math/rand/v2"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// lagging is what a process has seen of the API server: each kind comes by a watch of its own, in order, and late.
type lagging struct {
	server  *apiServer
	objects map[kind]map[string]client.Object
	seen    map[kind]int
	// see, when there is one, is told what came, and keeps it.
	see func(kind kind, change change)
}

// newLagging has seen nothing yet.
func newLagging(server *apiServer, see func(kind kind, change change), kinds ...kind) *lagging {
	cache := &lagging{server: server, objects: map[kind]map[string]client.Object{}, seen: map[kind]int{}, see: see}
	for _, kind := range kinds {
		cache.objects[kind] = map[string]client.Object{}
	}
	return cache
}

// list sees everything as it is, as a process does when it starts.
func (l *lagging) list() {
	for _, kind := range allKinds {
		if l.objects[kind] == nil {
			continue
		}
		l.seen[kind] = len(l.server.changes[kind])
		for _, object := range sorted[client.Object](l.server.objects[kind]) {
			l.take(kind, change{after: object})
		}
	}
}

func (l *lagging) take(kind kind, next change) {
	switch {
	case l.see != nil:
		l.see(kind, next)
	case next.after == nil:
		delete(l.objects[kind], next.before.GetName())
	default:
		l.objects[kind][next.after.GetName()] = next.after
	}
}

// behind is how many changes the cache has not seen.
func (l *lagging) behind() int {
	behind := 0
	for kind, seen := range l.seen {
		behind += len(l.server.changes[kind]) - seen
	}
	return behind
}

// isLate is true when something that happened so long ago has not been seen.
func (l *lagging) isLate(by time.Duration) bool {
	for kind, seen := range l.seen {
		if changes := l.server.changes[kind]; seen < len(changes) && l.server.now.Sub(changes[seen].at) > by {
			return true
		}
	}
	return false
}

// step sees the next change of a kind, any of those that are behind.
func (l *lagging) step(random *rand.Rand) bool {
	var late []kind
	for _, kind := range allKinds {
		if seen, watched := l.seen[kind]; watched && seen < len(l.server.changes[kind]) {
			late = append(late, kind)
		}
	}
	if len(late) == 0 {
		return false
	}
	kind := late[random.IntN(len(late))]
	next := l.server.changes[kind][l.seen[kind]]
	l.seen[kind]++
	l.take(kind, next)
	return true
}

// catchUp sees everything.
func (l *lagging) catchUp() {
	for _, kind := range allKinds {
		for seen, watched := l.seen[kind]; watched && seen < len(l.server.changes[kind]); seen = l.seen[kind] {
			l.seen[kind]++
			l.take(kind, l.server.changes[kind][seen])
		}
	}
}
