// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/controllers/injection"
)

// controllerManager follows the rules of the Deployment controller (pkg/controller/deployment in Kubernetes: the names of the functions are
// taken from there), the ReplicaSet controller, the disruption controller and the garbage collector. The Deployment controller reads
// Deployments and ReplicaSets from caches that lag independently, and every write of it fails when it decided from an old version.
type controllerManager struct {
	server *apiServer
	cache  *lagging
	// created are the ReplicaSets that the Deployment controller made, deleted the pods that the ReplicaSet controller deleted.
	created, deleted []string
	// counted are the PodDisruptionBudgets whose status was computed.
	counted map[string]bool
	// doubles is told of a Deployment that got a ReplicaSet although it had one with that very template.
	doubles func(deployment string)
	// disrupts is told of pods with such labels that come or go.
	disrupts func(labels map[string]string)
}

func newControllerManager(server *apiServer) *controllerManager {
	cache := newLagging(server, nil, deploymentKind, replicaSetKind)
	cache.list()
	return &controllerManager{server: server, cache: cache, counted: map[string]bool{}}
}

// step does one thing, if there is one to do.
func (m *controllerManager) step(random *rand.Rand) bool {
	before := m.server.version
	work := []func(){}
	for _, deployment := range sorted[*appsv1.Deployment](m.cache.objects[deploymentKind]) {
		work = append(work, func() { m.syncDeployment(deployment.DeepCopy()) })
	}
	for _, rs := range sorted[*appsv1.ReplicaSet](m.server.objects[replicaSetKind]) {
		work = append(work, func() { m.syncReplicaSet(rs) })
	}
	for _, budget := range sorted[*policyv1.PodDisruptionBudget](m.server.objects[budgetKind]) {
		work = append(work, func() { m.syncBudget(budget) })
	}
	work = append(work, m.collectGarbage)
	if m.cache.behind() > 0 {
		for range 1 + len(work)/2 {
			work = append(work, func() { m.cache.step(random) })
		}
	}
	behind := m.cache.behind()
	random.Shuffle(len(work), func(i, j int) { work[i], work[j] = work[j], work[i] })
	for _, do := range work {
		do()
		if m.server.version != before || m.cache.behind() != behind {
			return true
		}
	}
	return false
}

const (
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	revisionAnnotation = "deployment.kubernetes.io/revision"
)

// annotationsToSkip are not copied between Deployments and ReplicaSets.
var annotationsToSkip = []string{desiredAnnotation, revisionAnnotation, corev1.LastAppliedConfigAnnotation}

func (m *controllerManager) updateStatus(d *appsv1.Deployment) error {
	_, err := m.server.update(d, "kube-controller-manager", true)
	return err
}

// ownedReplicaSets are a Deployment's, oldest first.
func ownedReplicaSets(objects map[string]client.Object, d *appsv1.Deployment) []*appsv1.ReplicaSet {
	owned := slices.DeleteFunc(sorted[*appsv1.ReplicaSet](objects), func(rs *appsv1.ReplicaSet) bool { return !metav1.IsControlledBy(rs, d) })
	slices.SortStableFunc(owned, func(a, b *appsv1.ReplicaSet) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	return owned
}

// deploymentSync is one sync of a Deployment.
type deploymentSync struct {
	*controllerManager
	d     *appsv1.Deployment
	all   []*appsv1.ReplicaSet
	newRS *appsv1.ReplicaSet
}

func (m *controllerManager) syncDeployment(d *appsv1.Deployment) {
	s := &deploymentSync{controllerManager: m, d: d, all: ownedReplicaSets(m.cache.objects[replicaSetKind], d)}
	for i, rs := range s.all {
		// Templates are only read, and big.
		copied := *rs
		copied.ObjectMeta = *rs.ObjectMeta.DeepCopy()
		s.all[i] = &copied
	}
	if !d.DeletionTimestamp.IsZero() || s.checkPausedConditions() != nil {
		return
	}
	if err := s.getNewReplicaSet(false); err != nil {
		return
	}
	scaling := slices.ContainsFunc(s.all, func(rs *appsv1.ReplicaSet) bool {
		return *rs.Spec.Replicas > 0 && rs.Annotations[desiredAnnotation] != strconv.Itoa(int(*d.Spec.Replicas))
	})
	switch {
	case d.Spec.Paused, scaling:
		if s.scale() == nil && (!d.Spec.Paused || s.cleanup() == nil) {
			s.syncStatus(false)
		}
	default:
		if s.rollout() == nil {
			s.syncStatus(true)
		}
	}
}

func (s *deploymentSync) progressing() *appsv1.DeploymentCondition {
	for i := range s.d.Status.Conditions {
		if condition := &s.d.Status.Conditions[i]; condition.Type == appsv1.DeploymentProgressing {
			return condition
		}
	}
	return nil
}

func setProgressing(status *appsv1.DeploymentStatus, reason string) {
	status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: reason}}
}

func (s *deploymentSync) checkPausedConditions() error {
	condition := s.progressing()
	wasPaused := condition != nil && condition.Reason == "DeploymentPaused"
	switch {
	case s.d.Spec.Paused && !wasPaused:
		setProgressing(&s.d.Status, "DeploymentPaused")
	case !s.d.Spec.Paused && wasPaused:
		setProgressing(&s.d.Status, "DeploymentResumed")
	default:
		return nil
	}
	if err := s.updateStatus(s.d); err != nil {
		return err
	}
	return errLookAgain // its next write would conflict with this one
}

// getNewReplicaSet is FindNewReplicaSet, with the upkeep of annotations; it creates one when told to.
func (s *deploymentSync) getNewReplicaSet(create bool) error {
	index := slices.IndexFunc(s.all, func(rs *appsv1.ReplicaSet) bool { return equalIgnoreHash(&s.d.Spec.Template, &rs.Spec.Template) })
	newest := 0
	for i, rs := range s.all {
		if number, _ := strconv.Atoi(rs.Annotations[revisionAnnotation]); i != index {
			newest = max(newest, number)
		}
	}
	switch {
	case index >= 0:
		s.newRS = s.all[index]
		return s.keepAnnotations(newest + 1)
	case create:
		return s.createReplicaSet(newest + 1)
	}
	return nil
}

// equalIgnoreHash is EqualIgnoreHash.
func equalIgnoreHash(deployment, rs *corev1.PodTemplateSpec) bool {
	compared := *rs
	compared.Labels = maps.Clone(rs.Labels)
	delete(compared.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return equality.Semantic.DeepEqual(*deployment, compared)
}

func (s *deploymentSync) annotate(rs *appsv1.ReplicaSet, revision int) {
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	for key, value := range s.d.Annotations {
		if !slices.Contains(annotationsToSkip, key) {
			rs.Annotations[key] = value
		}
	}
	if number, _ := strconv.Atoi(rs.Annotations[revisionAnnotation]); number < revision {
		rs.Annotations[revisionAnnotation] = strconv.Itoa(revision)
	}
	rs.Annotations[desiredAnnotation] = strconv.Itoa(int(*s.d.Spec.Replicas))
}

func (s *deploymentSync) keepAnnotations(revision int) error {
	before := maps.Clone(s.newRS.Annotations)
	desired := before[desiredAnnotation]
	s.annotate(s.newRS, revision)
	if *s.newRS.Spec.Replicas > 0 && desired != "" {
		s.newRS.Annotations[desiredAnnotation] = desired // scale writes it, with the replicas
	}
	if !maps.Equal(before, s.newRS.Annotations) || s.newRS.Spec.MinReadySeconds != s.d.Spec.MinReadySeconds {
		s.newRS.Spec.MinReadySeconds = s.d.Spec.MinReadySeconds
		return s.updateReplicaSet(s.newRS)
	}
	if s.d.Annotations[revisionAnnotation] == s.newRS.Annotations[revisionAnnotation] {
		return nil
	}
	if s.d.Annotations == nil {
		s.d.Annotations = map[string]string{}
	}
	s.d.Annotations[revisionAnnotation] = s.newRS.Annotations[revisionAnnotation]
	if err := s.updateStatus(s.d); err != nil {
		return err
	}
	return errLookAgain
}

func (s *deploymentSync) updateReplicaSet(rs *appsv1.ReplicaSet) error {
	if _, err := s.server.update(rs, "kube-controller-manager", false); err != nil {
		return err
	}
	return errLookAgain // one write a sync: the next one sees it
}

func (s *deploymentSync) createReplicaSet(revision int) error {
	collisions := int32(0)
	if s.d.Status.CollisionCount != nil {
		collisions = *s.d.Status.CollisionCount
	}
	hash := fmt.Sprintf("%s%d", injection.TemplateIdentity(&s.d.Spec.Template), collisions)
	template := s.d.Spec.Template.DeepCopy()
	template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: s.d.Name + "-" + hash, Labels: maps.Clone(template.Labels),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(s.d, appsv1.SchemeGroupVersion.WithKind("Deployment"))},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: new(int32(0)), MinReadySeconds: s.d.Spec.MinReadySeconds, Template: *template,
			Selector: &metav1.LabelSelector{MatchLabels: maps.Clone(template.Labels)},
		},
	}
	s.newRS = rs
	s.all = append(s.all, rs)
	rs.Spec.Replicas = new(s.newReplicas())
	s.annotate(rs, revision)
	err := s.server.create(rs, "kube-controller-manager")
	if apierrors.IsAlreadyExists(err) {
		known, _ := s.cache.objects[replicaSetKind][rs.Name].(*appsv1.ReplicaSet)
		if known == nil || (metav1.IsControlledBy(known, s.d) && equalIgnoreHash(&s.d.Spec.Template, &known.Spec.Template)) {
			return err
		}
		s.d.Status.CollisionCount = new(collisions + 1)
		_ = s.updateStatus(s.d) // it tries again
		return err
	}
	if err != nil {
		return err
	}
	s.created = append(s.created, rs.Name)
	if slices.ContainsFunc(ownedReplicaSets(s.server.objects[replicaSetKind], s.d), func(other *appsv1.ReplicaSet) bool {
		return other.Name != rs.Name && equalIgnoreHash(&s.d.Spec.Template, &other.Spec.Template)
	}) {
		s.doubles(s.d.Name)
	}
	setProgressing(&s.d.Status, "NewReplicaSetCreated")
	_ = s.updateStatus(s.d) // the next sync writes it
	return errLookAgain
}

func replicasOf(sets []*appsv1.ReplicaSet) (replicas int32) {
	for _, rs := range sets {
		replicas += *rs.Spec.Replicas
	}
	return replicas
}

func (s *deploymentSync) maxSurge() int32 { return (*s.d.Spec.Replicas + 3) / 4 }

func (s *deploymentSync) maxUnavailable() int32 {
	if *s.d.Spec.Replicas > 0 && s.maxSurge() == 0 {
		return 1
	}
	return *s.d.Spec.Replicas / 4
}

// newReplicas is NewRSNewReplicas.
func (s *deploymentSync) newReplicas() int32 {
	desired := *s.d.Spec.Replicas
	room := desired + s.maxSurge() - replicasOf(s.all)
	if room <= 0 {
		return *s.newRS.Spec.Replicas
	}
	return *s.newRS.Spec.Replicas + min(room, desired-*s.newRS.Spec.Replicas)
}

func (s *deploymentSync) scaleReplicaSet(rs *appsv1.ReplicaSet, replicas int32) error {
	rs.Spec.Replicas = new(replicas)
	rs.Annotations[desiredAnnotation] = strconv.Itoa(int(*s.d.Spec.Replicas))
	return s.updateReplicaSet(rs)
}

// scale brings a paused Deployment, or one that was scaled, to its replicas. Among several ReplicaSets with pods, the largest takes the
// difference: the real one spreads it.
func (s *deploymentSync) scale() error {
	desired := *s.d.Spec.Replicas
	active := slices.DeleteFunc(slices.Clone(s.all), func(rs *appsv1.ReplicaSet) bool { return *rs.Spec.Replicas == 0 })
	switch {
	case len(s.all) == 0:
		return nil
	case len(active) == 0:
		latest := s.all[len(s.all)-1]
		if s.newRS != nil {
			latest = s.newRS
		}
		active = append(active, latest)
		fallthrough
	case len(active) == 1:
		if *active[0].Spec.Replicas == desired && active[0].Annotations[desiredAnnotation] == strconv.Itoa(int(desired)) {
			return nil
		}
		return s.scaleReplicaSet(active[0], desired)
	}
	room := desired - replicasOf(active)
	if desired > 0 {
		room += s.maxSurge()
	}
	slices.SortStableFunc(active, func(a, b *appsv1.ReplicaSet) int { return cmp.Compare(*b.Spec.Replicas, *a.Spec.Replicas) })
	for _, rs := range active {
		if replicas := max(0, *rs.Spec.Replicas+room); replicas != *rs.Spec.Replicas && room != 0 {
			return s.scaleReplicaSet(rs, replicas)
		}
		if rs.Annotations[desiredAnnotation] != strconv.Itoa(int(desired)) {
			return s.scaleReplicaSet(rs, *rs.Spec.Replicas)
		}
	}
	return nil
}

// rollout is rolloutRolling.
func (s *deploymentSync) rollout() error {
	desired := *s.d.Spec.Replicas
	if s.newRS == nil {
		return s.getNewReplicaSet(true)
	}
	if replicas := *s.newRS.Spec.Replicas; replicas > desired {
		return s.scaleReplicaSet(s.newRS, desired)
	} else if more := s.newReplicas(); replicas < desired && more != replicas {
		return s.scaleReplicaSet(s.newRS, more)
	}
	if err := s.reconcileOldReplicaSets(); err != nil {
		return err
	}
	if s.isComplete() {
		return s.cleanup()
	}
	return nil
}

func (s *deploymentSync) isComplete() bool {
	status, desired := &s.d.Status, *s.d.Spec.Replicas
	return status.UpdatedReplicas == desired && status.Replicas == desired && status.AvailableReplicas == desired && status.ObservedGeneration >= s.d.Generation
}

func (s *deploymentSync) reconcileOldReplicaSets() error {
	var available int32
	for _, rs := range s.all {
		available += rs.Status.AvailableReplicas
	}
	minAvailable := *s.d.Spec.Replicas - s.maxUnavailable()
	room := replicasOf(s.all) - minAvailable - (*s.newRS.Spec.Replicas - s.newRS.Status.AvailableReplicas)
	if room <= 0 {
		return nil
	}
	for _, unhealthy := range []bool{true, false} {
		for _, rs := range s.all {
			if rs == s.newRS || *rs.Spec.Replicas == 0 {
				continue
			}
			less := min(*rs.Spec.Replicas, available-minAvailable)
			if unhealthy {
				less = min(room, *rs.Spec.Replicas-rs.Status.AvailableReplicas)
			}
			if less > 0 {
				return s.scaleReplicaSet(rs, *rs.Spec.Replicas-less)
			}
		}
	}
	return nil
}

// cleanup is cleanupDeployment.
func (s *deploymentSync) cleanup() error {
	surplus := len(s.all) - int(*s.d.Spec.RevisionHistoryLimit)
	if s.newRS != nil {
		surplus--
	}
	for _, rs := range s.all {
		if surplus <= 0 {
			break
		}
		if rs == s.newRS {
			continue
		}
		surplus--
		if rs.Status.Replicas == 0 && *rs.Spec.Replicas == 0 && rs.Generation <= rs.Status.ObservedGeneration {
			_ = s.server.delete(rs, nil) // somebody else may have deleted it
			return errLookAgain
		}
	}
	return nil
}

// syncStatus is syncRolloutStatus, or syncDeploymentStatus of one that does not roll out.
func (s *deploymentSync) syncStatus(rolling bool) {
	before := s.d.Status
	status := appsv1.DeploymentStatus{ObservedGeneration: s.d.Generation, CollisionCount: before.CollisionCount, Conditions: slices.Clone(before.Conditions)}
	for _, rs := range s.all {
		status.Replicas += rs.Status.Replicas
		status.ReadyReplicas += rs.Status.ReadyReplicas
		status.AvailableReplicas += rs.Status.AvailableReplicas
	}
	if s.newRS != nil {
		status.UpdatedReplicas = s.newRS.Status.Replicas
	}
	status.UnavailableReplicas = max(0, replicasOf(s.all)-status.AvailableReplicas)
	condition := s.progressing()
	if rolling && (status.Replicas != status.UpdatedReplicas || condition == nil || condition.Reason != "NewReplicaSetAvailable") {
		desired := *s.d.Spec.Replicas
		switch {
		case status.UpdatedReplicas == desired && status.Replicas == desired && status.AvailableReplicas == desired:
			setProgressing(&status, "NewReplicaSetAvailable")
		case status.UpdatedReplicas > before.UpdatedReplicas || status.ReadyReplicas > before.ReadyReplicas:
			setProgressing(&status, "ReplicaSetUpdated")
		}
	}
	if !equality.Semantic.DeepEqual(before, status) {
		s.d.Status = status
		_ = s.updateStatus(s.d) // a conflict is the end of this sync
	}
}

func podsOf(server *apiServer, rs *appsv1.ReplicaSet) []*corev1.Pod {
	return slices.DeleteFunc(server.pods(), func(pod *corev1.Pod) bool { return !metav1.IsControlledBy(pod, rs) || !isActive(pod) })
}

// syncReplicaSet makes or deletes pods, one at a time, and then counts them.
func (m *controllerManager) syncReplicaSet(rs *appsv1.ReplicaSet) {
	pods := podsOf(m.server, rs)
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int {
		if readyA, readyB := isReady(a), isReady(b); readyA != readyB {
			if readyB {
				return -1
			}
			return 1
		}
		return b.CreationTimestamp.Compare(a.CreationTimestamp.Time)
	})
	switch desired := int(*rs.Spec.Replicas); {
	case len(pods) < desired:
		m.createPod(rs)
		return
	case len(pods) > desired:
		m.deleted = append(m.deleted, pods[0].Name)
		m.disrupts(pods[0].Labels)
		_ = m.server.delete(pods[0], nil) // it is there
		return
	}
	status := appsv1.ReplicaSetStatus{Replicas: int32(len(pods)), ObservedGeneration: rs.Generation}
	for _, pod := range pods {
		if !isReady(pod) {
			continue
		}
		status.ReadyReplicas++
		if m.server.now.Sub(conditionSince(pod)).Seconds() >= float64(rs.Spec.MinReadySeconds) {
			status.AvailableReplicas++
		}
	}
	if equality.Semantic.DeepEqual(status, rs.Status) {
		return
	}
	after := rs.DeepCopy()
	after.Status = status
	_, _ = m.server.update(after, "kube-controller-manager", true) // it is the live one
}

// createPod makes a pod as the API server completes it: what is limited is requested.
func (m *controllerManager) createPod(rs *appsv1.ReplicaSet) {
	template := rs.Spec.Template.DeepCopy()
	m.disrupts(template.Labels)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("%s-%d", rs.Name, m.server.version), Labels: template.Labels, Annotations: template.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(rs, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))},
		},
		Spec:   template.Spec,
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			for name, limit := range containers[i].Resources.Limits {
				if _, requested := containers[i].Resources.Requests[name]; !requested {
					containers[i].Resources.Requests = corev1.ResourceList{name: limit}
				}
			}
		}
	}
	if err := m.server.create(pod, "kube-controller-manager"); err != nil {
		panic(err)
	}
}

func isReady(pod *corev1.Pod) bool { return !conditionSince(pod).IsZero() }

// syncBudget tells how many of the pods that a budget covers may be disrupted.
func (m *controllerManager) syncBudget(budget *policyv1.PodDisruptionBudget) {
	m.counted[budget.Name] = true
	wanted, healthy := m.wantedHealthy(budget), int32(0)
	for _, pod := range m.server.pods() {
		if coversPods(budget, pod.Labels) && pod.DeletionTimestamp.IsZero() && isReady(pod) {
			healthy++
		}
	}
	after := budget.DeepCopy()
	after.Status = policyv1.PodDisruptionBudgetStatus{
		ObservedGeneration: budget.Generation, DisruptionsAllowed: max(0, healthy-wanted),
		CurrentHealthy: healthy, DesiredHealthy: wanted, ExpectedPods: m.expectedPods(budget),
	}
	_, _ = m.server.update(after, "kube-controller-manager", true) // it is the live one
}

// coversPods is true of a budget over pods with such labels.
func coversPods(budget *policyv1.PodDisruptionBudget, labels map[string]string) bool {
	return isSubset(budget.Spec.Selector.MatchLabels, labels)
}

func isSubset(of, labels map[string]string) bool {
	for key, value := range of {
		if labels[key] != value {
			return false
		}
	}
	return true
}

// expectedPods is how many pods the Deployments want that a budget covers, and when it says how many have to be available, how many there are.
func (m *controllerManager) expectedPods(budget *policyv1.PodDisruptionBudget) (expected int32) {
	if budget.Spec.MinAvailable == nil {
		return m.wantedPods(budget)
	}
	for _, pod := range m.server.pods() {
		if coversPods(budget, pod.Labels) {
			expected++
		}
	}
	return expected
}

func (m *controllerManager) wantedPods(budget *policyv1.PodDisruptionBudget) (wanted int32) {
	for _, d := range m.server.deployments() {
		if coversPods(budget, d.Spec.Template.Labels) {
			wanted += *d.Spec.Replicas
		}
	}
	return wanted
}

func (m *controllerManager) wantedHealthy(budget *policyv1.PodDisruptionBudget) int32 {
	if budget.Spec.MinAvailable != nil {
		return budget.Spec.MinAvailable.IntVal
	}
	return max(0, m.wantedPods(budget)-budget.Spec.MaxUnavailable.IntVal)
}

// collectGarbage deletes one object whose owner is gone.
func (m *controllerManager) collectGarbage() {
	alive := map[any]bool{}
	for _, kind := range []kind{deploymentKind, replicaSetKind} {
		for _, object := range m.server.objects[kind] {
			alive[object.GetUID()] = true
		}
	}
	for _, kind := range []kind{replicaSetKind, podKind} {
		for _, object := range sorted[client.Object](m.server.objects[kind]) {
			if owner := metav1.GetControllerOf(object); owner != nil && !alive[owner.UID] && object.GetDeletionTimestamp().IsZero() {
				m.server.version++ // a deletion is something that was done
				m.disrupts(object.GetLabels())
				_ = m.server.delete(object, nil)
				return
			}
		}
	}
}
