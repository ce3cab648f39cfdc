// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
)

// history is a cluster from its beginning to the end of the story.
type history struct {
	*laboratory

	ctx      context.Context
	random   *rand.Rand
	server   *apiServer
	manager  *controllerManager
	kubelet  *kubelet
	operator *process
	// deceive, when there is one, changes what the operator sees.
	deceive func(object client.Object)
	// lags is true when the operator's cache is late; else it sees everything at once.
	lags bool
	// quiet histories have image changes, faults and failures, and no user besides.
	quiet bool
	// faults is true while writes of the operator may meet with faults.
	faults bool
	// managerDown and operatorDown are until when they are down.
	managerDown, operatorDown time.Time
	// userPaused are the Deployments that the user paused, resumed those that the user ever resumed.
	userPaused, resumed map[string]bool
	// pausedFor is for how long the operator has been up while a Deployment was paused by it.
	pausedFor map[string]time.Duration
	// disturbed are pods that were available when we updated them, until they are again.
	disturbed map[types.UID]bool
	// retained are sets that were deleted and whose content stays.
	retained map[string]bool
	// former are the sets' specs as they were before the last change.
	former map[string]v1alpha1.SidecarSetSpec
	// resized is true when the operator's last write gave a pod other resources, and the next one is to say for which revision.
	resized bool
	// founded is how many Deployments there were in the beginning.
	founded int
	waves   waves
	// added is how many sets came after the beginning.
	added int
	// budgetKnows is true of a PodDisruptionBudget while all that happened since its status was written is our updates.
	budgetKnows map[string]bool
	violations  []string
	lines       []string
}

func newHistory(ctx context.Context, laboratory *laboratory, seed uint64) *history {
	return newHistoryOf(ctx, laboratory, seed, nil)
}

// newHistoryOf is one of an operator that is deceived.
func newHistoryOf(ctx context.Context, laboratory *laboratory, seed uint64, deceive func(object client.Object)) *history {
	server := newAPIServer(laboratory.fields)
	h := &history{
		laboratory: laboratory, ctx: ctx, random: rand.New(rand.NewPCG(seed, 0)), server: server, //nolint:gosec // a history has to come again
		manager: newControllerManager(server), kubelet: newKubelet(server), userPaused: map[string]bool{}, resumed: map[string]bool{}, pausedFor: map[string]time.Duration{},
		disturbed: map[types.UID]bool{}, retained: map[string]bool{}, budgetKnows: map[string]bool{}, former: map[string]v1alpha1.SidecarSetSpec{}, waves: waves{}, deceive: deceive,
	}
	h.lags, h.quiet = h.chance(2), h.chance(3)
	h.kubelet.trace, h.kubelet.failed, h.manager.disrupts, h.manager.doubles = h.note, h.failed, h.surpriseBudgets, h.doubled
	h.startOperator()
	return h
}

// chance is true in one of n cases.
func (h *history) chance(n int) bool { return h.random.IntN(n) == 0 }

func (h *history) note(format string, args ...any) {
	h.lines = append(h.lines, fmt.Sprintf("%7.1fs ", h.server.now.Sub(time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)).Seconds())+fmt.Sprintf(format, args...))
}

func (h *history) violate(format string, args ...any) {
	h.note("VIOLATION: "+format, args...)
	h.violations = append(h.violations, fmt.Sprintf(format, args...))
}

// story is what happened: all of it, unless there is no end to it.
func (h *history) story() string {
	const most = 1000
	if len(h.lines) <= 2*most {
		return strings.Join(h.lines, "\n")
	}
	return strings.Join(slices.Concat(h.lines[:most], []string{"[...]"}, h.lines[len(h.lines)-most:]), "\n")
}

func (h *history) startOperator() {
	h.operator = newProcess(h.ctx, h.laboratory, h.server)
	h.operator.trace, h.operator.audit, h.operator.fault, h.operator.deceive = h.note, h.audit, h.fault, h.deceive
	h.operator.cache.list()
	clear(h.waves) // what is at rest when it looks, it calls once more
}

func (h *history) fault(string) fault {
	if !h.faults || !h.chance(12) {
		return noFault
	}
	return []fault{conflictFault, lostAnswerFault, crashBeforeFault, crashAfterFault}[h.random.IntN(4)]
}

// live lives a history. It returns what went wrong; empty when nothing did.
func (h *history) live() string {
	defer func() {
		if thrown := recover(); thrown != nil {
			h.note("PANIC: %v", thrown)
			panic(fmt.Sprint(thrown, "\n", h.story()))
		}
	}()
	h.found()
	if !h.chance(4) {
		// Mostly, the operator is ahead of the first rollout.
		h.managerDown = h.server.now.Add(10 * time.Second)
	}
	if problem := h.settle("after the beginning"); problem != "" {
		return problem
	}
	created, deleted := len(h.manager.created), len(h.manager.deleted)
	h.faults = true
	for range 2 + h.random.IntN(6) {
		h.happen()
		for range h.random.IntN(80) {
			h.step()
			if len(h.violations) > 0 {
				return h.violations[0]
			}
		}
	}
	if problem := h.end(); problem != "" {
		return problem
	}
	if h.quiet && (len(h.manager.created) > created || len(h.manager.deleted) > deleted) {
		return fmt.Sprintf("I4: made ReplicaSets %v, deleted pods %v", h.manager.created[created:], h.manager.deleted[deleted:])
	}
	return ""
}

// step lets something happen: whoever is due, or has something to do, or time.
func (h *history) step() {
	h.advance(time.Duration(h.random.IntN(300)) * time.Millisecond)
	h.beFair()
	actors := []func() bool{h.stepOperator, h.stepOperator, h.stepManager, h.stepManager, h.stepKubelet, h.stepTime}
	h.random.Shuffle(len(actors), func(i, j int) { actors[i], actors[j] = actors[j], actors[i] })
	for _, act := range actors {
		if act() {
			break
		}
	}
	h.check()
	h.cross()
}

// lateness is by how much caches and reconciles may be late: a process that is up gets to work.
const lateness = 1500 * time.Millisecond

// beFair lets nobody who is up wait for longer than lateness.
func (h *history) beFair() {
	if !h.isDown(h.operatorDown) {
		h.operator.cache.hurry(lateness)
		for range 10 {
			next, late := h.operator.late(lateness)
			if !late || !h.reconcile(next) {
				break
			}
		}
	}
	if !h.isDown(h.managerDown) {
		h.manager.cache.hurry(lateness)
	}
	h.kubelet.catchUp(lateness, h.random)
}

func (h *history) isDown(until time.Time) bool { return h.server.now.Before(until) }

func (h *history) advance(by time.Duration) {
	h.server.now = h.server.now.Add(by)
	for _, deployment := range h.server.deployments() {
		if isPausedByUs(deployment) && !h.isDown(h.operatorDown) {
			h.pausedFor[deployment.Name] += by
		} else if !isPausedByUs(deployment) {
			delete(h.pausedFor, deployment.Name)
		}
	}
}

func isPausedByUs(deployment *appsv1.Deployment) bool {
	return deployment.Spec.Paused && deployment.Annotations[v1alpha1.PromotionAnnotation] != ""
}

func (h *history) stepOperator() bool {
	if h.isDown(h.operatorDown) {
		return false
	}
	if h.operator.cache.behind() > 0 && (!h.lags || h.random.IntN(3) > 0) {
		return h.operator.cache.step(h.random)
	}
	next, ok, _ := h.operator.next(h.random.IntN)
	if !ok {
		return false
	}
	h.reconcile(next)
	return true
}

// reconcile does a reconcile of the operator. It returns false when that is its end.
func (h *history) reconcile(next task) bool {
	if !h.lags {
		h.operator.cache.catchUp()
	}
	if next.kind == deploymentKind && h.chance(10) {
		first, second := h.operator.rehearsal(next), h.operator.rehearsal(next)
		if !slices.Equal(first, second) {
			h.violate("I7: from the same state, %v and %v", first, second)
		}
	}
	alive := h.operator.run(next)
	if !alive {
		if h.resized && h.chance(2) {
			h.takeBack()
		}
		h.restartOperator()
	}
	return alive
}

func (h *history) stepManager() bool {
	if h.isDown(h.managerDown) {
		return false
	}
	acted := h.manager.step(h.random)
	for name := range h.manager.counted {
		h.budgetKnows[name] = true
	}
	clear(h.manager.counted)
	return acted
}

func (h *history) stepKubelet() bool { return h.kubelet.step(h.random) }

func (h *history) stepTime() bool {
	h.advance(time.Duration(h.random.IntN(2000)) * time.Millisecond)
	return true
}

// stillness is for how long nobody writes when everything is settled: longer than anybody waits before trying again.
const stillness = tryAgain + 15*time.Second

// settle lets everybody do what they have to do, until nobody writes any more.
func (h *history) settle(when string) string {
	since, last, idle := h.server.now, h.server.version, time.Second
	for range 4000 {
		h.advance(time.Duration(h.random.IntN(200)) * time.Millisecond)
		h.beFair()
		actors := []func() bool{h.stepOperator, h.stepManager, h.stepKubelet}
		h.random.Shuffle(len(actors), func(i, j int) { actors[i], actors[j] = actors[j], actors[i] })
		acted := slices.ContainsFunc(actors, func(act func() bool) bool { return act() })
		h.check()
		if len(h.violations) > 0 {
			return h.violations[0]
		}
		if h.server.version != last {
			since, last, idle = h.server.now, h.server.version, time.Second
		}
		if h.server.now.Sub(since) > stillness && !h.isDown(h.operatorDown) && !h.isDown(h.managerDown) {
			return ""
		}
		switch {
		case acted:
		case h.operator.cache.behind() > 0 || h.manager.cache.behind() > 0:
			h.advance(lateness)
		default:
			h.checkWaits()
			h.advance(min(idle, h.untilDue()))
			idle = min(2*idle, 20*time.Second)
		}
	}
	return "no end of writing " + when
}

// untilDue is after how long the operator has something to do; long when it has nothing.
func (h *history) untilDue() time.Duration {
	if _, _, at := h.operator.next(h.random.IntN); !at.IsZero() && !h.isDown(h.operatorDown) {
		return max(at.Sub(h.server.now), 0)
	}
	return time.Hour
}

// found makes the fleet: Deployments, sets, and what protects their pods.
func (h *history) found() {
	for i := range 1 + h.random.IntN(4) {
		name := fmt.Sprintf("web-%d", i)
		d := &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"logging": "enabled", "tier": []string{"canary", "others"}[min(i, 1)]}},
			Spec: appsv1.DeploymentSpec{
				Replicas: new(int32(1 + h.random.IntN(5))), RevisionHistoryLimit: new(int32(h.random.IntN(4))),
				Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
				Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name, "part-of": "shop"}},
					Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "main:1"}}},
				},
			},
		}
		if h.chance(3) {
			d.Spec.Template.Spec.InitContainers = []corev1.Container{{Name: "migrate", Image: "migrate:1"}}
		}
		if h.chance(4) {
			d.Spec.MinReadySeconds = 3
		}
		h.do(h.server.create(d, "kubectl"))
		if h.chance(4) {
			h.createBudget(name, d.Spec.Selector)
		}
	}
	if h.chance(3) {
		h.createBudget("shop", &metav1.LabelSelector{MatchLabels: map[string]string{"part-of": "shop"}})
	}
	h.createSet("logs")
	if h.chance(2) {
		h.createSet("mesh")
	}
	h.founded = len(h.server.deployments())
	h.note("%d Deployments, %d sets, lags=%v quiet=%v", len(h.server.deployments()), len(h.server.sets()), h.lags, h.quiet)
}

// createBudget makes a PodDisruptionBudget, which may be one over several Deployments, and says what may be unavailable or what has to be available.
func (h *history) createBudget(name string, selector *metav1.LabelSelector) {
	budget := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       policyv1.PodDisruptionBudgetSpec{MaxUnavailable: new(intstr.FromInt32(int32(h.random.IntN(3)))), Selector: selector},
	}
	if h.chance(2) {
		wanted := h.manager.wantedHealthy(budget)
		budget.Spec.MinAvailable, budget.Spec.MaxUnavailable = new(intstr.FromInt32(wanted)), nil
	}
	h.do(h.server.create(budget, "kubectl"))
}

func (*history) do(err error) {
	if err != nil {
		panic(err)
	}
}

func (h *history) createSet(name string) {
	container := v1alpha1.SidecarContainer{Container: corev1.Container{Name: name, Image: name + ":1", Resources: cpu("10m")}}
	set := &v1alpha1.SidecarSet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.SidecarSetSpec{
		Selector:             metav1.LabelSelector{MatchLabels: map[string]string{"logging": "enabled"}},
		DeletionPolicy:       v1alpha1.RemoveDeletionPolicy,
		RevisionHistoryLimit: new(int32(10)),
		UpdateStrategy: v1alpha1.UpdateStrategy{
			Type:                   v1alpha1.InPlaceUpdateStrategyType,
			Partition:              []*intstr.IntOrString{new(intstr.FromInt32(0)), new(intstr.FromInt32(0)), new(intstr.FromInt32(1)), new(intstr.FromString("50%"))}[h.random.IntN(4)],
			MaxConcurrentWorkloads: []*intstr.IntOrString{nil, new(intstr.FromInt32(2)), new(intstr.FromString("50%")), new(intstr.FromString("100%"))}[h.random.IntN(4)],
			OnFailure:              []v1alpha1.FailurePolicy{v1alpha1.RollbackFailurePolicy, v1alpha1.HaltFailurePolicy}[h.random.IntN(2)],
			MaxUnavailable:         []*intstr.IntOrString{new(intstr.FromInt32(1)), new(intstr.FromInt32(2)), new(intstr.FromString("50%"))}[h.random.IntN(3)],
		},
	}}
	if h.chance(4) {
		set.Spec.UpdateStrategy.MinReadySeconds = 4
	}
	if h.chance(3) {
		set.Spec.UpdateStrategy.Canary = &v1alpha1.Canary{Selector: metav1.LabelSelector{MatchLabels: map[string]string{"tier": "canary"}}}
	}
	if strings.HasPrefix(name, "mesh") {
		container.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
		set.Spec.InitContainers = []v1alpha1.SidecarContainer{container}
	} else {
		set.Spec.Containers = []v1alpha1.SidecarContainer{container}
		if h.chance(2) {
			set.Spec.Volumes = []v1alpha1.SidecarVolume{{
				Volume:    corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
				AppMounts: []v1alpha1.AppMount{{MountPath: "/var/" + name}},
			}}
		}
	}
	strategy := &set.Spec.UpdateStrategy
	h.note("set %s: partition %v, maxConcurrentWorkloads %v, maxUnavailable %v, canary %v", name, strategy.Partition, strategy.MaxConcurrentWorkloads, strategy.MaxUnavailable, strategy.Canary != nil)
	h.do(h.server.create(set, "kubectl"))
}

func cpu(quantity string) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(quantity)}}
}

// changeSet lets the user change a set, if it is there.
func (h *history) changeSet(name string, change func(set *v1alpha1.SidecarSet, container *v1alpha1.SidecarContainer)) {
	live, _ := h.server.objects[setKind][name].(*v1alpha1.SidecarSet)
	if live == nil {
		return
	}
	set := live.DeepCopy()
	container := append(append([]*v1alpha1.SidecarContainer{}, pointers(set.Spec.InitContainers)...), pointers(set.Spec.Containers)...)[0]
	change(set, container)
	h.former[name] = live.Spec
	_, err := h.server.update(set, "kubectl", false)
	h.do(err)
}

func pointers[T any](items []T) (result []*T) {
	for i := range items {
		result = append(result, &items[i])
	}
	return result
}

// liveSets are those that are not being deleted.
func (h *history) liveSets() []*v1alpha1.SidecarSet {
	return slices.DeleteFunc(h.server.sets(), func(set *v1alpha1.SidecarSet) bool { return !set.DeletionTimestamp.IsZero() })
}

// anySet is the name of one of the sets that are not being deleted; "none" without any.
func (h *history) anySet() string {
	sets := h.liveSets()
	if len(sets) == 0 {
		return "none"
	}
	return sets[h.random.IntN(len(sets))].Name
}

// end ends all trouble but one, and asks for what has to be so then; at last that one, too.
func (h *history) end() string {
	broken := h.endTrouble()
	h.note("the end begins; broken is %q", broken)
	if problem := cmp.Or(h.settle("at the end"), h.verdict(broken)); problem != "" {
		return problem
	}
	if broken != "" || len(h.userPaused) > 0 {
		h.mend()
		h.note("%s is mended", broken)
		if problem := cmp.Or(h.settle("after mending "+broken), h.verdict("")); problem != "" {
			return problem
		}
	}
	h.startOperator()
	writes := h.operator.writes
	if problem := h.settle("after a restart in steady state"); problem != "" {
		return problem
	}
	if h.operator.writes != writes {
		return fmt.Sprintf("I6: %d writes in steady state", h.operator.writes-writes)
	}
	return ""
}

// verdict says what is not as it has to be when everything is settled.
func (h *history) verdict(broken string) string {
	for _, d := range h.server.deployments() {
		if d.Name == broken {
			continue
		}
		if problem := h.verdictOn(d); problem != "" {
			for _, set := range h.server.sets() {
				h.note("set %s: %+v", set.Name, set.Status)
			}
			return fmt.Sprintf("at the end, %s %s", d.Name, problem)
		}
	}
	for _, set := range h.server.sets() {
		if broken != "" || len(h.userPaused) > 0 {
			break
		}
		if !set.DeletionTimestamp.IsZero() {
			return fmt.Sprintf("at the end, set %s is still being deleted: %+v", set.Name, set.Status)
		}
		if !meta.IsStatusConditionTrue(set.Status.Conditions, v1alpha1.ConditionReady) {
			return fmt.Sprintf("at the end, set %s is not ready: %+v", set.Name, set.Status)
		}
	}
	return ""
}

func (h *history) verdictOn(d *appsv1.Deployment) string {
	if d.Spec.Paused != h.userPaused[d.Name] {
		return fmt.Sprintf("is paused=%v", d.Spec.Paused)
	}
	if _, promoting := d.Annotations[v1alpha1.PromotionAnnotation]; promoting {
		return "is being promoted"
	}
	if d.Spec.Paused {
		return "" // pods may wait for the end of that
	}
	if problem := h.verdictOnLeftovers(d); problem != "" {
		return problem
	}
	slip := slipOf(d)
	pod := &corev1.Pod{Spec: d.Spec.Template.Spec}
	for _, set := range h.liveSets() {
		if slip[set.Name] != set.Status.UpdateRevision || marksOf(&d.Spec.Template)[set.Name] != set.Status.UpdateRevision {
			return fmt.Sprintf("has slip %v and marks %v, set %s has %s", slip, marksOf(&d.Spec.Template), set.Name, set.Status.UpdateRevision)
		}
		for _, sidecar := range injection.ContentOf(&set.Spec).Sidecars() {
			if imageIn(pod, sidecar.Name) != sidecar.Image {
				return "has the wrong image in its template"
			}
		}
	}
	active := 0
	for _, rs := range ownedReplicaSets(h.server.objects[replicaSetKind], d) {
		pods := podsOf(h.server, rs)
		if len(pods) == 0 {
			continue
		}
		active++
		if injection.TemplateIdentity(&rs.Spec.Template) != injection.TemplateIdentity(&d.Spec.Template) {
			return "has a ReplicaSet with another template"
		}
		if len(pods) != int(*d.Spec.Replicas) {
			return fmt.Sprintf("has %d pods", len(pods))
		}
		for _, running := range pods {
			if problem := h.verdictOnPod(running, d); problem != "" {
				return problem
			}
		}
	}
	if active > 1 || (active == 0 && *d.Spec.Replicas > 0) {
		return fmt.Sprintf("has %d ReplicaSets with pods", active)
	}
	return ""
}

// verdictOnLeftovers is about sets that were deleted: what they brought is gone, or not ours any more.
func (h *history) verdictOnLeftovers(d *appsv1.Deployment) string {
	live := map[string]bool{}
	for _, set := range h.server.sets() { // one that is being deleted still waits for something
		live[set.Name] = true
	}
	for name := range slipOf(d) {
		if !live[name] {
			return "has the deleted set " + name + " on its slip"
		}
	}
	for _, container := range longRunning(&corev1.Pod{Spec: d.Spec.Template.Spec}) {
		if !live[container.Name] && !h.retained[container.Name] && container.Name != "main" {
			return "still has " + container.Name
		}
	}
	for _, entry := range d.ManagedFields {
		if !injection.IsOurs(&entry) {
			continue
		}
		if len(live) == 0 {
			return "has fields that are ours, and there is no set: " + entry.FieldsV1.GetRawString()
		}
		for name := range h.retained { // in which other sets may have mounts
			if !live[name] && strings.Contains(entry.FieldsV1.GetRawString(), fmt.Sprintf(`k:{\"name\":\"%s\"}":{".":`, name)) {
				return "is ours in what was retained: " + name
			}
		}
	}
	return ""
}

func (h *history) verdictOnPod(pod *corev1.Pod, d *appsv1.Deployment) string {
	if !h.kubelet.isAvailable(pod, d.Spec.MinReadySeconds) {
		return "has an unavailable pod " + pod.Name
	}
	for _, set := range h.liveSets() {
		if injection.Revisions(pod.Annotations[v1alpha1.RevisionsAnnotation])[set.Name] != marksOf(&d.Spec.Template)[set.Name] {
			return "has pod " + pod.Name + " at another revision of " + set.Name
		}
	}
	for _, container := range longRunning(&corev1.Pod{Spec: d.Spec.Template.Spec}) {
		if h.retained[container.Name] { // the set may have been deleted in the middle of an update
			continue
		}
		if imageIn(pod, container.Name) != container.Image {
			return "has pod " + pod.Name + " with another image"
		}
		if has := containerIn(pod, container.Name).Resources; !equality.Semantic.DeepEqual(has, container.Resources) {
			return fmt.Sprintf("has pod %s with other resources: %v, not %v", pod.Name, has.Requests, container.Resources.Requests)
		}
	}
	return ""
}
