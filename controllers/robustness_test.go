// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
)

// rolling makes the spec of a set whose changes go through the template, from the rest of it.
func rolling(rest string) string {
	return "{selector: {matchLabels: {logging: enabled}}, updateStrategy: {type: RollingUpdate}, " + rest + "}"
}

var _ = Describe("Steady state", func() {
	DescribeTable("is quiet whatever the API server makes of what was applied",
		func(ctx context.Context, rest string) {
			w := newWorld(ctx)
			w.createDeployment(ctx, "web", strings.Replace(webPod, "{", "{serviceAccountName: default, ", 1))
			// The mount makes claims, whose return is a write that comes back as an event.
			w.createSet(ctx, "agent", rolling(rest))
			w.converge(ctx)
			Expect(w.deployment(ctx, "web").Spec.Template.Labels).To(HaveKey(v1alpha1.InjectedLabel))
			w.writes, w.tries = nil, nil
			w.reconcileAll(ctx)
			w.reconcileAll(ctx)
			Expect(append(w.writes, w.tries...)).To(BeEmpty())
		},
		Entry("fieldRef", `containers: [{name: a, image: "a:1", env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]}], volumes: [{name: v, emptyDir: {}, appMounts: [{mountPath: /v}]}]`),
		Entry("resourceFieldRef", `containers: [{name: a, image: "a:1", resources: {limits: {cpu: "1"}}, env: [{name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}]}]`),
		Entry("projected token", `containers: [{name: a, image: "a:1"}], volumes: [{name: p, projected: {sources: [{serviceAccountToken: {path: token}}]}, appMounts: [{mountPath: /v}]}]`),
		Entry("downward API", `containers: [{name: a, image: "a:1"}], volumes: [{name: p, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}]`),
		Entry("probes and ports", `containers: [{name: a, image: "a:1", livenessProbe: {httpGet: {port: 80}}, readinessProbe: {grpc: {port: 1}}, ports: [{containerPort: 80}]}]`),
		Entry("quantities", `containers: [{name: a, image: "a:1", resources: {limits: {cpu: 1000m, memory: 1024Mi}}, securityContext: {privileged: true}}], volumes: [{name: v, emptyDir: {sizeLimit: 1000Mi}}]`),
		Entry("a field that this cluster drops", `containers: [{name: a, image: "a:1", lifecycle: {stopSignal: SIGUSR1}}], volumes: [{name: v, emptyDir: {}, appMounts: [{mountPath: /v}]}]`),
		Entry("a pod certificate", `containers: [{name: a, image: "a:1"}], volumes: [{name: p, projected: {sources: [{podCertificate: {signerName: "a.b/c", keyType: ED25519, credentialBundlePath: x}}]}}]`),
		Entry("an ephemeral volume", `containers: [{name: a, image: "a:1"}], volumes: [{name: e, ephemeral: {volumeClaimTemplate: {metadata: {labels: {x: z}}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}}}]`),
		Entry("empty values", `containers: [{name: a, image: "a:1", env: [{name: EMPTY, value: ""}], command: [], args: [""], tty: false}]`),
	)

	It("does not send again what the API server refused, before something changes", func(ctx context.Context) {
		w := newWorld(ctx)
		w.createDeployment(ctx, "plain", `{containers: [{name: main, image: "main:1"}]}`)
		w.createSet(ctx, "agent", rolling(`containers: [{name: agent, image: "a:1", volumeMounts: [{name: data, mountPath: /data}], inherit: {volumeMounts: All}}]`))
		w.converge(ctx)
		w.writes = nil
		w.reconcileAll(ctx)
		Expect(w.writes).To(BeEmpty())
		Expect(w.set(ctx, "agent").Status.Problems).To(HaveLen(1))

		w.editDeployment(ctx, "plain", "owner", func(d *appsv1.Deployment) {
			d.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		})
		w.converge(ctx)
		Expect(w.set(ctx, "agent").Status.Problems).To(BeEmpty())
		Expect(containerNames(w.deployment(ctx, "plain").Spec.Template.Spec.Containers)).To(Equal([]string{"main", "agent"}))
	})

	It("is reached when a dry run meets a Deployment that changes", func(ctx context.Context) {
		w := newWorld(ctx)
		w.createDeployment(ctx, "plain", `{containers: [{name: main, image: "main:1"}]}`)
		w.createSet(ctx, "agent", rolling(`containers: [{name: agent, image: "a:1", volumeMounts: [{name: data, mountPath: /data}], inherit: {volumeMounts: All}}]`))
		w.createSet(ctx, "z", rolling(`containers: [{name: bystander, image: "b:1"}]`))
		conflicts := 0
		w.before = func(write string) error {
			if strings.HasPrefix(write, "dry-run") && conflicts < 3 {
				conflicts++
				return apierrors.NewConflict(appsv1.Resource("deployments"), "plain", errors.New("it changed"))
			}
			return nil
		}
		w.converge(ctx)
		Expect(conflicts).To(Equal(3))
		Expect(containerNames(w.deployment(ctx, "plain").Spec.Template.Spec.Containers)).To(Equal([]string{"main", "bystander"}))
	})
})

var _ = Describe("Many order slips", func() {
	It("are written although one of them is not, which is tried again", func(ctx context.Context) {
		const workloads = 2 * slipsAtATime
		w := newWorld(ctx)
		for i := range workloads {
			w.createDeployment(ctx, fmt.Sprintf("web-%02d", i), webPod)
		}
		w.createSet(ctx, "agent", `{selector: {}, updateStrategy: {maxConcurrentWorkloads: "100%"}, containers: [{name: agent, image: "a:1"}]}`)
		failed := false
		w.before = func(write string) error {
			if write == "patch *v1.Deployment" && !failed {
				failed = true
				return apierrors.NewInternalError(errors.New("etcd has no leader"))
			}
			return nil
		}
		reconcile := func() (assigned int, err error) {
			_, err = w.sets.Reconcile(ctx, w.set(ctx, "agent"))
			var list appsv1.DeploymentList
			Expect(k8s.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
			for i := range list.Items {
				assigned += len(slipOf(&list.Items[i]))
			}
			return assigned, err
		}
		assigned, err := reconcile()
		Expect(err).To(MatchError(ContainSubstring("etcd has no leader")))
		Expect(assigned).To(Equal(workloads - 1))
		Expect(reconcile()).To(Equal(workloads))
	})
})

var _ = Describe("A workload that can not be read", func() {
	It("is told of, and keeps no other from being counted", func(ctx context.Context) {
		w := newWorld(ctx)
		w.createDeployment(ctx, "good", webPod)
		w.createDeployment(ctx, "bad", webPod)
		w.createSet(ctx, "agent", agentSpec)
		w.converge(ctx)
		broken := &appsv1.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "broken", Labels: map[string]string{v1alpha1.SetLabel: "agent"}},
			Data:       runtime.RawExtension{Raw: []byte(`{"containers": 1}`)},
		}
		Expect(k8s.Create(ctx, broken)).To(Succeed())
		w.updateSet(ctx, "agent", strings.ReplaceAll(agentSpec, "RollingUpdate", "RollingUpdate, paused: true"))
		w.editDeployment(ctx, "bad", "somebody", func(d *appsv1.Deployment) { d.Annotations[v1alpha1.TargetRevisionsAnnotation] = `{"agent":"broken"}` })
		_, err := w.deployments.Reconcile(ctx, requestFor(w.deployment(ctx, "bad")))
		Expect(err).To(MatchError(ContainSubstring("parsing the content of a revision")))
		w.reconcileSets(ctx)
		Expect(w.set(ctx, "agent").Status.Problems).To(HaveExactElements(HaveField("Name", "bad")))
		Expect(w.set(ctx, "agent").Status.Workloads).To(BeEquivalentTo(2))
	})
})

var _ = Describe("A revision's name", func() {
	It("that something else has is not fought for", func(ctx context.Context) {
		w := newWorld(ctx)
		w.createDeployment(ctx, "web", webPod)
		content, err := (&injection.Content{Containers: []v1alpha1.SidecarContainer{{Container: corev1.Container{Name: "agent", Image: "a:1"}}}}).Canonical()
		Expect(err).NotTo(HaveOccurred())
		taken := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: injection.RevisionName("agent", content, 0)}, Revision: 1, Data: runtime.RawExtension{Raw: []byte("{}")}}
		Expect(k8s.Create(ctx, taken)).To(Succeed())
		w.createSet(ctx, "agent", rolling(`containers: [{name: agent, image: "a:1"}]`))
		w.converge(ctx)
		Expect(w.set(ctx, "agent").Status.UpdateRevision).To(Equal(injection.RevisionName("agent", content, 1)))
		Expect(w.set(ctx, "agent").Status.CollisionCount).To(BeEquivalentTo(1))
		Expect(containerNames(w.deployment(ctx, "web").Spec.Template.Spec.Containers)).To(Equal([]string{"web", "agent"}))
	})
})

var _ = Describe("Predicates", func() {
	It("let a Deployment through that concerned us until now, so that its summaries go", func() {
		injected := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.TargetRevisionsAnnotation: `{"a":"a-1"}`}}}
		Expect(concernsUs.Update(event.UpdateEvent{ObjectOld: injected, ObjectNew: &appsv1.Deployment{}})).To(BeTrue())
		Expect(concernsUs.Update(event.UpdateEvent{ObjectOld: &appsv1.Deployment{}, ObjectNew: &appsv1.Deployment{}})).To(BeFalse())
	})
})

var _ = Describe("A paused set", func() {
	It("keeps its container against an older set that wants the name", func(ctx context.Context) {
		w := newWorld(ctx)
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "a", `{selector: {matchLabels: {x: "1"}}, containers: [{name: same, image: "a:1"}]}`)
		w.createSet(ctx, "b", rolling(`containers: [{name: same, image: "b:1"}]`))
		w.converge(ctx)
		w.updateSet(ctx, "b", strings.ReplaceAll(rolling(`containers: [{name: same, image: "b:1"}]`), "RollingUpdate", "RollingUpdate, paused: true"))
		w.updateSet(ctx, "a", rolling(`containers: [{name: same, image: "a:1"}]`))
		w.converge(ctx)
		Expect(w.deployment(ctx, "web").Spec.Template.Spec.Containers[1].Image).To(Equal("b:1"))
		Expect(w.set(ctx, "a").Status.Problems).To(ContainElement(HaveField("Message", `container "same" is rendered by SidecarSet b, which goes before`)))
	})
})
