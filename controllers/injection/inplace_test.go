// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

const meshed = `
initContainers: [{name: setup, image: "s:1"}, {name: proxy, image: "p:1", restartPolicy: Always, resources: {limits: {cpu: 100m}}}]
containers: [{name: agent, image: "a:1", env: [{name: A, value: x}, {name: B}], resources: {limits: {cpu: 100m, memory: 1Gi}}}]
`

func TestPlansThatGoInPlace(t *testing.T) {
	for name, test := range map[string]struct {
		content string
		change  func(*Workload)
		want    bool
	}{
		"nothing": {content: meshed, want: false},
		"an image, with a claim on the application left behind by a crash": {want: true, content: strings.ReplaceAll(meshed, "a:1", "a:2"), change: func(w *Workload) {
			w.Owned.fields.Insert(templatePath("containers", byName("web")))
			w.Owned.fields.Insert(templatePath("containers", byName("web"), "name"))
		}},
		"images": {want: true, content: `
initContainers: [{name: setup, image: "s:1"}, {name: proxy, image: "p:2", restartPolicy: Always, resources: {limits: {cpu: 100m}}}]
containers: [{name: agent, image: "a:2", env: [{name: A, value: x}, {name: B}], resources: {limits: {cpu: 100m, memory: 1Gi}}}]`},
		"resources, one of them given up": {want: true, content: `
initContainers: [{name: setup, image: "s:1"}, {name: proxy, image: "p:1", restartPolicy: Always, resources: {limits: {cpu: 200m}}}]
containers: [{name: agent, image: "a:1", env: [{name: A, value: x}, {name: B}], resources: {limits: {cpu: 100m}}}]`},
		"the image of a plain init container": {want: false, content: `
initContainers: [{name: setup, image: "s:2"}, {name: proxy, image: "p:1", restartPolicy: Always, resources: {limits: {cpu: 100m}}}]
containers: [{name: agent, image: "a:1", env: [{name: A, value: x}, {name: B}], resources: {limits: {cpu: 100m, memory: 1Gi}}}]`},
		"a variable is another": {want: false, content: `
initContainers: [{name: setup, image: "s:1"}, {name: proxy, image: "p:1", restartPolicy: Always, resources: {limits: {cpu: 100m}}}]
containers: [{name: agent, image: "a:2", env: [{name: A, value: z}, {name: B}], resources: {limits: {cpu: 100m, memory: 1Gi}}}]`},
		"a variable is gone": {want: false, content: `
initContainers: [{name: setup, image: "s:1"}, {name: proxy, image: "p:1", restartPolicy: Always, resources: {limits: {cpu: 100m}}}]
containers: [{name: agent, image: "a:2", env: [{name: A, value: x}], resources: {limits: {cpu: 100m, memory: 1Gi}}}]`},
		"a container is gone": {want: false, content: `
initContainers: [{name: setup, image: "s:1"}, {name: proxy, image: "p:1", restartPolicy: Always, resources: {limits: {cpu: 100m}}}]`},
		"the container was dropped by somebody": {want: false, content: meshed, change: func(w *Workload) {
			w.Template.Spec.Containers = w.Template.Spec.Containers[:len(w.Template.Spec.Containers)-1]
		}},
	} {
		t.Run(name, func(t *testing.T) {
			set := makeSet(t, "a", 0, meshed)
			workload := makeWorkload(t, web)
			injected := applied(t, workload, render1(t, workload, set), set)
			if test.change != nil {
				test.change(&injected)
			}
			target := makeSet(t, "a", 0, test.content)
			target.Revision = "a-2"
			if name == "nothing" {
				target.Revision = set.Revision
			}
			if plan := render1(t, injected, target); plan.InPlace != test.want {
				t.Errorf("in place: %v", plan.InPlace)
			}
		})
	}
	if render1(t, makeWorkload(t, web), makeSet(t, "a", 0, meshed)).InPlace {
		t.Error("the first injection can not go in place")
	}
}

func TestIdentities(t *testing.T) {
	set := makeSet(t, "a", 0, meshed)
	workload := makeWorkload(t, web)
	template := applied(t, workload, render1(t, workload, set), set).Template
	for name, test := range map[string]struct {
		change                        func(*corev1.PodTemplateSpec)
		sameTemplate, sameApplication bool
	}{
		"the hash label":          {func(p *corev1.PodTemplateSpec) { p.Labels["pod-template-hash"] = "x" }, true, true},
		"a sidecar's image":       {func(p *corev1.PodTemplateSpec) { p.Spec.Containers[2].Image = "a:2" }, false, true},
		"the revisions":           {func(p *corev1.PodTemplateSpec) { p.Annotations["sidecarset.io/revisions"] = "{}" }, false, true},
		"the application's image": {func(p *corev1.PodTemplateSpec) { p.Spec.Containers[0].Image = "web:2" }, false, false},
		"an annotation":           {func(p *corev1.PodTemplateSpec) { p.Annotations["restartedAt"] = "now" }, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			changed := template.DeepCopy()
			test.change(changed)
			if got := TemplateIdentity(changed) == TemplateIdentity(template); got != test.sameTemplate {
				t.Errorf("same template: %v", got)
			}
			if got := ApplicationIdentity(changed) == ApplicationIdentity(template); got != test.sameApplication {
				t.Errorf("same application: %v", got)
			}
		})
	}
}
