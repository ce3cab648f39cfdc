// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"bytes"
	"slices"

	"github.com/sidecarset/sidecarset/controllers/injection"
)

// Revision is an entry of a set's history.
type Revision struct {
	Name string
	// Number orders the history; the newest has the highest.
	Number int64
	// Content is canonical, see injection.Content.
	Content []byte
}

// Next is the update revision, and what has to be written to have it.
type Next struct {
	Revision
	// Exists is false when the revision has to be created.
	Exists bool
	// Renumber is true when an older revision is used again and becomes the newest.
	Renumber bool
	// CollisionCount is the set's new collision count.
	CollisionCount int32
}

// NextRevision returns the revision with the given canonical content, an existing one if there is one. Another content that has the same
// hash raises the collision count.
func NextRevision(setName string, content []byte, history []Revision, collisionCount int32) Next {
	var newest int64
	for i := range history {
		newest = max(newest, history[i].Number)
	}
	for i := range history {
		if bytes.Equal(history[i].Content, content) {
			next := Next{Revision: history[i], Exists: true, CollisionCount: collisionCount}
			if history[i].Number < newest {
				next.Number, next.Renumber = newest+1, true
			}
			return next
		}
	}
	name := injection.RevisionName(setName, content, collisionCount)
	for slices.ContainsFunc(history, func(revision Revision) bool { return revision.Name == name }) {
		collisionCount++
		name = injection.RevisionName(setName, content, collisionCount)
	}
	return Next{Revision: Revision{Name: name, Number: newest + 1, Content: content}, CollisionCount: collisionCount}
}

// Prune returns the revisions beyond the limit that nothing uses, the oldest first.
func Prune(history []Revision, inUse map[string]bool, limit int32) []Revision {
	unused := slices.DeleteFunc(slices.Clone(history), func(revision Revision) bool { return inUse[revision.Name] })
	slices.SortFunc(unused, func(a, b Revision) int { return int(a.Number - b.Number) })
	return unused[:max(0, len(unused)-int(limit))]
}
