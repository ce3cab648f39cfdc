// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidecarset/sidecarset/controllers/injection"
)

func TestNextRevision(t *testing.T) {
	name := func(content string, collisions int32) string {
		return injection.RevisionName("set", []byte(content), collisions)
	}
	history := []Revision{{Name: name("a", 0), Number: 1, Content: []byte("a")}, {Name: name("b", 0), Number: 2, Content: []byte("b")}}
	taken := append([]Revision{{Name: name("c", 0), Number: 3, Content: []byte("other")}, {Name: name("c", 1), Number: 4, Content: []byte("another")}}, history...)
	for _, test := range []struct {
		name    string
		content string
		history []Revision
		want    Next
	}{
		{"the first", "a", nil, Next{Revision: Revision{Name: name("a", 0), Number: 1, Content: []byte("a")}}},
		{"a new one", "c", history, Next{Revision: Revision{Name: name("c", 0), Number: 3, Content: []byte("c")}}},
		{"the newest again", "b", history, Next{Revision: history[1], Exists: true}},
		{"an older one again", "a", history, Next{Revision: Revision{Name: name("a", 0), Number: 3, Content: []byte("a")}, Exists: true, Renumber: true}},
		{"a hash that others have", "c", taken, Next{Revision: Revision{Name: name("c", 2), Number: 5, Content: []byte("c")}, CollisionCount: 2}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, NextRevision("set", []byte(test.content), test.history, 0)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestPrune(t *testing.T) {
	history := []Revision{{Name: "d", Number: 4}, {Name: "a", Number: 1}, {Name: "c", Number: 3}, {Name: "b", Number: 2}}
	for _, test := range []struct {
		name  string
		inUse map[string]bool
		limit int32
		want  []string
	}{
		{"within the limit", nil, 4, nil},
		{"the oldest first", nil, 2, []string{"a", "b"}},
		{"never what is in use", map[string]bool{"a": true, "d": true}, 1, []string{"b"}},
		{"none to keep", map[string]bool{"d": true}, 0, []string{"a", "b", "c"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var names []string
			for _, revision := range Prune(history, test.inUse, test.limit) {
				names = append(names, revision.Name)
			}
			if diff := cmp.Diff(test.want, names); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
