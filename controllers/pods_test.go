// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

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
		var mutex sync.Mutex
		var underWay, most int
		var full sync.Once
		reached := make(chan struct{})
		base, err := client.NewWithWatch(restConfig, client.Options{Scheme: k8s.Scheme()})
		Expect(err).NotTo(HaveOccurred())
		w.deployments.writer = &writer{client: interceptor.NewClient(base, interceptor.Funcs{
			Patch: func(ctx context.Context, c client.WithWatch, object client.Object, patch client.Patch, options ...client.PatchOption) error {
				count := func(change int) {
					mutex.Lock()
					defer mutex.Unlock()
					underWay += change
					most = max(most, underWay)
					if underWay == podWritesAtATime {
						full.Do(func() { close(reached) })
					}
				}
				count(1)
				defer count(-1)
				select {
				case <-reached:
				case <-time.After(time.Second): // they come one by one
				}
				return c.Patch(ctx, object, patch, options...)
			},
		})}
		Expect(reconcileWeb(ctx)).To(Succeed())
		Expect(updated(ctx)).To(Equal(replicas))
		Expect(most).To(Equal(podWritesAtATime))
	})

	It("are not stuck while they are updated, though the application fails in one", func(ctx context.Context) {
		w.failApplication(ctx)
		Expect(reconcileWeb(ctx)).To(Succeed())
		Expect(w.deployments.summaries.get(w.key("web"), "agent").Problem).To(BeNil())
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
		Expect(reconcileWeb(ctx)).To(Succeed(), "it looks again without what was refused")
		Expect(w.writes).To(ContainElement("apply *v1.Deployment"))
		Expect(w.deployment(ctx, "web").Spec.Template.Spec.Containers[1].Image).To(Equal("agent:2"))
	})

	It("are tried once a minute when they may neither be updated nor replaced", func(ctx context.Context) {
		refuses := true
		w.before = func(write string) error {
			if refuses && (write == "patch *v1.Pod" || write == dryRun+" *v1.Pod") {
				return apierrors.NewForbidden(corev1.Resource("pods"), "web", errors.New("exceeded quota: pods"))
			}
			return nil
		}
		reconcileOften := func() {
			w.writes = nil
			for range 4 {
				Expect(reconcileWeb(ctx)).To(Succeed())
			}
		}
		reconcileOften()
		Expect(w.writes).To(HaveLen(replicas), "each pod was tried")
		reconcileOften()
		Expect(w.writes).To(BeEmpty())
		w.ahead += 2 * tryAgain
		reconcileOften()
		Expect(w.writes).To(HaveLen(replicas))

		refuses = false
		w.ahead += 2 * tryAgain
		reconcileOften()
		Expect(updated(ctx)).To(Equal(replicas))
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

// failApplication lets the application crash in some pod.
func (w *world) failApplication(ctx context.Context) {
	GinkgoHelper()
	var pods corev1.PodList
	Expect(k8s.List(ctx, &pods, client.InNamespace(w.namespace))).To(Succeed())
	failing := &pods.Items[0]
	application := &failing.Status.ContainerStatuses[0]
	application.Ready, application.State = false, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	Expect(k8s.Status().Update(ctx, failing)).To(Succeed())
}
