// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCollisionsLeaveTheLoserOut(t *testing.T) {
	const other = `{containers: [{name: other, image: "o:1"}], volumes: [{name: v, emptyDir: {}, appMounts: [{mountPath: /v, containers: [web]}]}], podMetadata: {labels: {team: p}}}`
	for _, test := range []struct {
		name  string
		older string // a set that is there first; none when empty
		loser string
		want  Problem
	}{
		{
			"container against the application's", "", `containers: [{name: web, image: "x:1"}]`,
			Problem{"NameConflict", `container "web" is the application's own`},
		},
		{
			"container against the application's init container", "", `containers: [{name: migrate, image: "x:1"}]`,
			Problem{"NameConflict", `container "migrate" is the application's own`},
		},
		{
			"init container against the application's container", "", `initContainers: [{name: cache, image: "x:1"}]`,
			Problem{"NameConflict", `container "cache" is the application's own`},
		},
		{
			"volume against the application's", "", `volumes: [{name: data, emptyDir: {}}]`,
			Problem{"NameConflict", `volume "data" is the application's own`},
		},
		{
			"mount against the application's", "", `volumes: [{name: v, emptyDir: {}, appMounts: [{mountPath: /data/}]}]`,
			Problem{"MountConflict", `the application mounts its volume "data" at "/data/" of container "web"`},
		},
		{
			"label against the application's", "", `{containers: [{name: a, image: "a:1"}], podMetadata: {labels: {app: x}}}`,
			Problem{"FieldConflict", `label "app" of the pod template is set to "web" by the application`},
		},
		{
			"container against an older set's", other, `containers: [{name: other, image: "x:1"}]`,
			Problem{"NameConflict", `container "other" is rendered by SidecarSet older, which goes before`},
		},
		{
			"native sidecar against an older set's container", other, `initContainers: [{name: other, image: "x:1", restartPolicy: Always}]`,
			Problem{"NameConflict", `container "other" is rendered by SidecarSet older, which goes before`},
		},
		{
			"volume against an older set's", other, `volumes: [{name: v, emptyDir: {}}]`,
			Problem{"NameConflict", `volume "v" is rendered by SidecarSet older, which goes before`},
		},
		{
			"mount against an older set's", other, `volumes: [{name: w, emptyDir: {}, appMounts: [{mountPath: /v}]}]`,
			Problem{"MountConflict", `SidecarSet older, which goes before, mounts at "/v" of container "web"`},
		},
		{
			"label against an older set's", other, `{containers: [{name: a, image: "a:1"}], podMetadata: {labels: {team: q}}}`,
			Problem{"FieldConflict", `label "team" of the pod template is set to "p" by SidecarSet older`},
		},
		{
			"inherit from a container that is not there", "", `containers: [{name: a, image: "a:1", inherit: {from: nginx}}]`,
			Problem{"PreflightFailed", `container "a" inherits from container "nginx", which the application does not have`},
		},
		{
			"mount into a container that is not there", "", `volumes: [{name: v, emptyDir: {}, appMounts: [{mountPath: /v, containers: [nginx]}]}]`,
			Problem{"PreflightFailed", `volume "v" is to be mounted into container "nginx", which the application does not have`},
		},
		{
			"a variable twice", "", `containers: [{name: a, image: "a:1", env: [{name: A}, {name: A}]}]`,
			Problem{"PreflightFailed", "reading the template by its schema: .spec.template.spec.containers[name=\"a\"].env: duplicate entries for key [name=\"A\"]"},
		},
		{
			"two mounts of one set at the same path", "", `volumes: [{name: v, emptyDir: {}, appMounts: [{mountPath: /v}]}, {name: w, emptyDir: {}, appMounts: [{mountPath: /v}]}]`,
			Problem{"PreflightFailed", `more than one volume is to be mounted at "/v" of container "web"`},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			workload := makeWorkload(t, web)
			sets := []Set{makeSet(t, "loser", 2, test.loser), makeSet(t, "bystander", 3, `containers: [{name: bystander, image: "b:1"}]`)}
			if test.older != "" {
				sets = append(sets, makeSet(t, "older", 1, test.older))
			}
			plan := render1(t, workload, sets...)
			if diff := cmp.Diff(map[string]Problem{"loser": test.want}, plan.Problems); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			without := render1(t, workload, sets[1:]...)
			if diff := cmp.Diff(without.Template, plan.Template); diff != "" {
				t.Errorf("the loser left something behind (-without it +with it):\n%s", diff)
			}
		})
	}
}

func TestTheOlderSetWinsByTimeThenName(t *testing.T) {
	content := `containers: [{name: same, image: "x:1"}]`
	for name, test := range map[string]struct {
		sets  []Set
		loser string
	}{
		"by time":                   {[]Set{makeSet(t, "a", 2, content), makeSet(t, "b", 1, content)}, "a"},
		"by name, at the same time": {[]Set{makeSet(t, "b", 1, content), makeSet(t, "a", 1, content)}, "b"},
	} {
		t.Run(name, func(t *testing.T) {
			plan := render1(t, makeWorkload(t, web), test.sets...)
			if _, lost := plan.Problems[test.loser]; !lost || len(plan.Problems) != 1 {
				t.Errorf("problems: %v, want one, of %q", plan.Problems, test.loser)
			}
		})
	}
}

func TestAnOlderSetTakesANameFromAYoungerOneThatHasIt(t *testing.T) {
	younger, older := makeSet(t, "younger", 2, `containers: [{name: same, image: "y:1"}]`), makeSet(t, "older", 1, `containers: [{name: same, image: "o:1"}]`)
	workload := makeWorkload(t, web)
	injected := applied(t, workload, render1(t, workload, younger), younger)
	plan := render1(t, injected, younger, older)
	if diff := cmp.Diff(map[string]string{"older": "older-1"}, plan.Revisions); diff != "" {
		t.Errorf("rendered (-want +got):\n%s", diff)
	}
	if plan.Problems["younger"].Reason != "NameConflict" {
		t.Errorf("problems: %v", plan.Problems)
	}
}
