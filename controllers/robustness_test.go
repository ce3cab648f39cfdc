// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/promotion"
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

var _ = Describe("Many pods of a workload", func() {
	const replicas = 3 * fewPods
	var w *world
	// answerEach gives so many patches of pods these answers; those after them succeed.
	answerEach := func(answers ...error) {
		w.before = func(write string) error {
			if write != "patch *v1.Pod" || len(answers) == 0 {
				return nil
			}
			var err error
			err, answers = answers[0], answers[1:]
			return err
		}
	}
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		atOnce := func(image string) string {
			return fmt.Sprintf(`{selector: {}, updateStrategy: {maxUnavailable: "100%%"}, containers: [{name: agent, image: %q}]}`, image)
		}
		w.createDeployment(ctx, "web", webPod)
		w.editDeployment(ctx, "web", "kubectl", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(replicas)) })
		w.createSet(ctx, "agent", atOnce("agent:1"))
		w.converge(ctx)
		w.rollOut(ctx, "web", replicas)
		w.converge(ctx)
		w.updateSet(ctx, "agent", atOnce("agent:2"))
		w.reconcileSets(ctx)
		reportRollout(ctx, w.deployment(ctx, "web"), replicas)
		w.writes = nil
	})
	reconcileWeb := func(ctx context.Context) error {
		_, err := w.deployments.Reconcile(ctx, requestFor(w.deployment(ctx, "web")))
		return err
	}
	updated := func(ctx context.Context) (count int) {
		for _, image := range w.podImages(ctx) {
			if image == "agent:2" {
				count++
			}
		}
		return count
	}

	It("are updated together, no more at a time than the operator may, in all workloads together", func(ctx context.Context) {
		var underWay, most atomic.Int32
		var full sync.Once
		reached := make(chan struct{})
		base, err := client.NewWithWatch(restConfig, client.Options{Scheme: k8s.Scheme()})
		Expect(err).NotTo(HaveOccurred())
		w.deployments.writer = &writer{client: interceptor.NewClient(base, interceptor.Funcs{
			Patch: func(ctx context.Context, c client.WithWatch, object client.Object, patch client.Patch, options ...client.PatchOption) error {
				now := underWay.Add(1)
				defer underWay.Add(-1)
				most.CompareAndSwap(now-1, now)
				if now == podWritesAtATime {
					full.Do(func() { close(reached) })
				}
				select {
				case <-reached:
				case <-time.After(time.Second): // they come one by one
				}
				return c.Patch(ctx, object, patch, options...)
			},
		})}
		Expect(reconcileWeb(ctx)).To(Succeed())
		Expect(updated(ctx)).To(Equal(replicas))
		Expect(most.Load()).To(BeEquivalentTo(podWritesAtATime))
	})

	It("are looked at once when something happens to several of them", func(ctx context.Context) {
		queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
		defer queue.ShutDown()
		var pods corev1.PodList
		Expect(k8s.List(ctx, &pods, client.InNamespace(w.namespace))).To(Succeed())
		events := workloadOfPod(w.deployments.observer)
		events.Create(ctx, event.CreateEvent{Object: &pods.Items[0]}, queue)
		events.Delete(ctx, event.DeleteEvent{Object: &pods.Items[1]}, queue)
		events.Update(ctx, event.UpdateEvent{ObjectOld: &pods.Items[2], ObjectNew: &pods.Items[2]}, queue)
		Expect(queue.Len()).To(BeZero())
		Eventually(queue.Len).Should(Equal(1))
		first, _ := queue.Get()
		Expect(first).To(Equal(requestFor(w.deployment(ctx, "web"))))
		Consistently(queue.Len, 2*podInterval).Should(BeZero())

		queue.Done(first)
		orphan := pods.Items[2].DeepCopy()
		orphan.OwnerReferences = nil
		events.Update(ctx, event.UpdateEvent{ObjectOld: &pods.Items[2], ObjectNew: orphan}, queue)
		Eventually(queue.Len).Should(Equal(1), "it has lost a pod")
	})

	It("are updated although one of them is not, which is tried again", func(ctx context.Context) {
		answerEach(nil, apierrors.NewInternalError(errors.New("etcd has no leader")))
		Expect(reconcileWeb(ctx)).To(MatchError(ContainSubstring("etcd has no leader")))
		Expect(updated(ctx)).To(Equal(replicas - 1))
		w.ahead += seenWithin // it is not known whether the update whose answer was lost will be seen
		Expect(reconcileWeb(ctx)).To(Succeed())
		Expect(updated(ctx)).To(Equal(replicas))
	})

	It("are replaced by the Deployment when one may not be updated, whatever became of the others", func(ctx context.Context) {
		answers := slices.Repeat([]error{apierrors.NewInternalError(errors.New("etcd has no leader"))}, replicas)
		answers[replicas-1] = apierrors.NewForbidden(corev1.Resource("pods"), "web", errors.New("not in place"))
		answerEach(answers...)
		Expect(reconcileWeb(ctx)).To(Succeed())
		Expect(w.writes).To(ContainElement("apply *v1.Deployment"))
		Expect(w.deployment(ctx, "web").Spec.Template.Spec.Containers[1].Image).To(Equal("agent:2"))
	})
})

var _ = Describe("A rollback by people", func() {
	var w *world
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		w.createDeployment(ctx, "web", webPod)
	})
	// undo does what "kubectl rollout undo" does: the template and the annotations of the Deployment are those of an earlier time.
	undo := func(ctx context.Context, earlier *appsv1.Deployment) {
		GinkgoHelper()
		w.editDeployment(ctx, "web", "kubectl", func(d *appsv1.Deployment) {
			d.Spec.Template, d.Annotations = earlier.Spec.Template, earlier.Annotations
		})
	}
	upgrade := func(ctx context.Context, before, after string) *appsv1.Deployment {
		GinkgoHelper()
		w.createSet(ctx, "agent", rolling(before))
		w.converge(ctx)
		earlier := w.deployment(ctx, "web")
		w.updateSet(ctx, "agent", rolling(after))
		w.converge(ctx)
		return earlier
	}

	It("leaves nothing of the earlier revision behind", func(ctx context.Context) {
		earlier := upgrade(ctx,
			`podMetadata: {labels: {extra: one}}, containers: [{name: agent, image: "a:1", args: [--debug], env: [{name: DEBUG, value: "1"}]}]`,
			`containers: [{name: agent, image: "a:2"}]`)
		undo(ctx, earlier)
		w.converge(ctx)
		template := w.deployment(ctx, "web").Spec.Template
		Expect(template.Labels).NotTo(HaveKey("extra"))
		Expect(template.Spec.Containers[1].Image).To(Equal("a:2"))
		Expect(template.Spec.Containers[1].Args).To(BeEmpty())
		Expect(template.Spec.Containers[1].Env).To(BeEmpty())
	})

	It("is followed by the sidecar of today, whatever it was called", func(ctx context.Context) {
		undo(ctx, upgrade(ctx, `containers: [{name: old, image: "a:1"}]`, `containers: [{name: new, image: "a:2"}]`))
		w.converge(ctx)
		Expect(containerNames(w.deployment(ctx, "web").Spec.Template.Spec.Containers)).To(Equal([]string{"web", "new"}))
		Expect(w.set(ctx, "agent").Status.Problems).To(BeEmpty())
	})

	It("does not bring the revision of an old slip back", func(ctx context.Context) {
		earlier := upgrade(ctx, `containers: [{name: agent, image: "a:1"}]`, `containers: [{name: agent, image: "a:2"}]`)
		Expect(earlier.Annotations).To(HaveKey(v1alpha1.TargetRevisionsAnnotation))
		undo(ctx, earlier)
		w.writes = nil
		_, err := w.deployments.Reconcile(ctx, requestFor(w.deployment(ctx, "web")))
		Expect(err).NotTo(HaveOccurred())
		Expect(w.writes).To(BeEmpty())
		w.converge(ctx)
		Expect(w.deployment(ctx, "web").Spec.Template.Spec.Containers[1].Image).To(Equal("a:2"))
	})

	It("leaves to the application what it brings back of a set that is gone, and the other sets go on", func(ctx context.Context) {
		w.createSet(ctx, "gone", `{selector: {}, containers: [{name: gone, image: "gone:1"}]}`)
		earlier := upgrade(ctx, `containers: [{name: agent, image: "a:1"}]`, `containers: [{name: agent, image: "a:2"}]`)
		w.deleteSet(ctx, "gone")
		w.converge(ctx)
		undo(ctx, earlier)
		w.converge(ctx)
		w.updateSet(ctx, "agent", rolling(`containers: [{name: agent, image: "a:3"}]`))
		w.converge(ctx)
		template := w.deployment(ctx, "web").Spec.Template
		Expect(w.set(ctx, "agent").Status.Problems).To(BeEmpty())
		Expect(containerNames(template.Spec.Containers)).To(ConsistOf("web", "gone", "agent"))
		Expect(template.Spec.Containers).To(ContainElement(HaveField("Image", "a:3")))
		Expect(template.Annotations[v1alpha1.ContainersAnnotation]).To(Equal("agent"))
	})

	It("keeps a sidecar whose revision is not in the history any more", func(ctx context.Context) {
		earlier := upgrade(ctx, `revisionHistoryLimit: 0, containers: [{name: agent, image: "a:1"}]`, `revisionHistoryLimit: 0, containers: [{name: agent, image: "a:2"}]`)
		undo(ctx, earlier)
		w.converge(ctx)
		Expect(containerNames(w.deployment(ctx, "web").Spec.Template.Spec.Containers)).To(Equal([]string{"web", "agent"}))
	})
})

var _ = Describe("What is not ours", func() {
	var w *world
	BeforeEach(func(ctx context.Context) { w = newWorld(ctx) })

	It("stays with who declares it, when a set that shared a value wants another one", func(ctx context.Context) {
		manifest := w.userManifest("web", webPod)
		manifest.Spec.Template.Labels["team"] = "platform"
		Expect(applyManifest(ctx, manifest)).To(Succeed())
		w.createSet(ctx, "log-agent", agentSpec)
		w.converge(ctx)
		w.updateSet(ctx, "log-agent", strings.ReplaceAll(agentSpec, "platform", "observability"))
		w.converge(ctx)
		Expect(w.deployment(ctx, "web").Spec.Template.Labels).To(HaveKeyWithValue("team", "platform"))
		Expect(w.set(ctx, "log-agent").Status.Problems).To(HaveLen(1))
	})

	It("does not keep a set from being told of, whose removal the API server refuses, nor others from going on", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "a", rolling(`containers: [{name: a, image: "a:1"}], volumes: [{name: shared, emptyDir: {}}]`))
		w.createSet(ctx, "b", rolling(`containers: [{name: b, image: "b:1"}]`))
		w.converge(ctx)
		mounts := func(mounts ...corev1.VolumeMount) func(*appsv1.Deployment) {
			return func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].VolumeMounts = mounts }
		}
		own := corev1.VolumeMount{Name: "data", MountPath: "/data"}
		w.editDeployment(ctx, "web", "owner", mounts(own, corev1.VolumeMount{Name: "shared", MountPath: "/shared"}))
		w.deleteSet(ctx, "a")
		w.updateSet(ctx, "b", rolling(`containers: [{name: b, image: "b:2"}]`))
		w.converge(ctx)
		Expect(w.set(ctx, "a").Status.Problems).To(ContainElement(And(
			HaveField("Reason", v1alpha1.ReasonPreflightFailed), HaveField("Message", ContainSubstring(`Not found: "shared"`)),
		)))
		Expect(w.set(ctx, "b").Status.Problems).To(BeEmpty())
		Expect(w.deployment(ctx, "web").Spec.Template.Spec.Containers[2].Image).To(Equal("b:2"))

		w.editDeployment(ctx, "web", "owner", mounts(own))
		w.converge(ctx)
		Expect(containerNames(w.deployment(ctx, "web").Spec.Template.Spec.Containers)).To(Equal([]string{"web", "b"}))
		Expect(w.listSets(ctx)).To(HaveLen(1))
	})

	It("is another set's mount at the same path of another container", func(ctx context.Context) {
		w.createDeployment(ctx, "web", `{containers: [{name: web, image: "web:1"}, {name: side, image: "s:1"}]}`)
		a := `containers: [{name: a, image: "a:1"}], volumes: [{name: va, emptyDir: {}, appMounts: [{mountPath: /logs, containers: [web]}]}]`
		w.createSet(ctx, "a", rolling(a))
		w.createSet(ctx, "b", rolling(`containers: [{name: b, image: "b:1"}], volumes: [{name: vb, emptyDir: {}, appMounts: [{mountPath: /logs, containers: [side]}]}]`))
		w.converge(ctx)
		before := w.deployment(ctx, "web").Spec
		w.updateSet(ctx, "a", strings.ReplaceAll(rolling(a), "RollingUpdate", "RollingUpdate, paused: true"))
		w.converge(ctx)
		Expect(w.deployment(ctx, "web").Spec).To(Equal(before))
		Expect(w.set(ctx, "b").Status.Problems).To(BeEmpty())
	})

	It("takes no place in status or way when it is a Deployment that is being deleted", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "agent", agentSpec)
		w.converge(ctx)
		w.editDeployment(ctx, "web", "owner", func(d *appsv1.Deployment) { d.Finalizers = []string{"example.com/wait"} })
		Expect(k8s.Delete(ctx, w.deployment(ctx, "web"))).To(Succeed())
		w.writes = nil
		w.converge(ctx)
		Expect(w.writes).To(ConsistOf("patch status *v1alpha1.SidecarSet"))
		Expect(w.line(ctx, "agent")).To(ContainSubstring("Ready=True/NoWorkloads"))
		w.deleteSet(ctx, "agent")
		w.converge(ctx)
		Expect(w.listSets(ctx)).To(BeEmpty())
		w.editDeployment(ctx, "web", "owner", func(d *appsv1.Deployment) { d.Finalizers = nil })
	})
})

var _ = Describe("Lost marks", func() {
	var w *world
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "agent", agentSpec)
		w.converge(ctx)
	})

	It("take nothing out when it is the order slip", func(ctx context.Context) {
		before := w.deployment(ctx, "web").Spec
		w.editDeployment(ctx, "web", "terraform", func(d *appsv1.Deployment) { d.Annotations = nil })
		_, err := w.deployments.Reconcile(ctx, requestFor(w.deployment(ctx, "web")))
		Expect(err).NotTo(HaveOccurred())
		Expect(w.deployment(ctx, "web").Spec).To(Equal(before))
		w.converge(ctx)
		Expect(w.deployment(ctx, "web").Annotations).To(HaveKey(v1alpha1.TargetRevisionsAnnotation))
		Expect(w.deployment(ctx, "web").Spec).To(Equal(before))
	})

	It("take nothing out of a set that is paused", func(ctx context.Context) {
		w.updateSet(ctx, "agent", strings.ReplaceAll(agentSpec, "RollingUpdate", "RollingUpdate, paused: true"))
		w.editDeployment(ctx, "web", "owner", func(d *appsv1.Deployment) { d.Spec.Template.Annotations = nil })
		w.converge(ctx)
		Expect(containerNames(w.deployment(ctx, "web").Spec.Template.Spec.Containers)).To(Equal([]string{"web", "agent"}))
	})

	It("are told of when it is a revision that a paused set was assigned", func(ctx context.Context) {
		w.updateSet(ctx, "agent", strings.ReplaceAll(upgraded(agentSpec), "RollingUpdate", "RollingUpdate, paused: true"))
		for _, revision := range w.revisions(ctx) {
			Expect(k8s.Delete(ctx, &revision)).To(Succeed())
		}
		w.converge(ctx)
		Expect(w.set(ctx, "agent").Status.Problems).To(ContainElement(HaveField("Message", ContainSubstring("is gone"))))
		Expect(containerNames(w.deployment(ctx, "web").Spec.Template.Spec.Containers)).To(Equal([]string{"web", "agent"}))
		w.updateSet(ctx, "agent", upgraded(agentSpec))
		w.converge(ctx)
		Expect(w.set(ctx, "agent").Status.Problems).To(BeEmpty())
		Expect(w.deployment(ctx, "web").Spec.Template.Spec.Containers[1].Image).To(Equal("agent:2"))
	})
})

var _ = Describe("The intent of an earlier promotion", func() {
	It("is removed when somebody has brought it back, and keeps nothing from being done", func(ctx context.Context) {
		w := newWorld(ctx)
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "agent", agentSpec)
		w.converge(ctx)
		w.editDeployment(ctx, "web", "kubectl-rollout", func(d *appsv1.Deployment) {
			d.Annotations[v1alpha1.PromotionAnnotation] = (&promotion.Intent{ReplicaSet: "gone"}).Encode()
		})
		w.updateSet(ctx, "agent", upgraded(agentSpec))
		w.converge(ctx)
		Expect(w.deployment(ctx, "web").Annotations).NotTo(HaveKey(v1alpha1.PromotionAnnotation))
		Expect(w.deployment(ctx, "web").Spec.Template.Spec.Containers[1].Image).To(Equal("agent:2"))
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

var _ = Describe("A pod that was chosen because it is unavailable", func() {
	It("is left alone when it has become available, also by a resize", func(ctx context.Context) {
		w := newWorld(ctx)
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "agent", inPlace(`containers: [{name: agent, image: "agent:1", resources: {requests: {cpu: 10m}}}]`))
		w.converge(ctx)
		w.rollOut(ctx, "web", 1)
		w.converge(ctx)
		w.setReady(ctx, corev1.ConditionFalse)
		w.updateSet(ctx, "agent", inPlace(`containers: [{name: agent, image: "agent:2", resources: {requests: {cpu: 20m}}}]`))
		w.reconcileSets(ctx)
		reportRollout(ctx, w.deployment(ctx, "web"), 1)

		w.writes = nil
		w.before = func(write string) error {
			if write == "patch resize *v1.Pod" {
				w.setReady(ctx, corev1.ConditionTrue)
			}
			return nil
		}
		_, err := w.deployments.Reconcile(ctx, requestFor(w.deployment(ctx, "web")))
		Expect(err).NotTo(HaveOccurred())
		Expect(w.writes).To(Equal([]string{"patch resize *v1.Pod"}), "it is refused, which is no reason to go through the template")
	})
})

var _ = Describe("A partition", func() {
	var w *world
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		w.createDeployment(ctx, "web", webPod)
	})
	spec := func(strategy, image, level string) string {
		return fmt.Sprintf(`{selector: {}, updateStrategy: {%s}, containers: [{name: agent, image: %q, env: [{name: LEVEL, value: %s}]}]}`, strategy, image, level)
	}
	levels := func(ctx context.Context) (levels []string) {
		for _, container := range w.deployment(ctx, "web").Spec.Template.Spec.Containers[1:] {
			levels = append(levels, container.Image+" "+container.Env[0].Value)
		}
		return levels
	}
	const inPlace, rolling = "type: InPlace, partition: 1", "type: RollingUpdate, partition: 1"

	It("keeps a change that replaces pods from all of them, until it is 0", func(ctx context.Context) {
		w.createSet(ctx, "agent", spec(inPlace, "agent:1", "info"))
		w.converge(ctx)
		Expect(levels(ctx)).To(Equal([]string{"agent:1 info"}), "a first injection has no old revision")
		w.updateSet(ctx, "agent", spec(inPlace, "agent:1", "debug"))
		w.converge(ctx)
		Expect(levels(ctx)).To(Equal([]string{"agent:1 info"}))
		Expect(w.line(ctx, "agent")).To(ContainSubstring("Partitioned"))
		w.updateSet(ctx, "agent", spec(rolling, "agent:2", "info"))
		w.converge(ctx)
		Expect(levels(ctx)).To(Equal([]string{"agent:1 info"}))

		w.updateSet(ctx, "agent", spec("partition: 0", "agent:1", "debug"))
		w.converge(ctx)
		Expect(levels(ctx)).To(Equal([]string{"agent:1 debug"}))
	})

	It("holds up no other set", func(ctx context.Context) {
		w.createSet(ctx, "agent", spec(inPlace, "agent:1", "info"))
		w.createSet(ctx, "b-other", strings.ReplaceAll(spec("partition: 0", "other:1", "info"), "name: agent", "name: other"))
		w.converge(ctx)
		w.updateSet(ctx, "agent", spec(inPlace, "agent:2", "info")) // which alone would go in place
		w.updateSet(ctx, "b-other", strings.ReplaceAll(spec("partition: 0", "other:1", "debug"), "name: agent", "name: other"))
		w.converge(ctx)
		Expect(levels(ctx)).To(ContainElements("agent:1 info", "other:1 debug"))
	})

	It("keeps no other set from running pods", func(ctx context.Context) {
		other := func(level string) string {
			return strings.ReplaceAll(spec("partition: 1", "other:1", level), "name: agent", "name: other")
		}
		w.editDeployment(ctx, "web", "kubectl", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(3)) })
		w.createSet(ctx, "agent", spec(inPlace, "agent:1", "info"))
		w.createSet(ctx, "b-other", other("info"))
		w.converge(ctx)
		w.rollOut(ctx, "web", 3)
		w.converge(ctx)
		w.updateSet(ctx, "b-other", other("debug"))
		w.updateSet(ctx, "agent", spec(inPlace, "agent:2", "info"))
		w.reconcileSets(ctx)
		reportRollout(ctx, w.deployment(ctx, "web"), 3)
		w.converge(ctx)
		Expect(levels(ctx)).To(ConsistOf("agent:1 info", "other:1 info"))
		Expect(w.podImages(ctx)).To(ContainElement("agent:2"))
		Expect(w.line(ctx, "b-other")).To(ContainSubstring("Progressing=False/Partitioned"))
	})

	It("names what the API server refuses in running pods, and does not try that at every event", func(ctx context.Context) {
		w.editDeployment(ctx, "web", "kubectl", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(3)) })
		w.createSet(ctx, "agent", spec(inPlace, "agent:1", "info"))
		w.converge(ctx)
		w.rollOut(ctx, "web", 3)
		w.converge(ctx)
		w.answer("patch *v1.Pod", apierrors.NewForbidden(corev1.Resource("pods"), "web", errors.New("not in place")))
		w.updateSet(ctx, "agent", spec(inPlace, "agent:2", "info"))
		w.carryOn(ctx, "web")
		Expect(levels(ctx)).To(Equal([]string{"agent:1 info"}))
		Expect(w.set(ctx, "agent").Status.Problems).To(ConsistOf(HaveField("Message", And(ContainSubstring("set partition to 0"), ContainSubstring("not in place")))))
		w.writes = nil
		w.reconcileAll(ctx)
		Expect(w.writes).To(BeEmpty())

		w.updateSet(ctx, "agent", spec("type: InPlace, partition: 0", "agent:2", "info"))
		w.carryOn(ctx, "web")
		Expect(levels(ctx)).To(Equal([]string{"agent:2 info"}))
	})

	It("does not keep a revision from coming back that has proven itself", func(ctx context.Context) {
		w.createSet(ctx, "agent", spec("partition: 0", "agent:1", "info"))
		w.converge(ctx)
		w.rollOut(ctx, "web", 1)
		w.converge(ctx)
		w.updateSet(ctx, "agent", spec("partition: 0", "agent:1", "debug"))
		w.converge(ctx)
		Expect(levels(ctx)).To(Equal([]string{"agent:1 debug"}))
		w.updateSet(ctx, "agent", spec(inPlace, "agent:1", "info"))
		w.converge(ctx)
		Expect(levels(ctx)).To(Equal([]string{"agent:1 info"}))
	})
})

var _ = Describe("An order slip that is older than the spec", func() {
	It("has no pod updated, whose new spec may want something else", func(ctx context.Context) {
		w := newWorld(ctx)
		w.createDeployment(ctx, "web", webPod)
		partitioned := func(partition int, image string) string {
			return fmt.Sprintf(`{selector: {}, updateStrategy: {type: InPlace, partition: %d}, containers: [{name: agent, image: %q}]}`, partition, image)
		}
		w.createSet(ctx, "agent", partitioned(0, "agent:1"))
		w.converge(ctx)
		w.rollOut(ctx, "web", 1)
		w.converge(ctx)
		w.updateSet(ctx, "agent", partitioned(1, "agent:2"))
		w.converge(ctx)
		reportRollout(ctx, w.deployment(ctx, "web"), 1)
		reconcile := func() {
			_, err := w.deployments.Reconcile(ctx, requestFor(w.deployment(ctx, "web")))
			Expect(err).NotTo(HaveOccurred())
		}

		w.updateSet(ctx, "agent", partitioned(0, "agent:1"))
		w.writes = nil
		reconcile()
		Expect(w.writes).To(BeEmpty(), "agent:2 is not wanted any more")

		w.updateSet(ctx, "agent", partitioned(0, "agent:2"))
		reconcile()
		Expect(w.writes).To(Equal([]string{"patch *v1.Pod"}), "the slip says what the spec says")
	})
})

var _ = Describe("A ReplicaSet that may not be changed", func() {
	It("does not keep its Deployment paused, and is tried again after a while", func(ctx context.Context) {
		w := newWorld(ctx)
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "agent", inPlace(`containers: [{name: agent, image: "agent:1"}]`))
		w.converge(ctx)
		w.rollOut(ctx, "web", 1)
		w.converge(ctx)
		w.updateSet(ctx, "agent", inPlace(`containers: [{name: agent, image: "agent:2"}]`))
		w.reconcileSets(ctx)

		refused := apierrors.NewForbidden(appsv1.Resource("replicasets"), "web", errors.New("the policy of the house"))
		w.writes = nil
		w.before = func(write string) error {
			if write == "patch *v1.ReplicaSet" {
				return refused
			}
			return nil
		}
		step := func() {
			reportRollout(ctx, w.deployment(ctx, "web"), 1)
			_, err := w.deployments.Reconcile(ctx, requestFor(w.deployment(ctx, "web")))
			Expect(err).NotTo(HaveOccurred())
			w.restartContainers(ctx)
		}
		for range 10 {
			step()
		}
		Expect(w.deployment(ctx, "web").Spec.Paused).To(BeFalse())
		Expect(slices.DeleteFunc(slices.Clone(w.writes), func(write string) bool { return write != "patch *v1.ReplicaSet" })).To(HaveLen(1))
		w.reconcileSets(ctx)
		Expect(w.set(ctx, "agent").Status.Problems).To(ContainElement(HaveField("Message", ContainSubstring("the policy of the house"))))

		w.before = func(string) error { return nil }
		w.ahead += tryAgain
		for range 10 {
			step()
		}
		deployment := w.deployment(ctx, "web")
		Expect(deployment.Spec.Paused).To(BeFalse())
		Expect(deployment.Spec.Template.Spec.Containers[1].Image).To(Equal("agent:2"))
	})
})

// setReady makes the pods of a world ready, or not.
func (w *world) setReady(ctx context.Context, status corev1.ConditionStatus) {
	GinkgoHelper()
	var pods corev1.PodList
	Expect(k8s.List(ctx, &pods, client.InNamespace(w.namespace))).To(Succeed())
	for i := range pods.Items {
		for j := range pods.Items[i].Status.Conditions {
			pods.Items[i].Status.Conditions[j].Status = status
		}
		Expect(k8s.Status().Update(ctx, &pods.Items[i])).To(Succeed())
	}
}
