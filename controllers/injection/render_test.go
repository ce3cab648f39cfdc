// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

const web = `
metadata: {labels: {app: web}}
spec:
  initContainers: [{name: migrate, image: "migrate:1"}]
  containers:
  - name: web
    image: web:1
    env: [{name: APP_NAME, value: cart}, {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}, {name: SECRET, value: s}]
    volumeMounts: [{name: data, mountPath: /data}, {name: tmp, mountPath: /tmp}]
  - {name: cache, image: "cache:1"}
  volumes: [{name: data, emptyDir: {}}, {name: tmp, emptyDir: {}}]
`

const agent = `
containers:
- name: agent
  image: agent:1
  volumeMounts: [{name: logs, mountPath: /var/log}]
volumes:
- name: logs
  emptyDir: {}
`

func TestRender(t *testing.T) {
	for _, test := range []struct {
		name     string
		sets     []string // the contents of sets a, b, …, the oldest first
		template string
	}{{
		name: "container and volume",
		sets: []string{agent},
		template: `
metadata:
  annotations: {sidecarset.io/containers: agent, sidecarset.io/revisions: '{"a":"a-1"}'}
  labels: {sidecarset.io/injected: "true"}
spec:
  containers: [{name: agent, image: "agent:1", volumeMounts: [{name: logs, mountPath: /var/log}]}]
  volumes: [{name: logs, emptyDir: {}}]
`,
	}, {
		name: "init containers in front, the application's named behind them",
		sets: []string{`initContainers: [{name: setup, image: "s:1"}, {name: proxy, image: "p:1", restartPolicy: Always}]`},
		template: `
metadata:
  annotations: {sidecarset.io/containers: proxy, sidecarset.io/revisions: '{"a":"a-1"}'}
  labels: {sidecarset.io/injected: "true"}
spec:
  initContainers: [{name: setup, image: "s:1"}, {name: proxy, image: "p:1", restartPolicy: Always}, {name: migrate}]
`,
	}, {
		name: "several sets, the oldest first, shared pull secret and metadata once",
		sets: []string{
			`{containers: [{name: z, image: "z:1"}], imagePullSecrets: [{name: reg}], podMetadata: {labels: {team: p}}}`,
			`{containers: [{name: b, image: "b:1"}], imagePullSecrets: [{name: reg}], podMetadata: {labels: {team: p}, annotations: {scrape: "true"}}}`,
		},
		template: `
metadata:
  annotations: {scrape: "true", sidecarset.io/containers: "b,z", sidecarset.io/revisions: '{"a":"a-1","b":"b-1"}'}
  labels: {sidecarset.io/injected: "true", team: p}
spec:
  containers: [{name: z, image: "z:1"}, {name: b, image: "b:1"}]
  imagePullSecrets: [{name: reg}]
`,
	}, {
		name: "volume mounted into every application container, in their order",
		sets: []string{`volumes: [{name: v, emptyDir: {}, appMounts: [{mountPath: /v, readOnly: true, subPath: s}]}]`},
		template: `
metadata:
  annotations: {sidecarset.io/revisions: '{"a":"a-1"}'}
  labels: {sidecarset.io/injected: "true"}
spec:
  containers:
  - {name: web, volumeMounts: [{name: v, mountPath: /v, readOnly: true, subPath: s}]}
  - {name: cache, volumeMounts: [{name: v, mountPath: /v, readOnly: true, subPath: s}]}
  volumes: [{name: v, emptyDir: {}}]
`,
	}, {
		name: "volume mounted into named containers",
		sets: []string{`volumes: [{name: v, emptyDir: {}, appMounts: [{mountPath: /v, containers: [cache]}, {mountPath: /w, containers: [cache, web]}]}]`},
		template: `
metadata:
  annotations: {sidecarset.io/revisions: '{"a":"a-1"}'}
  labels: {sidecarset.io/injected: "true"}
spec:
  containers:
  - {name: web, volumeMounts: [{name: v, mountPath: /w}]}
  - {name: cache, volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /w}]}
  volumes: [{name: v, emptyDir: {}}]
`,
	}, {
		name: "inherited variables stand in front, the sidecar's own win, what is not there is not copied",
		sets: []string{`containers: [{name: a, image: "a:1", env: [{name: OWN}, {name: SECRET, value: mine}], inherit: {env: [SECRET, NODE, APP_NAME, MISSING]}}]`},
		template: `
metadata:
  annotations: {sidecarset.io/containers: a, sidecarset.io/revisions: '{"a":"a-1"}'}
  labels: {sidecarset.io/injected: "true"}
spec:
  containers:
  - name: a
    image: a:1
    env: [{name: APP_NAME, value: cart}, {name: NODE, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: spec.nodeName}}}, {name: OWN}, {name: SECRET, value: mine}]
`,
	}, {
		name: "inherited mounts, of the first container or a named one",
		sets: []string{
			`{containers: [{name: a, image: "a:1", volumeMounts: [{name: v, mountPath: /tmp/}], inherit: {volumeMounts: All}}], volumes: [{name: v, emptyDir: {}}]}`,
			`containers: [{name: b, image: "b:1", inherit: {from: cache, volumeMounts: All, env: [APP_NAME]}}]`,
		},
		template: `
metadata:
  annotations: {sidecarset.io/containers: "a,b", sidecarset.io/revisions: '{"a":"a-1","b":"b-1"}'}
  labels: {sidecarset.io/injected: "true"}
spec:
  containers:
  - {name: a, image: "a:1", volumeMounts: [{name: v, mountPath: /tmp/}, {name: data, mountPath: /data}]}
  - {name: b, image: "b:1"}
  volumes: [{name: v, emptyDir: {}}]
`,
	}, {
		name: "equal ports are no collision",
		sets: []string{`containers: [{name: a, image: "a:1", ports: [{containerPort: 80}]}]`, `containers: [{name: b, image: "b:1", ports: [{containerPort: 80}]}]`},
		template: `
metadata:
  annotations: {sidecarset.io/containers: "a,b", sidecarset.io/revisions: '{"a":"a-1","b":"b-1"}'}
  labels: {sidecarset.io/injected: "true"}
spec:
  containers: [{name: a, image: "a:1", ports: [{containerPort: 80}]}, {name: b, image: "b:1", ports: [{containerPort: 80}]}]
`,
	}} {
		t.Run(test.name, func(t *testing.T) {
			workload := makeWorkload(t, web)
			sets := makeSets(t, test.sets)
			plan := render1(t, workload, sets...)
			if len(plan.Problems) > 0 {
				t.Fatalf("problems: %v", plan.Problems)
			}
			if diff := cmp.Diff(toYAML(t, *parse[map[string]any](t, test.template)), toYAML(t, plan.Template)); diff != "" {
				t.Errorf("apply configuration (-want +got):\n%s", diff)
			}
			if !plan.Changed {
				t.Error("nothing to write, although the template has nothing of it")
			}
			again := applied(t, workload, plan, sets...)
			if repeated := render1(t, again, sets...); repeated.Changed {
				t.Errorf("what was applied is to be applied again:\n%s", toYAML(t, repeated.Template))
			}
		})
	}
}

func makeSets(t *testing.T, contents []string) []Set {
	t.Helper()
	var sets []Set
	for i, content := range contents {
		sets = append(sets, makeSet(t, string(rune('a'+i)), int64(i), content))
	}
	slices.Reverse(sets) // the order in which they come must not matter.
	return sets
}

func TestNothingAssignedMeansNothingApplied(t *testing.T) {
	workload := makeWorkload(t, web)
	if plan := render1(t, workload); plan.Changed || plan.Template != nil {
		t.Errorf("a template without sets is to be changed: %+v", plan)
	}
	sets := makeSets(t, []string{agent})
	injected := applied(t, workload, render1(t, workload, sets...), sets...)
	plan := render1(t, injected)
	if !plan.Changed || plan.Template != nil || !plan.Keep.Empty() {
		t.Errorf("what is not assigned any more is not taken out: %+v", plan)
	}
}

// Claims on the application's items would keep a nameless rest of them when their owner removes them by apply.
func TestKeepHasNoFieldOfTheApplication(t *testing.T) {
	workload := makeWorkload(t, web)
	plan := render1(t, workload, makeSet(t, "a", 0, `
initContainers: [{name: proxy, image: "p:1", restartPolicy: Always}]
volumes: [{name: v, emptyDir: {}, appMounts: [{mountPath: /v}]}]
`))
	if !plan.Claims {
		t.Error("hints and mounts claim names, and the plan does not say so")
	}
	owned := Ownership{fields: throughManagedFields(t, plan.Keep)}
	for _, path := range [][]any{
		{"initContainers", byName("migrate")},
		{"initContainers", byName("migrate"), "name"},
		{"containers", byName("web")},
		{"containers", byName("web"), "name"},
	} {
		if owned.has(path...) {
			t.Errorf("we would keep %v", path)
		}
	}
	if !owned.ownsMount("web", "/v") || !owned.has("initContainers", byName("proxy"), "image") {
		t.Error("we would not keep what is ours")
	}
}

func TestClaimsLeftBehindByACrashAreHandedBack(t *testing.T) {
	workload := makeWorkload(t, web)
	set := makeSet(t, "a", 0, `volumes: [{name: v, emptyDir: {}, appMounts: [{mountPath: /v}]}]`)
	injected := applied(t, workload, render1(t, workload, set), set)
	injected.Owned.fields.Insert(templatePath("containers", byName("web")))
	injected.Owned.fields.Insert(templatePath("containers", byName("web"), "name"))

	plan := render1(t, injected, set)
	if !plan.Changed || !plan.Claims {
		t.Errorf("the claim on the application's container is kept: %+v", plan)
	}
	if len(plan.Problems) > 0 {
		t.Errorf("the application's container was taken for ours: %v", plan.Problems)
	}
}

func TestOrderIsKept(t *testing.T) {
	workload := makeWorkload(t, web)
	first := makeSet(t, "a", 0, `initContainers: [{name: one, image: "1:1"}, {name: two, image: "2:1", restartPolicy: Always}]`)
	second := makeSet(t, "b", 1, `initContainers: [{name: three, image: "3:1", restartPolicy: Always}]`)
	upgraded := makeSet(t, "a", 0, `initContainers: [{name: one, image: "1:2"}, {name: two, image: "2:2", restartPolicy: Always}]`)

	names := func(workload Workload) (result []string) {
		for _, container := range workload.Template.Spec.InitContainers {
			result = append(result, container.Name)
		}
		return result
	}
	check := func(step string, workload Workload, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, names(workload)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step, diff)
		}
	}
	younger := applied(t, workload, render1(t, workload, second), second)
	check("the younger set alone", younger, "three", "migrate")
	both := applied(t, younger, render1(t, younger, second, first), first, second)
	check("an older set joins", both, "one", "two", "three", "migrate")
	plan := render1(t, both, second, upgraded)
	after := applied(t, both, plan, upgraded, second)
	check("an upgrade", after, "one", "two", "three", "migrate")
	if plan.Claims {
		t.Error("the order was right, and hints were given")
	}
	after.Template.Spec.InitContainers = append([]corev1.Container{{Name: "new", Image: "n:1"}}, after.Template.Spec.InitContainers...)
	check("the application puts a new one in front", after, "new", "one", "two", "three", "migrate")
	repaired := applied(t, after, render1(t, after, second, upgraded), upgraded, second)
	check("which goes behind", repaired, "one", "two", "three", "new", "migrate")
}

func TestDriftIsFound(t *testing.T) {
	workload := makeWorkload(t, web)
	set := makeSet(t, "a", 0, agent)
	for name, drift := range map[string]func(*Workload){
		"our container is gone": func(w *Workload) { w.Template.Spec.Containers = w.Template.Spec.Containers[:2] },
		"our image is another":  func(w *Workload) { w.Template.Spec.Containers[2].Image = "other:1" },
		"a mark is gone":        func(w *Workload) { delete(w.Template.Annotations, v1alpha1.RevisionsAnnotation) },
		"the label is gone":     func(w *Workload) { delete(w.Template.Labels, v1alpha1.InjectedLabel) },
		"a field is not ours":   func(w *Workload) { w.Owned.fields = w.Owned.fields.Difference(w.Owned.fields.Leaves()) },
	} {
		t.Run(name, func(t *testing.T) {
			injected := applied(t, workload, render1(t, workload, set), set)
			drift(&injected)
			if plan := render1(t, injected, set); !plan.Changed {
				t.Error("it was not noticed")
			}
		})
	}
}

func TestDefaultsOfTheAPIServerAreNoDrift(t *testing.T) {
	workload := makeWorkload(t, web)
	set := makeSet(t, "a", 0, agent)
	injected := applied(t, workload, render1(t, workload, set), set)
	container := &injected.Template.Spec.Containers[2]
	container.TerminationMessagePath, container.TerminationMessagePolicy = "/dev/termination-log", corev1.TerminationMessageReadFile
	container.ImagePullPolicy = corev1.PullIfNotPresent
	injected.Template.Spec.RestartPolicy = corev1.RestartPolicyAlways
	if plan := render1(t, injected, set); plan.Changed {
		t.Error("defaults were taken for a difference")
	}
}

func TestRevisionsCanBeRead(t *testing.T) {
	marks := map[string]string{"log-agent": "log-agent-1", "cluster/mesh": "mesh-2"}
	if text := EncodeRevisions(marks); text != `{"cluster/mesh":"mesh-2","log-agent":"log-agent-1"}` || !maps.Equal(Revisions(text), marks) {
		t.Errorf("%s does not mean %v", text, marks)
	}
	if len(Revisions("{broken")) != 0 || len(Revisions("")) != 0 {
		t.Error("what is no map has entries")
	}
}
