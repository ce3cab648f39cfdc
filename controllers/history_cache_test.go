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
	// slow is the watch that is slower than the others at the moment.
	slow kind
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

// hasSeenAll is true when the cache shows all objects of a kind as they are.
func (l *lagging) hasSeenAll(kind kind) bool { return l.seen[kind] == len(l.server.changes[kind]) }

// latest is a kind of which something that happened so long ago has not been seen; empty when there is none.
func (l *lagging) latest(by time.Duration) kind {
	for _, kind := range allKinds {
		seen, watched := l.seen[kind]
		if changes := l.server.changes[kind]; watched && seen < len(changes) && l.server.now.Sub(changes[seen].at) > by {
			return kind
		}
	}
	return ""
}

// hurry sees all that happened so long ago.
func (l *lagging) hurry(by time.Duration) {
	for kind := l.latest(by); kind != ""; kind = l.latest(by) {
		l.seeNext(kind)
	}
}

func (l *lagging) seeNext(kind kind) {
	next := l.server.changes[kind][l.seen[kind]]
	l.seen[kind]++
	l.take(kind, next)
}

// step sees the next change of a kind, any of those that are behind; seldom of the slow one, which is another one from time to time.
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
	if random.IntN(10) == 0 {
		l.slow = late[random.IntN(len(late))]
	}
	kind := late[random.IntN(len(late))]
	if kind == l.slow && random.IntN(8) > 0 {
		return false
	}
	l.seeNext(kind)
	return true
}

// catchUp sees everything.
func (l *lagging) catchUp() {
	for _, kind := range allKinds {
		for seen, watched := l.seen[kind]; watched && seen < len(l.server.changes[kind]); seen = l.seen[kind] {
			l.seeNext(kind)
		}
	}
}
