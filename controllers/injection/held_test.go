// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"testing"

	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

const everything = `
initContainers: [{name: proxy, image: "p:1", restartPolicy: Always}]
containers: [{name: agent, image: "a:1", volumeMounts: [{name: v, mountPath: /x}]}]
volumes: [{name: v, emptyDir: {}, appMounts: [{mountPath: /v}]}]
imagePullSecrets: [{name: reg}]
podMetadata: {labels: {team: p}, annotations: {scrape: "true"}}
`

func heldAt(t *testing.T, revision, content string) Set {
	t.Helper()
	set := makeSet(t, "a", 0, content)
	set.Revision, set.Held = revision, true
	return set
}

func TestAHeldSetStaysAsItIs(t *testing.T) {
	workload := makeWorkload(t, web)
	set := makeSet(t, "a", 0, everything)
	injected := applied(t, workload, render1(t, workload, set), set)

	plan := render1(t, injected, heldAt(t, "a-2", `containers: [{name: agent, image: "a:2"}]`))
	if plan.Changed {
		t.Errorf("a held set is to be changed:\n%s", toYAML(t, plan.Template))
	}
	if plan.Revisions["a"] != "a-1" {
		t.Errorf("it is said to be at %q", plan.Revisions["a"])
	}
}

func TestAHeldSetDoesNotStopAnother(t *testing.T) {
	workload := makeWorkload(t, web)
	set := makeSet(t, "a", 0, everything)
	injected := applied(t, workload, render1(t, workload, set), set)
	plan := render1(t, injected, heldAt(t, "a-2", agent), makeSet(t, "b", 1, `containers: [{name: b, image: "b:1"}]`))
	if !plan.Changed || plan.Revisions["a"] != "a-1" || plan.Revisions["b"] != "b-1" {
		t.Errorf("plan: %+v", plan)
	}
	after := applied(t, injected, plan, set, makeSet(t, "b", 1, `containers: [{name: b, image: "b:1"}]`))
	if after.Template.Spec.Containers[2].Image != "a:1" || after.Template.Labels["team"] != "p" {
		t.Error("the held set was changed")
	}
}

func TestASetThatIsHeldBeforeItsFirstInjectionIsNotInjected(t *testing.T) {
	if plan := render1(t, makeWorkload(t, web), heldAt(t, "a-1", agent)); plan.Changed || len(plan.Revisions) > 0 {
		t.Errorf("plan: %+v", plan)
	}
}

func TestAHeldSetDoesNotClaimWhatSomebodyTookOver(t *testing.T) {
	workload := makeWorkload(t, web)
	set := makeSet(t, "a", 0, everything)
	injected := applied(t, workload, render1(t, workload, set), set)
	image := templatePath("containers", byName("agent"), "image")
	injected.Owned.fields = injected.Owned.fields.Difference(fieldpath.NewSet(image))
	injected.Template.Spec.Containers[2].Image = "theirs:1"

	plan := render1(t, injected, heldAt(t, "a-1", everything))
	if plan.Changed || plan.Keep.Has(image) {
		t.Errorf("the image that somebody set is claimed:\n%s", toYAML(t, plan.Template))
	}
}

func TestPast(t *testing.T) {
	workload := makeWorkload(t, web)
	set := makeSet(t, "a", 0, everything)
	upgrade := makeSet(t, "a", 0, `containers: [{name: agent, image: "a:2"}]`)
	upgrade.Revision = "a-2"
	for name, test := range map[string]struct {
		change func(*Workload)
		want   bool
	}{
		"as it was rendered":      {func(*Workload) {}, true},
		"with an image of others": {func(w *Workload) { w.Template.Spec.Containers[2].Image = "theirs:1" }, false},
		"without marks":           {func(w *Workload) { w.Rendered = nil }, false},
	} {
		t.Run(name, func(t *testing.T) {
			injected := applied(t, workload, render1(t, workload, set), set)
			test.change(&injected)
			past, err := renderer.Past(injected, []Set{upgrade})
			if err != nil || (past != nil) != test.want {
				t.Errorf("past: %v, %v, want one: %v", past, err, test.want)
			}
		})
	}
}

func TestKeepWithout(t *testing.T) {
	workload := makeWorkload(t, web)
	set, other := makeSet(t, "a", 0, everything), makeSet(t, "b", 1, `containers: [{name: b, image: "b:1"}]`)
	alone := applied(t, workload, render1(t, workload, set), set)
	if keep, err := renderer.KeepWithout(alone, "a"); err != nil || !keep.Empty() {
		t.Errorf("without its only set, %v is kept (%v)", keep, err)
	}
	both := applied(t, workload, render1(t, workload, set, other), set, other)
	keep, err := renderer.KeepWithout(both, "a")
	if err != nil {
		t.Fatal(err)
	}
	kept := Ownership{fields: keep}
	if kept.has("containers", byName("agent"), "image") || kept.ownsMount("web", "/v") || kept.has("volumes", byName("v"), "emptyDir") ||
		keep.Has(metadataPath("labels", "team")) || kept.has("imagePullSecrets", byName("reg")) {
		t.Errorf("the released set's content is kept: %v", keep)
	}
	if !kept.has("containers", byName("b"), "image") || !keep.Has(metadataPath("labels", "sidecarset.io/injected")) {
		t.Errorf("the other set's content is not kept: %v", keep)
	}
}
