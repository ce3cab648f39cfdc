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
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

var _ = Describe("Status", func() {
	It("tells the truth at every step from creation to deletion", func(ctx context.Context) {
		w := newWorld(ctx)
		var log []string
		step := func(what string) {
			GinkgoHelper()
			w.converge(ctx)
			log = append(log, what+": "+w.line(ctx, "log-agent"))
			before := w.set(ctx, "log-agent").ResourceVersion
			w.reconcileAll(ctx)
			Expect(w.set(ctx, "log-agent").ResourceVersion).To(Equal(before), "%s: the status was written again, although nothing changed", what)
		}

		w.createSet(ctx, "log-agent", agentSpec)
		step("no workload")
		for _, name := range []string{"cart", "web"} {
			w.createDeployment(ctx, name, webPod)
			w.editDeployment(ctx, name, "owner", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(2)) })
			w.rollOut(ctx, name, 2)
		}
		step("two workloads")
		w.rollOut(ctx, "cart", 1)
		step("cart is half done")
		w.rollOut(ctx, "cart", 2)
		step("cart is done")
		w.rollOut(ctx, "web", 2)
		step("web is done")
		first := w.set(ctx, "log-agent").Status.CurrentRevision

		w.updateSet(ctx, "log-agent", upgraded(agentSpec))
		step("a new revision")
		Expect(w.set(ctx, "log-agent").Status.CurrentRevision).To(Equal(first))
		w.rollOut(ctx, "cart", 2)
		w.rollOut(ctx, "web", 1)
		step("one pod is left")
		w.rollOut(ctx, "web", 2)
		step("all pods are updated")
		Expect(w.set(ctx, "log-agent").Status.CurrentRevision).To(Equal(w.set(ctx, "log-agent").Status.UpdateRevision))
		Expect(w.set(ctx, "log-agent").Status.CurrentRevision).NotTo(Equal(first))

		w.editDeployment(ctx, "cart", "owner", func(d *appsv1.Deployment) { d.Annotations[v1alpha1.ExcludeAnnotation] = "true" })
		w.rollOut(ctx, "cart", 2)
		step("cart is excluded")
		w.deleteSet(ctx, "log-agent")
		w.reconcileSets(ctx)
		log = append(log, "deleted: "+w.line(ctx, "log-agent"))

		Expect(log).To(Equal([]string{
			"no workload: 0/0 workloads, 0 pods, 0 injected, 0 updated, 0 available; Ready=True/NoWorkloads Progressing=False/Complete Degraded=False/AsExpected",
			"two workloads: 0/2 workloads, 4 pods, 0 injected, 0 updated, 0 available; Ready=False/Injecting Progressing=True/Injecting Degraded=False/AsExpected",
			"cart is half done: 0/2 workloads, 4 pods, 1 injected, 1 updated, 1 available; Ready=False/Injecting Progressing=True/Injecting Degraded=False/AsExpected",
			"cart is done: 1/2 workloads, 4 pods, 2 injected, 2 updated, 2 available; Ready=False/Injecting Progressing=True/Injecting Degraded=False/AsExpected",
			"web is done: 2/2 workloads, 4 pods, 4 injected, 4 updated, 4 available; Ready=True/AllPodsUpdated Progressing=False/Complete Degraded=False/AsExpected",
			"a new revision: 0/2 workloads, 4 pods, 4 injected, 0 updated, 0 available; Ready=False/RollingWorkloads Progressing=True/RollingWorkloads Degraded=False/AsExpected",
			"one pod is left: 1/2 workloads, 4 pods, 4 injected, 3 updated, 3 available; Ready=False/RollingWorkloads Progressing=True/RollingWorkloads Degraded=False/AsExpected",
			"all pods are updated: 2/2 workloads, 4 pods, 4 injected, 4 updated, 4 available; Ready=True/AllPodsUpdated Progressing=False/Complete Degraded=False/AsExpected",
			"cart is excluded: 1/1 workloads, 2 pods, 2 injected, 2 updated, 2 available; Ready=True/AllPodsUpdated Progressing=False/Complete Degraded=False/AsExpected",
			"deleted: 1/1 workloads, 2 pods, 2 injected, 2 updated, 2 available; Ready=False/Removing Progressing=True/Removing Degraded=False/AsExpected",
		}), strings.Join(log, "\n"))
		Expect(w.announced()).To(Equal([]string{
			"Normal NoWorkloads", "Normal Injecting", "Normal AllPodsUpdated", "Normal RollingWorkloads", "Normal AllPodsUpdated",
			"Normal Removing", "Normal AllPodsUpdated", // cart is excluded
			"Normal Removing",
		}))
	})

	It("is not written while a workload has not been looked at since the operator started", func(ctx context.Context) {
		w := newWorld(ctx)
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "log-agent", agentSpec)
		w.converge(ctx)
		before := w.set(ctx, "log-agent").Status

		restarted := newSummaries(func(string, []string) {})
		w.sets.observer.summaries, w.deployments.summaries = restarted, restarted
		w.writes = nil
		w.reconcileSets(ctx)
		Expect(w.writes).To(BeEmpty())
		Expect(w.set(ctx, "log-agent").Status).To(Equal(before))
		w.reconcileAll(ctx)
		w.reconcileAll(ctx)
		Expect(w.writes).To(BeEmpty())
	})

	It("is written although a workload of it can not be changed since the operator started", func(ctx context.Context) {
		w := newWorld(ctx)
		w.createDeployment(ctx, "web", webPod)
		w.createSet(ctx, "log-agent", agentSpec)
		w.createSet(ctx, "retained", `{selector: {}, deletionPolicy: Retain, containers: [{name: retained, image: "r:1"}]}`)
		w.converge(ctx)
		Expect(k8s.Delete(ctx, w.set(ctx, "retained"))).To(Succeed())
		restarted := newSummaries(func(string, []string) {})
		w.sets.observer.summaries, w.deployments.summaries = restarted, restarted
		w.before = func(write string) error {
			if write == "patch *v1.Deployment" {
				return apierrors.NewInternalError(errors.New("failed calling webhook"))
			}
			return nil
		}
		paused := w.set(ctx, "log-agent")
		paused.Spec.UpdateStrategy.Paused = true
		Expect(k8s.Update(ctx, paused)).To(Succeed())
		for range 2 {
			_, err := w.deployments.Reconcile(ctx, requestFor(w.deployment(ctx, "web")))
			Expect(err).To(MatchError(ContainSubstring("failed calling webhook")))
			w.ahead += statusInterval
			_, _ = w.sets.Reconcile(ctx, w.set(ctx, "log-agent"))
		}
		set := w.set(ctx, "log-agent")
		Expect(set.Status.ObservedGeneration).To(Equal(set.Generation))
	})

	It("keeps the history within its limit, and what is in use whatever the limit", func(ctx context.Context) {
		w := newWorld(ctx)
		w.createDeployment(ctx, "web", webPod)
		for i := range 5 {
			spec := fmt.Sprintf(`{selector: {}, revisionHistoryLimit: 2, updateStrategy: {type: RollingUpdate}, containers: [{name: agent, image: "agent:%d"}]}`, i)
			if i == 0 {
				w.createSet(ctx, "log-agent", spec)
			} else {
				w.updateSet(ctx, "log-agent", spec)
			}
			w.converge(ctx)
		}
		w.rollOut(ctx, "web", 1)
		w.converge(ctx)
		Expect(w.revisionImages(ctx)).To(Equal([]string{"agent:2", "agent:3", "agent:4"}))

		w.updateSet(ctx, "log-agent", `{selector: {}, revisionHistoryLimit: 2, updateStrategy: {type: RollingUpdate}, containers: [{name: agent, image: "agent:3"}]}`)
		w.converge(ctx)
		Expect(w.revisionImages(ctx)).To(Equal([]string{"agent:2", "agent:4", "agent:3"}), "an old revision that is used again is the newest")
	})
})
