// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
)

const (
	webPod = `{initContainers: [{name: migrate, image: "migrate:1"}], containers: [{name: web, image: "web:1", volumeMounts: [{name: data, mountPath: /data}]}], volumes: [{name: data, emptyDir: {}}]}`

	agentSpec = `
selector: {matchLabels: {logging: enabled}}
updateStrategy: {type: RollingUpdate}
initContainers: [{name: proxy, image: "proxy:1", restartPolicy: Always}]
containers: [{name: agent, image: "agent:1", volumeMounts: [{name: logs, mountPath: /var/log}]}]
volumes: [{name: logs, emptyDir: {}, appMounts: [{mountPath: /logs, readOnly: true}]}]
imagePullSecrets: [{name: regcred}]
podMetadata: {labels: {team: platform}, annotations: {scrape: "true"}}
`
)

func upgraded(spec string) string { return strings.ReplaceAll(spec, ":1", ":2") }

var _ = Describe("Injection", func() {
	var w *world
	BeforeEach(func(ctx context.Context) { w = newWorld(ctx) })

	It("renders a set into the template, and takes it out again without a trace", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		before := w.deployment(ctx, "web")
		w.createSet(ctx, "log-agent", agentSpec)
		w.converge(ctx)

		template := w.deployment(ctx, "web").Spec.Template
		Expect(containerNames(template.Spec.InitContainers)).To(Equal([]string{"proxy", "migrate"}))
		Expect(containerNames(template.Spec.Containers)).To(Equal([]string{"web", "agent"}))
		Expect(template.Spec.Containers[0].VolumeMounts).To(ContainElement(corev1.VolumeMount{Name: "logs", MountPath: "/logs", ReadOnly: true}))
		Expect(template.Labels).To(HaveKeyWithValue("team", "platform"))
		Expect(template.Labels).To(HaveKeyWithValue(v1alpha1.InjectedLabel, "true"))
		Expect(template.Annotations).To(HaveKeyWithValue(v1alpha1.ContainersAnnotation, "agent,proxy"))
		revision := w.set(ctx, "log-agent").Status.UpdateRevision
		Expect(injection.Revisions(template.Annotations[v1alpha1.RevisionsAnnotation])).To(Equal(map[string]string{"log-agent": revision}))

		w.deleteSet(ctx, "log-agent")
		w.converge(ctx)
		after := w.deployment(ctx, "web")
		Expect(after.Spec).To(Equal(before.Spec))
		Expect(after.Annotations).To(Equal(before.Annotations))
		Expect(ourManagers(after)).To(BeEmpty())
		Expect(w.listSets(ctx)).To(BeEmpty())
	})

	It("owns what it rendered, and of an application container nothing but its mount", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "log-agent", agentSpec)
		w.converge(ctx)

		deployment := w.deployment(ctx, "web")
		var fields string
		for i := range deployment.ManagedFields {
			if injection.IsOurs(&deployment.ManagedFields[i]) {
				fields = deployment.ManagedFields[i].FieldsV1.GetRawString()
			}
		}
		Expect(fields).To(MatchJSON(`{"f:spec": {"f:template": {
			"f:metadata": {
				"f:annotations": {"f:scrape": {}, "f:sidecarset.io/containers": {}, "f:sidecarset.io/revisions": {}},
				"f:labels": {"f:sidecarset.io/injected": {}, "f:team": {}}},
			"f:spec": {
				"f:containers": {
					"k:{\"name\":\"agent\"}": {".": {}, "f:image": {}, "f:name": {}, "f:volumeMounts": {"k:{\"mountPath\":\"/var/log\"}": {".": {}, "f:mountPath": {}, "f:name": {}}}},
					"k:{\"name\":\"web\"}": {"f:volumeMounts": {"k:{\"mountPath\":\"/logs\"}": {".": {}, "f:mountPath": {}, "f:name": {}, "f:readOnly": {}}}}},
				"f:imagePullSecrets": {"k:{\"name\":\"regcred\"}": {}},
				"f:initContainers": {"k:{\"name\":\"proxy\"}": {".": {}, "f:image": {}, "f:name": {}, "f:restartPolicy": {}}},
				"f:volumes": {"k:{\"name\":\"logs\"}": {".": {}, "f:emptyDir": {}, "f:name": {}}}}}}}`))
	})

	It("needs three writes for a workload, and none when all is done", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "log-agent", agentSpec)
		w.converge(ctx)
		var toDeployments []string
		for _, write := range w.writes {
			if strings.HasSuffix(write, "Deployment") {
				toDeployments = append(toDeployments, write)
			}
		}
		Expect(toDeployments).To(Equal([]string{"patch *v1.Deployment", "apply *v1.Deployment", "patch *v1.Deployment"}))

		w.writes = nil
		w.reconcileAll(ctx)
		w.reconcileAll(ctx)
		Expect(w.writes).To(BeEmpty())
	})

	It("upgrades without moving what is there", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "log-agent", agentSpec)
		w.converge(ctx)
		w.updateSet(ctx, "log-agent", upgraded(agentSpec))
		w.converge(ctx)
		template := w.deployment(ctx, "web").Spec.Template
		Expect(containerNames(template.Spec.InitContainers)).To(Equal([]string{"proxy", "migrate"}))
		Expect(template.Spec.InitContainers[0].Image).To(Equal("proxy:2"))
		Expect(template.Spec.Containers[1].Image).To(Equal("agent:2"))
		Expect(template.Spec.Containers[0].Image).To(Equal("web:1"))
	})

	It("makes one template change for sets that come together", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "one", `{selector: {}, containers: [{name: one, image: "one:1"}]}`)
		w.createSet(ctx, "two", `{selector: {}, containers: [{name: two, image: "two:1"}]}`)
		w.reconcileAll(ctx) // writes both slips; they are too young for a template
		Expect(w.writes).NotTo(ContainElement("apply *v1.Deployment"))
		w.writes = nil
		w.converge(ctx)
		Expect(w.writes).To(ConsistOf("apply *v1.Deployment", "patch status *v1alpha1.SidecarSet", "patch status *v1alpha1.SidecarSet"))
		Expect(containerNames(w.deployment(ctx, "web").Spec.Template.Spec.Containers)).To(Equal([]string{"web", "one", "two"}))
	})

	It("takes its content out of a Deployment that is excluded or not selected any more", func(ctx context.Context) {
		for _, name := range []string{"label", "all", "named", "other"} {
			w.createDeployment(ctx, name, webPod)
		}
		w.createSet(ctx, "log-agent", agentSpec)
		w.converge(ctx)
		w.editDeployment(ctx, "label", "owner", func(d *appsv1.Deployment) { delete(d.Labels, "logging") })
		for name, value := range map[string]string{"all": "true", "named": "x, log-agent", "other": "log-agents"} {
			w.editDeployment(ctx, name, "owner", func(d *appsv1.Deployment) { d.Annotations[v1alpha1.ExcludeAnnotation] = value })
		}
		w.converge(ctx)
		for _, name := range []string{"label", "all", "named"} {
			deployment := w.deployment(ctx, name)
			Expect(containerNames(deployment.Spec.Template.Spec.Containers)).To(Equal([]string{"web"}), name)
			Expect(ourManagers(deployment)).To(BeEmpty(), name)
		}
		Expect(containerNames(w.deployment(ctx, "other").Spec.Template.Spec.Containers)).To(Equal([]string{"web", "agent"}))
		Expect(w.set(ctx, "log-agent").Status.Workloads).To(BeEquivalentTo(1))
	})

	It("never targets kube-system or the operator's own namespace", func() {
		set := &v1alpha1.SidecarSet{ObjectMeta: metav1.ObjectMeta{Name: "log-agent"}}
		for namespace, selected := range map[string]bool{"kube-system": false, "sidecarset-system": false, "shop": true} {
			deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web"}}
			Expect(w.sets.observer.selects(set, deployment)).To(Equal(selected), namespace)
		}
	})

	It("leaves the content where it is with deletionPolicy Retain, disowned", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "log-agent", "deletionPolicy: Retain\n"+agentSpec)
		w.converge(ctx)
		before := w.deployment(ctx, "web")
		w.deleteSet(ctx, "log-agent")
		w.converge(ctx)
		after := w.deployment(ctx, "web")
		Expect(after.Spec).To(Equal(before.Spec))
		Expect(after.Annotations).NotTo(HaveKey(v1alpha1.TargetRevisionsAnnotation))
		Expect(ourManagers(after)).To(BeEmpty())
		Expect(w.listSets(ctx)).To(BeEmpty())
	})

	It("retains one set's content and goes on with another's", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "log-agent", "deletionPolicy: Retain\n"+agentSpec)
		w.createSet(ctx, "other", `{selector: {}, containers: [{name: other, image: "other:1"}]}`)
		w.converge(ctx)
		w.deleteSet(ctx, "log-agent")
		w.converge(ctx)
		w.deleteSet(ctx, "other")
		w.converge(ctx)
		deployment := w.deployment(ctx, "web")
		Expect(containerNames(deployment.Spec.Template.Spec.Containers)).To(Equal([]string{"web", "agent"}))
		Expect(deployment.Spec.Template.Labels).To(HaveKeyWithValue("team", "platform"))
		Expect(deployment.Spec.Template.Labels).NotTo(HaveKey(v1alpha1.InjectedLabel))
		Expect(ourManagers(deployment)).To(BeEmpty())
	})

	It("removes a set whose finalizer somebody took away", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "log-agent", agentSpec)
		w.converge(ctx)
		set := w.set(ctx, "log-agent")
		set.Finalizers = nil
		Expect(k8s.Update(ctx, set)).To(Succeed())
		w.deleteSet(ctx, "log-agent")
		w.converge(ctx)
		deployment := w.deployment(ctx, "web")
		Expect(containerNames(deployment.Spec.Template.Spec.Containers)).To(Equal([]string{"web"}))
		Expect(ourManagers(deployment)).To(BeEmpty())
	})

	It("does not create a Deployment anew that was deleted in the meantime", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "log-agent", agentSpec)
		w.before = func(write string) error {
			if strings.HasPrefix(write, "apply") {
				Expect(k8s.Delete(ctx, w.deployment(ctx, "web"))).To(Succeed())
				w.before = func(string) error { return nil }
			}
			return nil
		}
		w.converge(ctx)
		Expect(apierrors.IsNotFound(k8s.Get(ctx, w.key("web"), &appsv1.Deployment{}))).To(BeTrue())
	})
})

var _ = Describe("People", func() {
	var w *world
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		w.createSet(ctx, "log-agent", agentSpec)
	})

	It("may remove an init container by server-side apply", func(ctx context.Context) {
		Expect(applyManifest(ctx, w.userManifest("web", webPod))).To(Succeed())
		w.converge(ctx)
		Expect(applyManifest(ctx, w.userManifest("web", `{containers: [{name: web, image: "web:2"}]}`))).To(Succeed())
		w.converge(ctx)
		template := w.deployment(ctx, "web").Spec.Template
		Expect(containerNames(template.Spec.InitContainers)).To(Equal([]string{"proxy"}))
		Expect(template.Spec.Containers[0].Image).To(Equal("web:2"))
	})

	It("may rename a container that has a mount of ours by server-side apply", func(ctx context.Context) {
		Expect(applyManifest(ctx, w.userManifest("web", webPod))).To(Succeed())
		w.converge(ctx)
		Expect(applyManifest(ctx, w.userManifest("web", `{containers: [{name: shop, image: "web:2"}]}`))).To(Succeed())
		w.converge(ctx)
		spec := w.deployment(ctx, "web").Spec.Template.Spec
		Expect(containerNames(spec.Containers)).To(ConsistOf("shop", "agent"))
		for i := range spec.Containers {
			if spec.Containers[i].Name == "shop" {
				Expect(spec.Containers[i].VolumeMounts).To(ConsistOf(corev1.VolumeMount{Name: "logs", MountPath: "/logs", ReadOnly: true}))
			}
		}
	})

	It("get back what a replace dropped", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		w.converge(ctx)
		w.editDeployment(ctx, "web", "owner", func(d *appsv1.Deployment) {
			d.Spec.Template = w.userManifest("web", webPod).Spec.Template
			d.Spec.Template.Spec.Containers[0].Image = "web:2"
		})
		w.converge(ctx)
		spec := w.deployment(ctx, "web").Spec.Template.Spec
		Expect(containerNames(spec.InitContainers)).To(Equal([]string{"proxy", "migrate"}))
		Expect(containerNames(spec.Containers)).To(Equal([]string{"web", "agent"}))
		Expect(spec.Containers[0].Image).To(Equal("web:2"))
	})

	It("may undo a rollout that brought a new sidecar, and get the new sidecar again", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		w.converge(ctx)
		earlier := w.deployment(ctx, "web").Spec.Template
		w.updateSet(ctx, "log-agent", strings.ReplaceAll(upgraded(agentSpec), "platform", "observability"))
		w.converge(ctx)
		w.editDeployment(ctx, "web", "kubectl", func(d *appsv1.Deployment) { d.Spec.Template = earlier })
		w.converge(ctx)
		template := w.deployment(ctx, "web").Spec.Template
		Expect(template.Spec.Containers[1].Image).To(Equal("agent:2"))
		Expect(template.Labels).To(HaveKeyWithValue("team", "observability"))
		Expect(w.set(ctx, "log-agent").Status.Problems).To(BeEmpty())
	})
})

var _ = Describe("Collisions and refusals", func() {
	var w *world
	BeforeEach(func(ctx context.Context) { w = newWorld(ctx) })

	problem := func(ctx context.Context, set string) v1alpha1.Problem {
		GinkgoHelper()
		problems := w.set(ctx, set).Status.Problems
		Expect(problems).To(HaveLen(1))
		return problems[0]
	}

	It("leaves a set out whole that collides with the application, and comes back when the cause goes", func(ctx context.Context) {
		w.createDeployment(ctx, "web", `{containers: [{name: web, image: "web:1"}, {name: agent, image: "own:1"}]}`)
		w.createDeployment(ctx, "other", webPod)
		before := w.deployment(ctx, "web")
		w.createSet(ctx, "log-agent", agentSpec)
		w.converge(ctx)
		Expect(w.deployment(ctx, "web").Spec).To(Equal(before.Spec))
		Expect(problem(ctx, "log-agent")).To(Equal(v1alpha1.Problem{
			Kind: "Deployment", Namespace: w.namespace, Name: "web", Reason: "NameConflict", Message: `container "agent" is the application's own`,
		}))
		Expect(containerNames(w.deployment(ctx, "other").Spec.Template.Spec.Containers)).To(Equal([]string{"web", "agent"}))

		w.editDeployment(ctx, "web", "owner", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers = d.Spec.Template.Spec.Containers[:1] })
		w.converge(ctx)
		Expect(containerNames(w.deployment(ctx, "web").Spec.Template.Spec.Containers)).To(Equal([]string{"web", "agent"}))
		Expect(w.set(ctx, "log-agent").Status.Problems).To(BeEmpty())
	})

	It("leaves the younger of two colliding sets out, until the older one goes", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "a", `{selector: {}, containers: [{name: same, image: "a:1"}]}`)
		w.createSet(ctx, "b", `{selector: {}, containers: [{name: same, image: "b:1"}]}`)
		w.converge(ctx)
		Expect(w.deployment(ctx, "web").Spec.Template.Spec.Containers[1].Image).To(Equal("a:1"))
		Expect(problem(ctx, "b").Message).To(Equal(`container "same" is rendered by SidecarSet a, which goes before`))
		w.deleteSet(ctx, "a")
		w.converge(ctx)
		Expect(w.deployment(ctx, "web").Spec.Template.Spec.Containers[1].Image).To(Equal("b:1"))
		Expect(w.set(ctx, "b").Status.Problems).To(BeEmpty())
	})

	It("does not overwrite a field that somebody set in a container of ours, and goes on when they let go", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "log-agent", agentSpec)
		w.createSet(ctx, "z-bystander", `{selector: {}, containers: [{name: bystander, image: "b:1"}]}`)
		w.converge(ctx)
		image := func(value string) func(*appsv1.Deployment) {
			return func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[1].Image = value }
		}
		w.editDeployment(ctx, "web", "kubectl-set", image("theirs:1"))
		w.updateSet(ctx, "z-bystander", `{selector: {}, updateStrategy: {type: RollingUpdate}, containers: [{name: bystander, image: "b:2"}]}`)
		w.converge(ctx)
		containers := w.deployment(ctx, "web").Spec.Template.Spec.Containers
		Expect(containers[1].Image).To(Equal("theirs:1"))
		Expect(containers[2].Image).To(Equal("b:2"))
		Expect(problem(ctx, "log-agent").Reason).To(Equal(v1alpha1.ReasonFieldConflict))
		Expect(problem(ctx, "log-agent").Message).To(And(ContainSubstring(`conflict with "kubectl-set"`), ContainSubstring(`containers[name="agent"].image`)))
		Expect(w.set(ctx, "z-bystander").Status.Problems).To(BeEmpty())

		w.editDeployment(ctx, "web", "kubectl-set", image("agent:1"))
		w.converge(ctx)
		Expect(w.set(ctx, "log-agent").Status.Problems).To(BeEmpty())
		w.updateSet(ctx, "log-agent", upgraded(agentSpec))
		w.converge(ctx)
		Expect(w.deployment(ctx, "web").Spec.Template.Spec.Containers[1].Image).To(Equal("agent:2"))
	})

	It("reports what the API server refuses with its words, touches nothing there, and does all others", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		w.createDeployment(ctx, "plain", `{containers: [{name: main, image: "main:1"}]}`)
		before := w.deployment(ctx, "plain")
		// The volume that inherit brings along belongs to the application of web; plain has none of that name.
		w.createSet(ctx, "log-agent", `{selector: {}, containers: [{name: agent, image: "a:1", volumeMounts: [{name: data, mountPath: /data}], inherit: {volumeMounts: All}}]}`)
		w.createSet(ctx, "z-bystander", `{selector: {}, containers: [{name: bystander, image: "b:1"}]}`)
		w.converge(ctx)
		Expect(containerNames(w.deployment(ctx, "web").Spec.Template.Spec.Containers)).To(Equal([]string{"web", "agent", "bystander"}))
		Expect(containerNames(w.deployment(ctx, "plain").Spec.Template.Spec.Containers)).To(Equal([]string{"main", "bystander"}))
		Expect(before.Spec.Template.Spec.Containers).To(HaveLen(1))
		Expect(problem(ctx, "log-agent")).To(And(
			HaveField("Name", "plain"),
			HaveField("Reason", v1alpha1.ReasonPreflightFailed),
			HaveField("Message", ContainSubstring(`spec.template.spec.containers[1].volumeMounts[0].name: Not found: "data"`)),
		))
		Expect(meta.FindStatusCondition(w.set(ctx, "log-agent").Status.Conditions, "Degraded")).To(HaveField("Reason", v1alpha1.ReasonPreflightFailed))
	})

	It("tells what is wrong with a spec that no policy refused, and changes nothing", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "log-agent", agentSpec)
		w.converge(ctx)
		before := w.deployment(ctx, "web")
		w.updateSet(ctx, "log-agent", `{selector: {matchLabels: {logging: enabled}}, containers: [{name: agent, image: "a:1", volumeMounts: [{name: nowhere, mountPath: /x}]}]}`)
		w.converge(ctx)
		Expect(w.deployment(ctx, "web").Spec).To(Equal(before.Spec))
		degraded := meta.FindStatusCondition(w.set(ctx, "log-agent").Status.Conditions, "Degraded")
		Expect(degraded.Reason).To(Equal(v1alpha1.ReasonPreflightFailed))
		Expect(degraded.Message).To(ContainSubstring(`nowhere`))
		w.deleteSet(ctx, "log-agent")
		w.converge(ctx)
		Expect(w.listSets(ctx)).To(BeEmpty())
	})
})

var _ = Describe("Paused", func() {
	It("changes nothing anywhere, and goes on afterwards", func(ctx context.Context) {
		w := newWorld(ctx)
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "log-agent", agentSpec)
		w.converge(ctx)
		paused := strings.ReplaceAll(upgraded(agentSpec), "{type: RollingUpdate}", "{type: RollingUpdate, paused: true}")
		w.updateSet(ctx, "log-agent", paused)
		w.createDeployment(ctx, "new", webPod)
		w.converge(ctx)
		Expect(w.deployment(ctx, "web").Spec.Template.Spec.Containers[1].Image).To(Equal("agent:1"))
		Expect(containerNames(w.deployment(ctx, "new").Spec.Template.Spec.Containers)).To(Equal([]string{"web"}))

		// Even what somebody removed is not put back.
		w.editDeployment(ctx, "web", "owner", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers = d.Spec.Template.Spec.Containers[:1] })
		w.converge(ctx)
		Expect(containerNames(w.deployment(ctx, "web").Spec.Template.Spec.Containers)).To(Equal([]string{"web"}))

		w.updateSet(ctx, "log-agent", upgraded(agentSpec))
		w.converge(ctx)
		for _, name := range []string{"web", "new"} {
			Expect(w.deployment(ctx, name).Spec.Template.Spec.Containers[1].Image).To(Equal("agent:2"), name)
		}
	})
})

var _ = Describe("Faults", func() {
	It("converges whichever write fails, and whenever the operator dies", func(ctx context.Context) {
		reference := newWorld(ctx)
		reference.createDeployment(ctx, "web", webPod)
		reference.createSet(ctx, "log-agent", agentSpec)
		reference.converge(ctx)
		writes := len(reference.writes)
		want := reference.deployment(ctx, "web").Spec

		for broken := range writes {
			w := newWorld(ctx)
			w.createDeployment(ctx, "web", webPod)
			w.createSet(ctx, "log-agent", agentSpec)
			w.before = func(string) error {
				if len(w.writes) == broken+1 {
					return apierrors.NewConflict(appsv1.Resource("deployments"), "web", nil)
				}
				return nil
			}
			w.converge(ctx)
			deployment := w.deployment(ctx, "web")
			Expect(deployment.Spec).To(Equal(want), "write %d failed: %s", broken, reference.writes[broken])
			Expect(ourManagers(deployment)).To(ConsistOf("Apply", "Update"))
			w.writes = nil
			w.reconcileAll(ctx)
			Expect(w.writes).To(BeEmpty())
		}
	})
})
