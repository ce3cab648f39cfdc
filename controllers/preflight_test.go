// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

const (
	// modest is what the restricted profile asks of a container.
	modest      = `securityContext: {allowPrivilegeEscalation: false, runAsNonRoot: true, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}`
	modestPod   = `containers: [{name: web, image: "web:1", ` + modest + `}]`
	modestAgent = `containers: [{name: agent, image: "agent:1", ` + modest + `}]`
	rootAgent   = `containers: [{name: agent, image: "agent:1"}]`
)

// inPlace is the spec of a set whose changes go into running pods.
func inPlace(rest string) string {
	return "{selector: {matchLabels: {logging: enabled}}, " + rest + "}"
}

// restrict lets the namespace enforce the restricted profile. The API server's admission hears of it by a watch.
func (w *world) restrict(ctx context.Context) {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.namespace}}
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"restricted"}}}`))
	Expect(k8s.Patch(ctx, namespace, patch)).To(Succeed())
	w.untilRefused(ctx)
}

// fillQuota lets the namespace have no pod more than it has. There is no controller here that would count them.
func (w *world) fillQuota(ctx context.Context) *corev1.ResourceQuota {
	GinkgoHelper()
	pods := corev1.ResourceList{corev1.ResourcePods: resource.MustParse("3")}
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "pods"}, Spec: corev1.ResourceQuotaSpec{Hard: pods}}
	Expect(k8s.Create(ctx, quota)).To(Succeed())
	quota.Status = corev1.ResourceQuotaStatus{Hard: pods, Used: pods}
	Expect(k8s.Status().Update(ctx, quota)).To(Succeed())
	w.untilRefused(ctx)
	return quota
}

func (w *world) untilRefused(ctx context.Context) {
	GinkgoHelper()
	Eventually(func() error { return w.tryPod(ctx) }).Should(MatchError(apierrors.IsForbidden, "forbidden"))
}

// tryPod is a dry run of a pod with a root container.
func (w *world) tryPod(ctx context.Context) error {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, GenerateName: "try-"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "root", Image: "root:1"}}},
	}
	return k8s.Create(ctx, pod, client.DryRunAll)
}

// answer lets the API server answer requests so that begin like this.
func (w *world) answer(request string, err error) {
	w.before = func(write string) error {
		if strings.HasPrefix(write, request) {
			return err
		}
		return nil
	}
}

// carryOn converges after the Deployment controller has seen that a set assigned something.
func (w *world) carryOn(ctx context.Context, name string) {
	GinkgoHelper()
	w.ahead = slipObserved
	w.reconcileSets(ctx)
	deployment := w.deployment(ctx, name)
	reportRollout(ctx, deployment, *deployment.Spec.Replicas)
	w.converge(ctx)
}

func (w *world) images(ctx context.Context, name string) (result []string) {
	GinkgoHelper()
	for _, container := range w.deployment(ctx, name).Spec.Template.Spec.Containers {
		result = append(result, container.Image)
	}
	return result
}

// podImages are the images of the second containers of all pods.
func (w *world) podImages(ctx context.Context) (result []string) {
	GinkgoHelper()
	var pods corev1.PodList
	Expect(k8s.List(ctx, &pods, client.InNamespace(w.namespace))).To(Succeed())
	for i := range pods.Items {
		result = append(result, pods.Items[i].Spec.Containers[1].Image)
	}
	return result
}

const (
	refusedByPodSecurity = `nothing is changed, because the API server would refuse a pod with it; correct the set, or what the namespace allows: forbidden: violates PodSecurity "restricted:latest"`
	refusedByQuota       = `nothing is changed, because the API server would refuse a pod with it; correct the set, or what the namespace allows: forbidden: exceeded quota: pods, requested: pods=1, used: pods=3, limited: pods=3`
)

var _ = Describe("Preflight", func() {
	var w *world
	BeforeEach(func(ctx context.Context) { w = newWorld(ctx) })

	problem := func(message string) OmegaMatcher {
		return HaveExactElements(And(HaveField("Name", "web"), HaveField("Reason", v1alpha1.ReasonPreflightFailed), HaveField("Message", HavePrefix(message))))
	}

	It("reports a sidecar that PodSecurity would refuse, and touches nothing until the set is corrected", func(ctx context.Context) {
		w.restrict(ctx)
		w.createDeployment(ctx, "web", "{"+modestPod+"}")
		w.createSet(ctx, "agent", inPlace(rootAgent))
		before := w.deployment(ctx, "web").Spec
		w.converge(ctx)
		Expect(w.set(ctx, "agent").Status.Problems).To(problem(refusedByPodSecurity))
		Expect(w.line(ctx, "agent")).To(ContainSubstring("Degraded=True/PreflightFailed"))
		Expect(w.deployment(ctx, "web").Spec).To(Equal(before))
		Expect(w.writes).NotTo(ContainElement(HavePrefix("apply")))

		w.updateSet(ctx, "agent", inPlace(modestAgent))
		w.converge(ctx)
		Expect(w.set(ctx, "agent").Status.Problems).To(BeEmpty())
		Expect(w.images(ctx, "web")).To(Equal([]string{"web:1", "agent:1"}))
	})

	It("asks once, and once more after some time", func(ctx context.Context) {
		w.restrict(ctx)
		w.createDeployment(ctx, "web", "{"+modestPod+"}")
		w.createSet(ctx, "agent", inPlace(rootAgent))
		w.converge(ctx)
		Expect(w.tries).To(Equal([]string{"dry-run *v1.Deployment", "dry-run *v1.Pod"}))
		status := w.set(ctx, "agent").Status
		w.writes, w.tries = nil, nil
		w.reconcileAll(ctx)
		w.reconcileAll(ctx)
		Expect(w.tries).To(BeEmpty())

		w.ahead += tryAgain
		w.reconcileAll(ctx)
		w.reconcileAll(ctx)
		Expect(w.tries).To(Equal([]string{"dry-run *v1.Deployment", "dry-run *v1.Pod"}))
		Expect(w.writes).To(BeEmpty())
		Expect(w.set(ctx, "agent").Status).To(Equal(status))
	})

	It("holds the set that is refused, and lets the others go on, each in its way", func(ctx context.Context) {
		w.createDeployment(ctx, "web", "{"+modestPod+"}")
		w.createSet(ctx, "agent", inPlace(modestAgent))
		w.converge(ctx)
		w.rollOut(ctx, "web", 1)
		w.restrict(ctx)
		w.createSet(ctx, "root", inPlace(`containers: [{name: root, image: "root:1"}]`))
		w.updateSet(ctx, "agent", inPlace(upgraded(modestAgent)))
		w.carryOn(ctx, "web")
		Expect(w.set(ctx, "root").Status.Problems).To(problem(refusedByPodSecurity))
		Expect(w.set(ctx, "agent").Status.Problems).To(BeEmpty())
		Expect(w.images(ctx, "web")).To(Equal([]string{"web:1", "agent:1"}), "the template follows its pods")
		Expect(w.podImages(ctx)).To(Equal([]string{"agent:2"}))
	})

	It("reports a quota that is full, and goes on when it is not", func(ctx context.Context) {
		quota := w.fillQuota(ctx)
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "agent", inPlace(rootAgent))
		before := w.deployment(ctx, "web").Spec
		w.converge(ctx)
		Expect(w.set(ctx, "agent").Status.Problems).To(problem(refusedByQuota))
		Expect(w.deployment(ctx, "web").Spec).To(Equal(before))

		Expect(k8s.Delete(ctx, quota)).To(Succeed())
		Eventually(func() error { return w.tryPod(ctx) }).Should(Succeed())
		w.ahead = slipObserved + tryAgain
		w.reconcileAll(ctx)
		Expect(w.images(ctx, "web")).To(Equal([]string{"web:1", "agent:1"}))
	})

	It("reports what a LimitRange does not allow", func(ctx context.Context) {
		limits := &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "small"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
			{Type: corev1.LimitTypeContainer, Max: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}, Default: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("32Mi")}},
		}}}
		Expect(k8s.Create(ctx, limits)).To(Succeed())
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "agent", inPlace(`containers: [{name: agent, image: "agent:1", resources: {limits: {memory: 128Mi}}}]`))
		w.converge(ctx)
		Expect(w.set(ctx, "agent").Status.Problems).To(HaveExactElements(HaveField("Message", ContainSubstring("maximum memory usage per Container is 64Mi, but limit is 128Mi"))))
		Expect(w.images(ctx, "web")).To(Equal([]string{"web:1"}))
	})

	It("lets a full quota not keep content from being taken out, nor workloads that have no pods", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		w.createDeployment(ctx, "idle", webPod)
		w.createSet(ctx, "agent", inPlace(rootAgent))
		w.converge(ctx)
		w.fillQuota(ctx)
		w.editDeployment(ctx, "idle", "owner", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(0)) })
		w.editDeployment(ctx, "web", "owner", func(d *appsv1.Deployment) { d.Annotations[v1alpha1.ExcludeAnnotation] = "true" })
		w.updateSet(ctx, "agent", inPlace(`containers: [{name: agent, image: "agent:1", args: [--more]}]`))
		w.converge(ctx)
		Expect(w.images(ctx, "web")).To(Equal([]string{"web:1"}))
		Expect(w.deployment(ctx, "idle").Spec.Template.Spec.Containers[1].Args).To(Equal([]string{"--more"}))
		Expect(w.set(ctx, "agent").Status.Problems).To(BeEmpty())
	})

	It("lets a full quota not keep a correction from a rollout that is stuck", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		w.editDeployment(ctx, "web", "owner", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(2)) })
		w.createSet(ctx, "agent", rolling(rootAgent))
		w.converge(ctx)
		w.rollOut(ctx, "web", 2)
		w.updateSet(ctx, "agent", rolling(upgraded(rootAgent)))
		w.converge(ctx)
		w.rollOut(ctx, "web", 1)
		var replicaSets appsv1.ReplicaSetList
		Expect(k8s.List(ctx, &replicaSets, client.InNamespace(w.namespace))).To(Succeed())
		for i := range replicaSets.Items {
			replicaSets.Items[i].Spec.Replicas = new(int32(1))
			Expect(k8s.Update(ctx, &replicaSets.Items[i])).To(Succeed())
		}
		w.fillQuota(ctx)
		w.updateSet(ctx, "agent", rolling(strings.ReplaceAll(rootAgent, ":1", ":3")))
		w.converge(ctx)
		Expect(w.images(ctx, "web")).To(Equal([]string{"web:1", "agent:3"}))
	})

	It("changes nothing for an error that is no refusal", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "agent", inPlace(rootAgent))
		w.ahead = slipObserved
		w.reconcileSets(ctx)
		w.answer("dry-run *v1.Pod", apierrors.NewInternalError(errors.New("a webhook took too long")))
		_, err := w.deployments.Reconcile(ctx, requestFor(w.deployment(ctx, "web")))
		Expect(err).To(MatchError(ContainSubstring("took too long")))
		Expect(w.images(ctx, "web")).To(Equal([]string{"web:1"}))

		w.answer("", nil)
		w.converge(ctx)
		Expect(w.images(ctx, "web")).To(Equal([]string{"web:1", "agent:1"}))
		Expect(w.set(ctx, "agent").Status.Problems).To(BeEmpty())
	})

	It("does without when a webhook does not bear dry runs", func(ctx context.Context) {
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "agent", inPlace(rootAgent))
		w.answer(dryRun, apierrors.NewBadRequest(`admission webhook "a.example.com" does not support dry run`))
		w.converge(ctx)
		Expect(w.images(ctx, "web")).To(Equal([]string{"web:1", "agent:1"}))
	})

	Describe("of a change that goes into running pods", func() {
		begin := func(ctx context.Context, set string) {
			GinkgoHelper()
			w.createDeployment(ctx, "web", webPod)
			w.editDeployment(ctx, "web", "owner", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(3)) })
			w.createSet(ctx, "agent", set)
			w.converge(ctx)
			w.rollOut(ctx, "web", 3)
			w.writes, w.tries = nil, nil
		}

		It("reports what PodSecurity would refuse now, and touches no pod", func(ctx context.Context) {
			begin(ctx, inPlace(rootAgent))
			w.restrict(ctx)
			w.updateSet(ctx, "agent", inPlace(upgraded(rootAgent)))
			before := w.deployment(ctx, "web").Spec
			w.carryOn(ctx, "web")
			Expect(w.set(ctx, "agent").Status.Problems).To(problem(refusedByPodSecurity))
			Expect(w.podImages(ctx)).To(Equal([]string{"agent:1", "agent:1", "agent:1"}))
			Expect(w.deployment(ctx, "web").Spec).To(Equal(before))
			Expect(w.writes).NotTo(ContainElement("patch *v1.Pod"))
		})

		It("asks once, however long the pods take, and does not mind a quota that is full", func(ctx context.Context) {
			begin(ctx, inPlace(rootAgent))
			w.fillQuota(ctx)
			w.updateSet(ctx, "agent", inPlace(upgraded(rootAgent)))
			w.carryOn(ctx, "web")
			Expect(w.podImages(ctx)).To(ConsistOf("agent:1", "agent:1", "agent:2"))
			w.reconcileAll(ctx)
			Expect(w.tries).To(Equal([]string{"dry-run *v1.Deployment", "dry-run *v1.Pod"}))
		})

		Describe("of several workloads", func() {
			all := []string{"dry-run *v1.Deployment", "dry-run *v1.Pod"}
			// beginWith gives workloads the set, the one that begin makes besides.
			beginWith := func(ctx context.Context, set string, names ...string) {
				GinkgoHelper()
				for _, name := range names {
					w.createDeployment(ctx, name, webPod)
				}
				begin(ctx, set)
				for _, name := range names {
					w.rollOut(ctx, name, 1)
				}
			}
			assign := func(ctx context.Context, set string) {
				GinkgoHelper()
				w.updateSet(ctx, "agent", set)
				w.ahead = slipObserved
				w.reconcileSets(ctx)
			}
			// reconcile returns what is tried for a workload.
			reconcile := func(ctx context.Context, name string) []string {
				GinkgoHelper()
				w.tries = nil
				deployment := w.deployment(ctx, name)
				reportRollout(ctx, deployment, *deployment.Spec.Replicas)
				_, err := w.deployments.Reconcile(ctx, requestFor(deployment))
				Expect(err).NotTo(HaveOccurred())
				return w.tries
			}

			It("asks for one, and for each about which something is special", func(ctx context.Context) {
				beginWith(ctx, inPlace(rootAgent), "again", "api", "empty", "shared", "taken")
				manifest := w.userManifest("shared", `{containers: [{name: web, image: "web:1"}, {name: agent, image: "agent:1"}]}`)
				Expect(applyManifest(ctx, manifest)).To(Succeed(), "somebody else declares the very image")
				w.editDeployment(ctx, "taken", "kubectl-set", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[1].Image = "theirs:1" })
				w.rollOut(ctx, "taken", 1)
				w.editDeployment(ctx, "empty", "owner", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(0)) })
				assign(ctx, inPlace(upgraded(rootAgent)))
				Expect(reconcile(ctx, "web")).To(Equal(all))
				Expect(reconcile(ctx, "api")).To(BeEmpty())
				Expect(w.podImages(ctx)).To(ContainElements("agent:2", "agent:2"), "both were updated")
				Expect(reconcile(ctx, "empty")).To(Equal(all), "it has no pods that would be asked for")
				Expect(reconcile(ctx, "shared")).To(HaveExactElements("dry-run *v1.Deployment"), "which is refused: the image has another owner as well")
				Expect(reconcile(ctx, "taken")).To(HaveExactElements("dry-run *v1.Deployment"), "which is refused: the image has another owner")
				w.ahead += tryAgain
				Expect(reconcile(ctx, "again")).To(Equal(all), "what a namespace allows may have changed")
			})

			It("asks for each when resources change as well", func(ctx context.Context) {
				const agent = `containers: [{name: agent, image: "agent:1", resources: {requests: {cpu: 10m}}}]`
				beginWith(ctx, inPlace(agent), "api")
				assign(ctx, inPlace(strings.ReplaceAll(upgraded(agent), "10m", "20m")))
				w.answer("patch resize *v1.Pod", apierrors.NewConflict(corev1.Resource("pods"), "", errors.New("of a node that could resize it, there is none here")))
				Expect(reconcile(ctx, "web")).To(Equal(all))
				Expect(reconcile(ctx, "api")).To(Equal(all))
			})

			It("asks again for one that was refused, whatever was accepted elsewhere", func(ctx context.Context) {
				beginWith(ctx, inPlace(rootAgent), "api")
				assign(ctx, inPlace(upgraded(rootAgent)))
				w.answer("dry-run *v1.Deployment", apierrors.NewForbidden(appsv1.Resource("deployments"), "api", errors.New("of a label that it has")))
				Expect(reconcile(ctx, "api")).NotTo(BeEmpty())
				w.answer("", nil)
				w.ahead += tryAgain / 2
				Expect(reconcile(ctx, "web")).To(Equal(all))
				w.ahead += tryAgain / 2
				Expect(reconcile(ctx, "api")).To(Equal(all))
			})

			It("takes nothing for accepted that was not judged", func(ctx context.Context) {
				beginWith(ctx, inPlace(rootAgent), "api")
				assign(ctx, inPlace(upgraded(rootAgent)))
				w.answer("dry-run *v1.Pod", apierrors.NewBadRequest(`admission webhook "a.example.com" does not support dry run`))
				Expect(reconcile(ctx, "web")).To(Equal(all))
				w.answer("", nil)
				Expect(reconcile(ctx, "api")).To(Equal(all))
			})
		})

		It("lets a change that pods do not take go through the template, if a new pod would be accepted", func(ctx context.Context) {
			begin(ctx, inPlace(`containers: [{name: agent, image: "agent:1", resources: {requests: {cpu: 10m}}}]`))
			quota := w.fillQuota(ctx)
			w.answer("patch resize *v1.Pod", apierrors.NewForbidden(corev1.Resource("pods"), "web", errors.New("another quality of service class")))
			w.updateSet(ctx, "agent", inPlace(`containers: [{name: agent, image: "agent:2", resources: {requests: {cpu: 20m}}}]`))
			w.carryOn(ctx, "web")
			Expect(w.set(ctx, "agent").Status.Problems).To(problem(refusedByQuota))
			Expect(w.images(ctx, "web")).To(Equal([]string{"web:1", "agent:1"}))
			w.writes, w.tries = nil, nil
			w.reconcileAll(ctx)
			Expect(append(w.writes, w.tries...)).To(BeEmpty())

			Expect(k8s.Delete(ctx, quota)).To(Succeed())
			Eventually(func() error { return w.tryPod(ctx) }).Should(Succeed())
			w.ahead = slipObserved + tryAgain
			w.reconcileAll(ctx)
			w.reconcileAll(ctx) // without what running pods were refused
			Expect(w.images(ctx, "web")).To(Equal([]string{"web:1", "agent:2"}))
		})
	})
})
