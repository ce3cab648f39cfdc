// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/hack/localcluster"
)

// AtATime is how many workloads a set changes at the same time.
func (s *sidecarSet) AtATime(value string) *sidecarSet {
	s.object.Spec.UpdateStrategy.MaxConcurrentWorkloads = new(intstr.Parse(value))
	return s
}

func (s *sidecarSet) Canary(key, value string) *sidecarSet {
	s.object.Spec.UpdateStrategy.Canary = &v1alpha1.Canary{Selector: metav1.LabelSelector{MatchLabels: map[string]string{key: value}}}
	return s
}

func (s *sidecarSet) OnFailure(policy v1alpha1.FailurePolicy) *sidecarSet {
	s.object.Spec.UpdateStrategy.OnFailure = policy
	return s
}

func (s *sidecarSet) ProgressDeadline(seconds int32) *sidecarSet {
	s.object.Spec.UpdateStrategy.ProgressDeadlineSeconds = &seconds
	return s
}

// fleet makes so many Deployments, of which the first two are canaries.
func fleet(size int, replicas int32) (objects []client.Object, names []string) {
	for i := range size {
		made := web(fmt.Sprintf("web-%02d", i)).Replicas(replicas)
		if i < 2 {
			made.Label("tier", "canary")
		}
		objects = append(objects, made.Obj())
		names = append(names, made.object.Name)
	}
	return objects, names
}

// assigned returns the names of the Deployments on whose slips a set has its update revision.
func (n *namespace) assigned(ctx context.Context, set string) ([]string, error) {
	object := &v1alpha1.SidecarSet{}
	if err := k8s.Get(ctx, n.key(set), object); err != nil {
		return nil, err
	}
	var list appsv1.DeploymentList
	err := k8s.List(ctx, &list, client.InNamespace(n.name))
	var names []string
	for i := range list.Items {
		if strings.Contains(list.Items[i].Annotations[v1alpha1.TargetRevisionsAnnotation], `"`+object.Status.UpdateRevision+`"`) {
			names = append(names, list.Items[i].Name)
		}
	}
	return names, err
}

// degraded returns the message of a set's condition Degraded.
func (n *namespace) degraded(ctx context.Context, set string) (string, error) {
	object := &v1alpha1.SidecarSet{}
	if err := k8s.Get(ctx, n.key(set), object); err != nil {
		return "", err
	}
	condition := meta.FindStatusCondition(object.Status.Conditions, v1alpha1.ConditionDegraded)
	if condition == nil {
		return "", nil
	}
	return condition.Message, nil
}

// slipsWritten returns, from the audit log, the Deployments whose slip the operator set out to change, in that order. One whose change was refused, because
// the cache was behind, comes once more; and of one that was sent when the operator was killed, the log may say that it failed, though it did not.
func (l writeLog) slipsWritten(namespace string) (names []string, err error) {
	writes, err := cluster.Writes()
	if err != nil {
		return nil, err
	}
	for _, write := range writes[l.from:] {
		if write.User.Name == operatorUser && write.Object.Namespace == namespace && write.Object.Resource == "deployments" && !write.IsDryRun() &&
			!slices.Contains(names, write.Object.Name) {
			names = append(names, write.Object.Name)
		}
	}
	return names, nil
}

// populated returns the names of the ReplicaSets that have pods.
func (n *namespace) populated(ctx context.Context) ([]string, error) {
	var list appsv1.ReplicaSetList
	err := k8s.List(ctx, &list, client.InNamespace(n.name))
	var names []string
	for i := range list.Items {
		if list.Items[i].Status.Replicas > 0 {
			names = append(names, list.Items[i].Name)
		}
	}
	return names, err
}

// unready returns the pods of Deployments that are not ready.
func (n *namespace) unready(ctx context.Context, deployments []string) ([]corev1.Pod, error) {
	var list corev1.PodList
	err := k8s.List(ctx, &list, client.InNamespace(n.name))
	return slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool {
		return isReady(&pod) || !pod.DeletionTimestamp.IsZero() || !slices.Contains(deployments, pod.Labels["app"])
	}), err
}

// makeReady does what a kubelet does when the probes succeed at last.
func makeReady(ctx context.Context, pod *corev1.Pod) error {
	for i := range pod.Status.ContainerStatuses {
		pod.Status.ContainerStatuses[i].Ready = true
	}
	for i := range pod.Status.Conditions {
		pod.Status.Conditions[i].Status, pod.Status.Conditions[i].LastTransitionTime = corev1.ConditionTrue, metav1.Now()
	}
	return k8s.Status().Update(ctx, pod)
}

// watch looks at the Deployments until the spec ends, and returns the largest number of which something was true at the same time. before is what to look
// at before each look at them.
func (n *namespace) watch(ctx context.Context, is func(*appsv1.Deployment) bool, before ...func(context.Context)) (most func() int) {
	ctx, stop := context.WithCancel(ctx)
	largest, done := 0, make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			var list appsv1.DeploymentList
			count := 0
			for _, look := range before {
				look(ctx)
			}
			if k8s.List(ctx, &list, client.InNamespace(n.name)) == nil {
				for i := range list.Items {
					if is(&list.Items[i]) {
						count++
					}
				}
			}
			largest = max(largest, count)
			select {
			case <-ctx.Done():
			case <-time.After(interval):
			}
		}
	}()
	return func() int {
		stop()
		<-done
		return largest
	}
}

func haveAtLeast(count int) OmegaMatcher {
	return WithTransform(func(names []string) int { return len(names) }, BeNumerically(">=", count))
}

// isBeingUpdated is true of a Deployment whose template is not what its slip says.
func isBeingUpdated(d *appsv1.Deployment) bool {
	return d.Annotations[v1alpha1.TargetRevisionsAnnotation] != d.Spec.Template.Annotations[v1alpha1.RevisionsAnnotation]
}

// isBeingCleaned is true of a Deployment that is on nobody's slip any more, and has something of a set in its template or its pods.
func isBeingCleaned(d *appsv1.Deployment) bool {
	if d.Annotations[v1alpha1.TargetRevisionsAnnotation] != "" {
		return false
	}
	return d.Spec.Template.Annotations[v1alpha1.RevisionsAnnotation] != "" || d.Status.UpdatedReplicas != d.Status.Replicas
}

var _ = Describe("The fleet", func() {
	const size = 30

	It("changes 30 workloads in waves, canaries first, in the same order after a restart in the middle", func(ctx SpecContext) {
		objects, names := fleet(size, 4)
		shop.apply(ctx, objects...)
		set := logAgent().atOnce()
		shop.inject(ctx, set, names[0])
		for _, name := range names {
			shop.waitForRollout(ctx, name)
		}
		before := map[string]map[types.UID]map[string]run{}
		for _, name := range names {
			before[name] = shop.runs(ctx, name)
		}

		set.AtATime("20%").Canary("tier", "canary")
		most := shop.watch(ctx, isBeingUpdated)
		update := func(image string, inTheMiddle func()) (order []string) {
			writes := writesFromNow()
			shop.apply(ctx, set.Image("log-agent", image).Obj())
			Eventually(ctx, shop.assigned).WithArguments("log-agent").WithTimeout(2 * timeout).Should(haveAtLeast(8))
			inTheMiddle()
			Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").WithTimeout(4 * timeout).Should(Equal("True/AllPodsUpdated"))
			order, err := writes.slipsWritten(shop.name)
			Expect(err).NotTo(HaveOccurred())
			Expect(order).To(HaveLen(size))
			Expect(order[:2]).To(ConsistOf("web-00", "web-01"), "canaries first")
			return order
		}
		order := update("busybox:2", func() {})
		for _, name := range names {
			shop.expectRestarts(ctx, name, before[name], 1, "log-agent")
		}
		Expect(most()).To(And(BeNumerically(">", 1), BeNumerically("<=", 6)))

		shop.inject(ctx, set.AtATime("100%").Image("log-agent", "busybox:1"), names...)
		set.AtATime("20%")
		again := update("busybox:2", func() { restartOperator(ctx, (*localcluster.Process).Kill) })
		Expect(again).To(Equal(order), "the order is that of the revision and the workloads, whatever happens to the operator")
	})

	DescribeTable("costs a bad version one pod of one workload, and takes it back",
		func(ctx SpecContext, image, words string, seconds int32, within time.Duration) {
			objects, names := fleet(3, 2)
			shop.apply(ctx, objects...)
			set := logAgent().AtATime("100%")
			shop.inject(ctx, set, names...)
			set.AtATime("10%").ProgressDeadline(seconds)
			before := map[string]map[types.UID]map[string]run{}
			populated, err := shop.populated(ctx)
			Expect(err).NotTo(HaveOccurred())
			for _, name := range names {
				before[name] = shop.runs(ctx, name)
			}

			start := time.Now()
			shop.apply(ctx, set.Image("log-agent", image).Obj())
			Eventually(ctx, shop.condition).WithArguments("log-agent", "Degraded").Should(Equal("True/RolledBack"))
			Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Complete"))
			AddReportEntry(fmt.Sprintf("%s was taken back after %.1f s", image, time.Since(start).Seconds()))
			Expect(time.Since(start)).To(BeNumerically("<", within))
			Expect(shop.degraded(ctx, "log-agent")).To(And(ContainSubstring(words), ContainSubstring("Correct the spec")))

			touched := 0
			for _, name := range names {
				Expect(shop.template(ctx, name)).To(HaveExactElements("web=nginx:1", "log-agent=busybox:1"))
				Expect(shop.pods(ctx, name)).To(And(HaveLen(2), HaveEach("web=nginx:1 log-agent=busybox:1")))
				for pod, containers := range shop.runs(ctx, name) {
					Expect(containers["web"]).To(Equal(before[name][pod]["web"]))
					if containers["log-agent"] != before[name][pod]["log-agent"] {
						touched++
					}
				}
			}
			Expect(touched).To(Equal(1))
			Expect(shop.populated(ctx)).To(Equal(populated))
			Consistently(ctx, shop.assigned).WithArguments("log-agent").Should(BeEmpty(), "it is not tried again")

			shop.apply(ctx, set.Image("log-agent", "busybox:2").Obj())
			for _, name := range names {
				shop.comesTo(ctx, name, 2, "web=nginx:1", "log-agent=busybox:2")
			}
			Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
		},
		Entry("that can not be pulled", "missing:1", "waits in ImagePullBackOff", int32(300), 30*time.Second),
		Entry("that crashes", "crashing:1", "waits in CrashLoopBackOff", int32(300), 30*time.Second),
		Entry("that never becomes ready", "unready:1", "is not available within updateStrategy.progressDeadlineSeconds", int32(10), 45*time.Second),
	)

	It("stops and keeps what is with Halt, and goes on when the pods recover", func(ctx SpecContext) {
		objects, names := fleet(3, 2)
		shop.apply(ctx, objects...)
		set := logAgent().AtATime("100%")
		shop.inject(ctx, set, names...)
		shop.apply(ctx, set.AtATime("10%").OnFailure(v1alpha1.HaltFailurePolicy).ProgressDeadline(5).Image("log-agent", "unready:1").Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Halted"))
		Expect(shop.condition(ctx, "log-agent", "Degraded")).To(Equal("True/PodsFailing"))
		Consistently(ctx, shop.unready).WithArguments(names).Should(HaveLen(1), "nothing goes back, and nothing on")
		Eventually(ctx, func(g Gomega) {
			pods, err := shop.unready(ctx, names)
			g.Expect(err).NotTo(HaveOccurred())
			for _, pod := range pods {
				g.Expect(makeReady(ctx, &pod)).To(Succeed())
			}
			g.Expect(shop.condition(ctx, "log-agent", "Ready")).To(Equal("True/AllPodsUpdated"))
		}).WithTimeout(2 * timeout).WithPolling(time.Second).Should(Succeed())
		for _, name := range names {
			Expect(shop.template(ctx, name)).To(HaveExactElements("web=nginx:1", "log-agent=unready:1"))
		}
	})

	It("takes a first injection that fails out again, and a structural change back to the ReplicaSet before", func(ctx SpecContext) {
		objects, names := fleet(2, 2)
		shop.apply(ctx, objects...)
		for _, name := range names {
			shop.waitForRollout(ctx, name)
		}
		set := logAgent()
		shop.apply(ctx, logAgent().Image("log-agent", "missing:1").Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Degraded").Should(Equal("True/RolledBack"))
		for _, name := range names {
			shop.comesTo(ctx, name, 2, "web=nginx:1")
			Expect(shop.traces(ctx, name)).To(BeEmpty())
		}
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Complete"))

		shop.inject(ctx, set, names...)
		populated, err := shop.populated(ctx)
		Expect(err).NotTo(HaveOccurred())
		shop.apply(ctx, logAgent().Image("log-agent", "missing:2").NativeSidecar("proxy", "proxy:1").Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Degraded").Should(Equal("True/RolledBack"))
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("False/Complete"))
		for _, name := range names {
			shop.comesTo(ctx, name, 2, "web=nginx:1", "log-agent=busybox:1")
		}
		Eventually(ctx, shop.populated).Should(Equal(populated), "the pods are those of the ReplicaSets from before")
	})

	It("is delayed by a workload that crashes, that its team rolls out or has paused, only there", func(ctx SpecContext) {
		objects, names := fleet(5, 2)
		shop.apply(ctx, objects...)
		set := logAgent().AtATime("100%")
		shop.inject(ctx, set, names...)
		shop.apply(ctx, web("web-00").Label("tier", "canary").Image("web", "crashing:1").Obj())
		shop.apply(ctx, web("web-01").Label("tier", "canary").Image("web", "unready:1").Obj())
		shop.kubectl(ctx, "rollout", "pause", "deployment/web-02")
		shop.kubectl(ctx, "set", "image", "deployment/web-02", "web=nginx:2")
		for _, name := range names[:2] {
			Eventually(ctx, shop.pods).WithArguments(name).Should(ContainElement("not ready"))
		}
		shop.apply(ctx, set.AtATime("1").Image("log-agent", "busybox:2").Obj())
		for _, name := range names[3:] {
			shop.comesTo(ctx, name, 2, "web=nginx:1", "log-agent=busybox:2")
		}
		Eventually(ctx, shop.problems).WithArguments("log-agent").Should(ConsistOf(
			MatchRegexp("^web-00: (WorkloadStuck|WorkloadRollingOut): "), HavePrefix("web-01: WorkloadRollingOut: "), HavePrefix("web-02: WorkloadPaused: ")))
		Expect(shop.pods(ctx, "web-02")).To(HaveEach("web=nginx:1 log-agent=busybox:1"))

		for _, name := range names[:2] {
			shop.apply(ctx, web(name).Label("tier", "canary").Obj())
			shop.comesTo(ctx, name, 2, "web=nginx:1", "log-agent=busybox:2")
		}
		shop.kubectl(ctx, "rollout", "resume", "deployment/web-02")
		shop.comesTo(ctx, "web-02", 2, "web=nginx:2", "log-agent=busybox:2")
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
	})

	It("gives a new workload the current revision while an update is under way", func(ctx SpecContext) {
		shop.apply(ctx, web("first").Label("tier", "canary").Obj())
		set := logAgent()
		shop.inject(ctx, set, "first")
		shop.apply(ctx, set.OnFailure(v1alpha1.HaltFailurePolicy).Image("log-agent", "unready:1").Obj())
		Eventually(ctx, shop.unready).WithArguments([]string{"first"}).Should(HaveLen(1))
		shop.apply(ctx, web("second").Obj())
		shop.comesTo(ctx, "second", 2, "web=nginx:1", "log-agent=busybox:1")
	})

	It("obeys the waves when a set of 30 workloads is deleted in the middle of an update", func(ctx SpecContext) {
		objects, names := fleet(size, 2)
		shop.apply(ctx, objects...)
		set := logAgent().atOnce()
		shop.inject(ctx, set, names[0])
		for _, name := range names {
			shop.waitForRollout(ctx, name)
		}
		shop.apply(ctx, set.AtATime("20%").Image("log-agent", "busybox:2").Obj())
		Eventually(ctx, shop.assigned).WithArguments("log-agent").Should(haveAtLeast(6))
		most := shop.watch(ctx, isBeingCleaned)
		shop.kubectl(ctx, "delete", "scs", "log-agent", "--wait=false")
		Eventually(ctx, shop.sets).WithTimeout(4 * timeout).Should(BeEmpty())
		Expect(most()).To(And(BeNumerically(">", 1), BeNumerically("<=", 6)))
		for _, name := range names {
			Eventually(ctx, shop.pods).WithArguments(name).Should(And(HaveLen(2), HaveEach("web=nginx:1")))
			Expect(shop.traces(ctx, name)).To(BeEmpty())
		}
	})

	It("lets go of a set that is deleted while it goes back, beside another deletion", func(ctx SpecContext) {
		objects, names := fleet(6, 2)
		shop.apply(ctx, objects...)
		set, proxy := logAgent().AtATime("100%"), MakeSidecarSet("proxy").NativeSidecar("proxy", "proxy:1").AtATime("100%")
		shop.apply(ctx, proxy.Obj())
		shop.inject(ctx, set, names...)
		shop.waitUntilReady(ctx, "proxy")
		shop.apply(ctx, proxy.AtATime("1").Obj(), set.AtATime("1").Image("log-agent", "crashing:1").Obj())
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Progressing").Should(Equal("True/RollingBack"))
		shop.kubectl(ctx, "delete", "scs", "log-agent", "proxy", "--wait=false")
		Eventually(ctx, shop.sets).WithTimeout(2 * timeout).Should(BeEmpty())
		for _, name := range names {
			Eventually(ctx, shop.pods).WithArguments(name).Should(And(HaveLen(2), HaveEach("web=nginx:1")))
			Expect(shop.traces(ctx, name)).To(BeEmpty())
		}
	})
})
