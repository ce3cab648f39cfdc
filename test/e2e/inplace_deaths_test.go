// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/promotion"
	"github.com/sidecarset/sidecarset/hack/localcluster"
)

// death is when an operator dies, and for how long it is away.
type death struct {
	write string
	// nth of the writes of this name.
	nth   int
	after bool
	away  time.Duration
}

func (d death) String() string {
	when := "right before"
	if d.after {
		when = "right after"
	}
	return fmt.Sprintf("%s the %s, number %d, and is away for %s", when, d.write, d.nth, d.away)
}

func (d death) fateOf(write string, earlier int) fate {
	switch {
	case write != d.write || earlier != d.nth-1:
		return passes
	case d.after:
		return diesAfter
	}
	return diesBefore
}

// around are the deaths before and after each of the writes.
func around(writes map[string]int) (deaths []death) {
	for _, write := range slices.Sorted(maps.Keys(writes)) {
		for nth := range writes[write] {
			for _, after := range []bool{false, true} {
				deaths = append(deaths, death{write: write, nth: nth + 1, after: after, away: time.Second})
			}
		}
	}
	return deaths
}

// startsWithin is how long an operator takes from its start to its first write.
const startsWithin = 5 * time.Second

// victim is a namespace with a Deployment and a set, and an operator that dies and is started again. The others do not concern it.
type victim struct {
	*namespace
	death  death
	before map[types.UID]map[string]run

	lock sync.Mutex
	// first dies, second comes after it.
	first, second *mortal
	away          time.Duration
	failure       error
}

// live runs the operator, and after its death another one.
func (v *victim) live(ctx context.Context) {
	first, err := startMortal(ctx, v.name, v.death.fateOf)
	v.set(func() { v.first, v.failure = first, err })
	if err != nil {
		return
	}
	select {
	case <-ctx.Done():
		return
	case <-first.done:
	}
	select {
	case <-ctx.Done():
		return
	case <-time.After(v.death.away):
	}
	second, err := startMortal(ctx, v.name, lives)
	v.set(func() { v.second, v.failure, v.away = second, err, time.Since(first.diedAt) })
}

func (v *victim) set(change func()) {
	v.lock.Lock()
	defer v.lock.Unlock()
	change()
}

// isBack is true when the operator has died and another one runs.
func (v *victim) isBack() (bool, error) {
	v.lock.Lock()
	defer v.lock.Unlock()
	return v.second != nil, v.failure
}

func (v *victim) end() {
	for _, operator := range []*mortal{v.first, v.second} {
		if operator != nil {
			operator.kill()
			<-operator.done
		}
	}
}

// mortalStory is something that an operator does, and whatever moment it dies at, the end is the same.
type mortalStory struct {
	// begin brings all namespaces to where the story begins, with the operator that runs, and takes that away.
	begin func(ctx SpecContext, all []*victim)
	// writes are all that it makes. It writes a status once a second; so many of them are looked at.
	writes map[string]int
	deaths []death
	// meanwhile is what else happens when all have begun.
	meanwhile func(ctx SpecContext, all []*victim)
	// restarted are the containers that start anew in each pod; none when all pods are new. maxUnavailable is how many pods may be unavailable
	// at the same time.
	restarted      []string
	maxUnavailable int
}

func (s *mortalStory) specs() {
	undisturbed := &victim{}
	all := []*victim{undisturbed}
	for _, death := range s.deaths {
		all = append(all, &victim{death: death})
	}
	var (
		pods        *recorder[*corev1.Pod]
		deployments *recorder[*appsv1.Deployment]
		end         string
		endCounts   string
	)

	BeforeAll(func(ctx SpecContext) {
		for _, v := range all {
			v.namespace = newNamespace(ctx)
		}
		s.begin(ctx, all)
		pods = record[*corev1.Pod](ctx, &corev1.PodList{})
		deployments = record[*appsv1.Deployment](ctx, &appsv1.DeploymentList{})
		liveAll(ctx, all)
		if s.meanwhile != nil {
			s.meanwhile(ctx, all)
		}
	})

	It("it makes the writes that are looked at, and no others, when it does not die", func(ctx SpecContext) {
		shop = undisturbed.namespace
		Eventually(func() map[string]int { return undisturbed.written(s.writes[statusWrite]) }).WithTimeout(2 * timeout).Should(Equal(s.writes))
		Eventually(ctx, shop.condition).WithArguments("log-agent", "Ready").Should(Equal("True/AllPodsUpdated"))
		shop.waitForRollout(ctx, "web")
		var err error
		end, err = shop.portrait(ctx)
		Expect(err).NotTo(HaveOccurred())
		endCounts = shop.counts(ctx)
		GinkgoWriter.Println(end)
	})

	for _, v := range all[1:] {
		It(v.death.String(), func(ctx SpecContext) {
			shop = v.namespace
			Eventually(v.isBack).WithTimeout(2*timeout).Should(BeTrue(), "it died, and was started again")
			Eventually(ctx, v.portrait).Should(Equal(end))
			if v.death.away < promotion.Deadline {
				Expect(v.counts(ctx)).To(Equal(endCounts), "nothing was done and undone")
			}
			v.waitForRollout(ctx, "web")
			Expect(longestPause(deployments.of(v.name, "web"))).To(BeNumerically("<=", v.away+startsWithin+promotion.Deadline))
			if len(s.restarted) > 0 {
				v.expectRestarts(ctx, "web", v.before, 1, s.restarted...)
				Expect(most(pods.of(v.name, "web"), time.Time{}, "")).To(BeNumerically("<=", s.maxUnavailable))
			}
		})
	}

	It("it writes nothing more when all is done, whenever it died", func(ctx SpecContext) {
		writes := writesFromNow()
		Consistently(writes.byOperatorAnywhere).WithPolling(time.Second).Should(BeEmpty())
		for _, v := range all[1:] {
			Expect(v.portrait(ctx)).To(Equal(end), "%s", v.death)
		}
		Expect(undisturbed.written(s.writes[statusWrite])).To(Equal(s.writes), "no write came after those that were looked at")
	})

	JustAfterEach(func() {
		for _, v := range all {
			if v.namespace == shop && CurrentSpecReport().Failed() {
				v.describeLives()
			}
		}
	})
}

// liveAll lets all operators live their lives, side by side.
func liveAll(ctx context.Context, all []*victim) {
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	var lives sync.WaitGroup
	for _, v := range all {
		lives.Go(func() { v.live(life) })
	}
	DeferCleanup(func() {
		stop()
		lives.Wait()
		for _, v := range all {
			v.end()
		}
	})
}

// written are the writes of an operator that does not die, and of those of the status at most so many.
func (v *victim) written(statuses int) map[string]int {
	v.lock.Lock()
	first := v.first
	v.lock.Unlock()
	if first == nil {
		return nil
	}
	counts := first.written()
	counts[statusWrite] = min(counts[statusWrite], statuses)
	return counts
}

// mortalSet is the set of these stories, as it is at their ends.
func mortalSet() *sidecarSet {
	return logAgent().NativeSidecar("proxy", "proxy:1").Memory("16Mi").MaxUnavailable("1").Type(v1alpha1.InPlaceUpdateStrategyType).HistoryLimit(0)
}

const (
	mortalPod      = "proxy=proxy:1 migrate=app:1 web=nginx:1 log-agent=busybox:1"
	mortalPodOnce  = "proxy=proxy:2 migrate=app:1 web=nginx:1 log-agent=busybox:2"
	mortalPodCount = 2
)

// makeVictims creates the Deployments, and sets when there is one. Who writes the first annotation of a Deployment owns them all as such; it is
// the Deployment controller in each of them.
func makeVictims(ctx SpecContext, all []*victim, set *sidecarSet) {
	GinkgoHelper()
	for _, v := range all {
		v.create(ctx, web("web").InitContainer("migrate", "app:1").Replicas(mortalPodCount).Obj())
	}
	for _, v := range all {
		Eventually(ctx, v.isObserved).WithArguments("web").Should(BeTrue())
		if set != nil {
			v.create(ctx, set.Obj())
		}
	}
}

// settleVictims waits until all pods are such ones, and remembers them.
func settleVictims(ctx SpecContext, all []*victim, pod string) {
	GinkgoHelper()
	for _, v := range all {
		Eventually(ctx, v.pods).WithArguments("web").WithTimeout(2*timeout).Should(Equal(slices.Repeat([]string{pod}, mortalPodCount)), v.name)
		Eventually(ctx, v.isObserved).WithArguments("web").Should(BeTrue())
		v.before = v.runs(ctx, "web")
	}
}

func waitUntilVictimsAreReady(ctx SpecContext, all []*victim) {
	GinkgoHelper()
	for _, v := range all {
		Eventually(ctx, v.condition).WithArguments("log-agent", "Ready").WithTimeout(2*timeout).Should(Equal("True/AllPodsUpdated"), v.name)
	}
}

func changeVictims(ctx SpecContext, all []*victim, set *sidecarSet) {
	GinkgoHelper()
	for _, v := range all {
		v.change(ctx, set)
	}
}

var _ = Describe("In-place updates: an operator that updates pods and promotes the template, and dies:", Ordered, ContinueOnFailure, func() {
	const long = promotion.Deadline + 2*time.Second
	story := mortalStory{
		// The set is as it was once, before it was rolled out with other images and sizes. The ReplicaSet of that time is a twin then, and the
		// revision has been forgotten.
		begin: func(ctx SpecContext, all []*victim) {
			makeVictims(ctx, all, mortalSet())
			waitUntilVictimsAreReady(ctx, all)
			rolled := mortalSet().Image("proxy", "proxy:2").Image("log-agent", "busybox:2").Memory("32Mi").Type(v1alpha1.RollingUpdateUpdateStrategyType)
			changeVictims(ctx, all, rolled)
			settleVictims(ctx, all, mortalPodOnce)
			waitUntilVictimsAreReady(ctx, all)
			for _, v := range all {
				Eventually(ctx, v.revisions).Should(HaveLen(1), "the first one is forgotten")
			}
			takeOperatorAway((*localcluster.Process).Stop)
			changeVictims(ctx, all, mortalSet())
		},
		writes: map[string]int{
			revisionCreation: 1, slipWrite: 1, podResize: mortalPodCount, podPatch: mortalPodCount,
			promotionBegin: 1, twinDeletion: 1, replicaSetPatch: 1, templateWrite: 1, fieldsHandBack: 1,
			revisionDeletion: 1, statusWrite: 1, lastStatusWrite: 1,
		},
		restarted:      []string{"proxy", "log-agent"},
		maxUnavailable: 1,
	}
	story.deaths = append(around(story.writes),
		death{write: promotionBegin, nth: 1, after: true, away: long},
		death{write: replicaSetPatch, nth: 1, after: true, away: long},
	)
	story.specs()
})

var _ = Describe("In-place updates: an operator that undoes a promotion, because the controller manager is away, and dies:", Ordered, ContinueOnFailure, func() {
	story := mortalStory{
		begin: func(ctx SpecContext, all []*victim) {
			old := mortalSet().Image("proxy", "proxy:2").Image("log-agent", "busybox:2")
			makeVictims(ctx, all, old)
			settleVictims(ctx, all, mortalPodOnce)
			waitUntilVictimsAreReady(ctx, all)
			changeVictims(ctx, all, mortalSet().atOnce().MinReadySeconds(3600)) // no promotion before the controller manager is away
			for _, v := range all {
				Eventually(ctx, v.pods).WithArguments("web").WithTimeout(2 * timeout).Should(HaveEach(mortalPod))
				Eventually(ctx, v.isCounted).WithArguments("web").Should(BeTrue(), v.name)
			}
			stopControllerManager()
			takeOperatorAway((*localcluster.Process).Stop)
			changeVictims(ctx, all, mortalSet().atOnce())
		},
		writes: map[string]int{
			promotionBegin: 2, replicaSetPatch: 1, templateWrite: 2, fieldsHandBack: 2, revisionDeletion: 1, statusWrite: 1, lastStatusWrite: 1,
		},
		meanwhile: func(ctx SpecContext, all []*victim) {
			for _, v := range all {
				Eventually(ctx, v.promotion).WithArguments("web").Should(Equal(promoting), "%s", v.death)
			}
			for _, v := range all {
				Eventually(ctx, v.promotion).WithArguments("web").Should(Equal(atRest), "%s", v.death)
				Expect(v.template(ctx, "web")).To(ContainElement("log-agent=busybox:2"), "the old template is back")
			}
			startControllerManager(ctx)
		},
		restarted:      []string{"proxy", "log-agent"},
		maxUnavailable: mortalPodCount,
	}
	story.deaths = around(map[string]int{promotionBegin: 1, templateWrite: 1, fieldsHandBack: 1})
	story.specs()
})

var _ = Describe("An operator that gives a workload its first sidecars, and dies:", Ordered, ContinueOnFailure, func() {
	story := mortalStory{
		begin: func(ctx SpecContext, all []*victim) {
			makeVictims(ctx, all, nil)
			settleVictims(ctx, all, "migrate=app:1 web=nginx:1")
			takeOperatorAway((*localcluster.Process).Stop)
			for _, v := range all {
				v.create(ctx, mortalSet().Obj())
			}
		},
		writes: map[string]int{
			finalizerWrite: 1, revisionCreation: 1, slipWrite: 1, templateWrite: 1, fieldsHandBack: 1, statusWrite: 1, lastStatusWrite: 1,
		},
	}
	story.deaths = around(story.writes)
	story.specs()
})

func (v *victim) describeLives() {
	v.lock.Lock()
	defer v.lock.Unlock()
	for _, operator := range []*mortal{v.first, v.second} {
		if operator != nil {
			operator.describe()
		}
	}
}

// create creates objects at once, as people's tools do.
func (n *namespace) create(ctx context.Context, objects ...client.Object) {
	GinkgoHelper()
	for _, object := range objects {
		object.SetNamespace(n.name)
		Expect(k8s.Create(ctx, object, client.FieldOwner("people"))).To(Succeed())
	}
}

// change gives a set another spec.
func (n *namespace) change(ctx context.Context, set *sidecarSet) {
	GinkgoHelper()
	patch, err := json.Marshal([]any{map[string]any{"op": "replace", "path": "/spec", "value": set.object.Spec}})
	Expect(err).NotTo(HaveOccurred())
	object := &v1alpha1.SidecarSet{ObjectMeta: metav1.ObjectMeta{Namespace: n.name, Name: set.object.Name}}
	Expect(k8s.Patch(ctx, object, client.RawPatch(types.JSONPatchType, patch), client.FieldOwner("people"))).To(Succeed())
}

// HistoryLimit is how many revisions a set keeps that nothing uses.
func (s *sidecarSet) HistoryLimit(count int32) *sidecarSet {
	s.object.Spec.RevisionHistoryLimit = new(count)
	return s
}

// byOperatorAnywhere are the operator's writes in all namespaces, counted by verb and resource.
func (l writeLog) byOperatorAnywhere() (map[string]int, error) {
	writes, err := cluster.Writes()
	if err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for _, write := range writes[l.from:] {
		if write.User.Name == operatorUser {
			counts[what(write)+" in "+write.Object.Namespace]++
		}
	}
	return counts, nil
}

// revisions are the names of a namespace's revisions with their numbers.
func (n *namespace) revisions(ctx context.Context) (lines []string, err error) {
	var list appsv1.ControllerRevisionList
	err = k8s.List(ctx, &list, client.InNamespace(n.name))
	for i := range list.Items {
		lines = append(lines, fmt.Sprintf("revision %d is %s", list.Items[i].Revision, list.Items[i].Name))
	}
	return lines, err
}

// portrait is all that an update leaves behind in a namespace, without what is different each time: times, versions, and the names of pods.
func (n *namespace) portrait(ctx context.Context) (string, error) {
	lines, err := n.revisions(ctx)
	if err != nil {
		return "", err
	}
	for _, list := range []client.ObjectList{&appsv1.DeploymentList{}, &appsv1.ReplicaSetList{}, &corev1.PodList{}, &v1alpha1.SidecarSetList{}} {
		if err := k8s.List(ctx, list, client.InNamespace(n.name)); err != nil {
			return "", err
		}
		lines = append(lines, portraitOf(list)...)
	}
	return strings.Join(lines, "\n"), nil
}

// revisionAnnotation counts the rollouts of a Deployment.
const revisionAnnotation = "deployment.kubernetes.io/revision"

// counts are how often the specs of Deployments changed, and how often they rolled out: a promotion that waited for too long, and was begun anew,
// counts twice.
func (n *namespace) counts(ctx context.Context) string {
	GinkgoHelper()
	var list appsv1.DeploymentList
	Expect(k8s.List(ctx, &list, client.InNamespace(n.name))).To(Succeed())
	var lines []string
	for i := range list.Items {
		lines = append(lines, fmt.Sprint(list.Items[i].Generation, " ", list.Items[i].Annotations[revisionAnnotation]))
	}
	return strings.Join(lines, "\n")
}

func portraitOf(list client.ObjectList) (lines []string) {
	switch list := list.(type) {
	case *appsv1.DeploymentList:
		for i := range list.Items {
			deployment := &list.Items[i]
			delete(deployment.Annotations, revisionAnnotation)
			lines = append(lines, "Deployment "+text(deployment.Status.ObservedGeneration == deployment.Generation, deployment.Annotations, deployment.Spec))
			for _, entry := range deployment.ManagedFields {
				if entry.Manager == v1alpha1.FieldManager {
					lines = append(lines, "ours by "+text(entry.Operation, entry.FieldsV1))
				}
			}
		}
	case *appsv1.ReplicaSetList:
		for i := range list.Items {
			rs := &list.Items[i]
			// The Deployment controller copies annotations now and then, and takes none away.
			lines = append(lines, "ReplicaSet "+text(rs.Name, rs.Spec))
		}
	case *corev1.PodList:
		for i := range list.Items {
			pod := &list.Items[i]
			delete(pod.Annotations, v1alpha1.InPlaceAnnotation)
			line := "pod " + text(pod.Annotations, containers(&pod.Spec), isReady(pod))
			for _, container := range pod.Spec.Containers {
				line += " " + text(container.Resources)
			}
			lines = append(lines, line)
		}
	case *v1alpha1.SidecarSetList:
		for i := range list.Items {
			set := &list.Items[i]
			for j := range set.Status.Conditions {
				set.Status.Conditions[j].LastTransitionTime = metav1.Time{}
			}
			lines = append(lines, "set "+text(set.Finalizers, set.Status))
		}
	}
	return lines
}

func text(values ...any) string {
	data, err := json.Marshal(values)
	Expect(err).NotTo(HaveOccurred())
	return string(data)
}
