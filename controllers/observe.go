// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/promotion"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// observer makes all reads. They come from the cache, except for what says otherwise.
type observer struct {
	cache client.Reader
	// live reads from the API server: managed fields of other managers are not in the cache.
	live              client.Reader
	summaries         *summaries
	turns             *turns
	operatorNamespace string
}

// setObservation is what a reconcile of a set decides from.
type setObservation struct {
	set         *v1alpha1.SidecarSet
	history     []rollout.Revision
	workloads   []rollout.Workload
	deployments map[types.NamespacedName]*appsv1.Deployment
	// inUse are the names of revisions that a slip, a template or a pod refers to.
	inUse map[string]bool
	// populated are the uids of Deployments with pods that their ReplicaSets gave the set's content.
	populated map[types.UID]bool
	// refused are those workloads whose slip the API server refused to have changed.
	refused refusedSlips
	// canaries selects among the workloads; nil when the set has no canaries.
	canaries labels.Selector
}

func (o *observer) set(ctx context.Context, set *v1alpha1.SidecarSet) (*setObservation, error) {
	observed := &setObservation{
		set:         set,
		deployments: map[types.NamespacedName]*appsv1.Deployment{},
		inUse:       map[string]bool{set.Status.CurrentRevision: true, set.Status.UpdateRevision: true},
	}
	var revisions appsv1.ControllerRevisionList
	if err := o.cache.List(ctx, &revisions, client.InNamespace(set.Namespace), client.MatchingFields{ownerIndex: string(set.UID)}); err != nil {
		return nil, fmt.Errorf("listing revisions: %w", err)
	}
	for i := range revisions.Items {
		revision := &revisions.Items[i]
		observed.history = append(observed.history, rollout.Revision{Name: revision.Name, Number: revision.Revision, Content: revision.Data.Raw})
	}
	if canary := set.Spec.UpdateStrategy.Canary; canary != nil {
		// An invalid selector is reported by Validate, and nothing is changed then.
		observed.canaries, _ = metav1.LabelSelectorAsSelector(&canary.Selector)
	}
	if err := o.addPopulated(ctx, observed); err != nil {
		return nil, err
	}
	var deployments appsv1.DeploymentList
	// Nothing below changes what it reads, so that a large namespace need not be copied.
	if err := o.cache.List(ctx, &deployments, client.InNamespace(set.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing Deployments: %w", err)
	}
	for i := range deployments.Items {
		o.addDeployment(observed, &deployments.Items[i])
	}
	return observed, nil
}

// addPopulated finds the Deployments that have pods with the set's content, whatever their templates say by now.
func (o *observer) addPopulated(ctx context.Context, observed *setObservation) error {
	var replicaSets appsv1.ReplicaSetList
	if err := o.cache.List(ctx, &replicaSets, client.InNamespace(observed.set.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("listing ReplicaSets: %w", err)
	}
	observed.populated = map[types.UID]bool{}
	for i := range replicaSets.Items {
		rs := &replicaSets.Items[i]
		owner := metav1.GetControllerOf(rs)
		if owner == nil || (*rs.Spec.Replicas == 0 && rs.Status.Replicas == 0) {
			continue
		}
		if _, carries := injection.Revisions(rs.Annotations[v1alpha1.RevisionsAnnotation])[observed.set.Name]; carries {
			observed.populated[owner.UID] = true
		}
	}
	return nil
}

// addDeployment adds a Deployment that the set selects, or that has something of it. One that is being deleted is none any more.
func (o *observer) addDeployment(observed *setObservation, deployment *appsv1.Deployment) {
	if !deployment.DeletionTimestamp.IsZero() {
		return
	}
	key := observed.set.Name
	workload := rollout.Workload{
		Namespace:  deployment.Namespace,
		Name:       deployment.Name,
		UID:        deployment.UID,
		Selected:   o.selects(observed.set, deployment),
		Canary:     observed.canaries != nil && observed.canaries.Matches(labels.Set(deployment.Labels)),
		Slip:       slipOf(deployment)[key],
		Carried:    slices.Contains(setsOf(deployment), key) && carriesOurs(deployment),
		Deployment: rolloutOf(deployment),
		Summary:    o.summaries.get(client.ObjectKeyFromObject(deployment), key),
	}
	workload.Called = o.turns.has(client.ObjectKeyFromObject(observed.set), client.ObjectKeyFromObject(deployment), turnOf(observed.set, workload.Slip))
	// A retained template is its owner's, marks included.
	_, marked := marksOf(&deployment.Spec.Template)[key]
	workload.Leaving = workload.Slip == "" && !workload.Carried && !marked && observed.populated[deployment.UID]
	if !workload.Selected && workload.Slip == "" && !workload.Carried && !workload.Leaving {
		return
	}
	observed.workloads = append(observed.workloads, workload)
	observed.deployments[client.ObjectKeyFromObject(deployment)] = deployment
	observed.inUse[workload.Slip] = true
	observed.inUse[marksOf(&deployment.Spec.Template)[key]] = true
	if workload.Summary != nil {
		for revision := range strings.SplitSeq(workload.Summary.PodRevisions, ",") {
			observed.inUse[revision] = true
		}
	}
}

// selects is true of a Deployment that a set's selector matches, unless its owner excluded it or its namespace is out of bounds.
func (o *observer) selects(set *v1alpha1.SidecarSet, deployment *appsv1.Deployment) bool {
	if deployment.Namespace == metav1.NamespaceSystem || deployment.Namespace == o.operatorNamespace {
		return false
	}
	selector, err := metav1.LabelSelectorAsSelector(&set.Spec.Selector)
	if err != nil {
		return false // an invalid selector is reported as such, and selects nothing.
	}
	return selector.Matches(labels.Set(deployment.Labels)) && !isExcluded(deployment, set.Name)
}

func isExcluded(deployment *appsv1.Deployment, setName string) bool {
	exclude := strings.TrimSpace(deployment.Annotations[v1alpha1.ExcludeAnnotation])
	if exclude == "true" {
		return true
	}
	return slices.ContainsFunc(strings.Split(exclude, ","), func(name string) bool { return strings.TrimSpace(name) == setName })
}

func marksOf(template *corev1.PodTemplateSpec) map[string]string {
	return injection.Revisions(template.Annotations[v1alpha1.RevisionsAnnotation])
}

// workloadObservation is what a reconcile of a Deployment decides from.
type workloadObservation struct {
	deployment *appsv1.Deployment
	workload   injection.Workload
	// template is the identity of the pod template.
	template string
	slip     map[string]string
	assigned []assignedSet
	pods     []rollout.Pod
	pulls    []rollout.Pull
	// replicaSets are those with something of ours, oldest first.
	replicaSets []appsv1.ReplicaSet
	// intent is that of the promotion under way; nil when none is. before are the contents of the revisions that it started from.
	intent *promotion.Intent
	before map[string]*injection.Content
	// disruptionBudgets are those that cover its pods.
	disruptionBudgets []rollout.DisruptionBudget
	// sharers names the workloads that one of them covers. It reads from the cache when it is called.
	sharers func(budget types.UID) []types.NamespacedName
	// gone are the keys on the slip whose set does not exist any more.
	gone []string
	// refused is what the API server refused to have in its pods a moment ago.
	refused refusedInPods
}

// assignedSet is a set on a workload's slip, or in its template.
type assignedSet struct {
	injection.Set
	strategy v1alpha1.UpdateStrategy
	// judged is true of a revision that has not reached every pod of the set before: it may fail. proven is the one that has, of a set whose partition
	// keeps pods at it, and of which the template has nothing; nil when there is none.
	judged bool
	proven *injection.Set
	// today is true of a revision that the set assigns now, as its update or as what has proven itself.
	today bool
	// degraded is the reason for which the set's status says that its update revision is, if this is that; else empty.
	degraded string
	// stopped is true of a revision that is held as it is because it has failed, here or elsewhere.
	stopped bool
	// outdated is true of a revision that the set's spec has moved on from, which the sets' controller has not dealt with yet.
	outdated bool
	// summary is what is counted of it in the pods, failure why its revision has failed here, and recheck in how long either may change by time alone.
	summary rollout.Summary
	failure *rollout.Problem
	recheck time.Duration
	// kept is true of a set that is to stay in the template at the revision that it has there, because its partition keeps some pods at that, and
	// withheld when that is so in all pods.
	kept, withheld bool
	// awaitsTurn is true of a set whose partition was lowered, and which is to go on in other workloads first.
	awaitsTurn bool
	// stays is true of a set whose pods can not go back to what is kept, because the API server refuses that.
	stays bool
	// standing says how the set stands to the workload.
	standing standing
}

type standing int

const (
	// assigned: it is on the slip.
	assigned standing = iota
	// missing: it is on the slip, with a revision that is not there.
	missing
	// dropped: it selects the workload, and somebody removed it from the slip. It will be put back.
	dropped
	// handedOver: it is being deleted, and its content is to stay.
	handedOver
	// leaving: its content has to go.
	leaving
)

// deployment observes a Deployment for its controller. It returns nil when there is none, or none that concerns us, and what it has so far
// when it fails.
func (o *observer) deployment(ctx context.Context, name types.NamespacedName) (*workloadObservation, error) {
	deployment := &appsv1.Deployment{}
	// Nothing that follows changes what it read: it is copied where it becomes part of a write.
	if err := o.cache.Get(ctx, name, deployment, client.UnsafeDisableDeepCopy); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("getting the Deployment: %w", err)
	}
	slip := slipOf(deployment)
	if !deployment.DeletionTimestamp.IsZero() || (len(slip) == 0 && !carriesOurs(deployment)) {
		return nil, nil
	}
	observed := &workloadObservation{deployment: deployment, slip: slip}
	return observed, o.complete(ctx, observed, name)
}

// complete adds all but the Deployment itself.
func (o *observer) complete(ctx context.Context, observed *workloadObservation, name types.NamespacedName) error {
	template := &observed.deployment.Spec.Template
	observed.workload = injection.Workload{Name: "Deployment " + name.String(), Template: template}
	observed.template = injection.TemplateIdentity(template)
	var err error
	if observed.workload.Owned, err = injection.OwnershipOf(observed.deployment.ManagedFields); err != nil {
		return err
	}
	if observed.workload.Rendered, err = o.contents(ctx, name.Namespace, marksOf(template)); err != nil {
		return err
	}
	if observed.intent = promotion.ParseIntent(observed.deployment.Annotations[v1alpha1.PromotionAnnotation]); observed.intent != nil {
		if observed.before, err = o.contents(ctx, name.Namespace, observed.intent.From); err != nil {
			return err
		}
	}
	keys := marksOf(template)
	maps.Copy(keys, observed.slip)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if err := o.addSet(ctx, observed, key); err != nil {
			return err
		}
	}
	if err := o.addPods(ctx, observed); err != nil {
		return err
	}
	if observed.pulls, err = o.pulls(ctx, name); err != nil {
		return err
	}
	return o.addDisruptionBudgets(ctx, observed)
}

// contents returns the contents of revisions by set, without those that are gone.
func (o *observer) contents(ctx context.Context, namespace string, revisions map[string]string) (map[string]*injection.Content, error) {
	result := map[string]*injection.Content{}
	for key, revision := range revisions {
		content, err := o.content(ctx, namespace, revision)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		result[key] = content
	}
	return result, nil
}

func (o *observer) addSet(ctx context.Context, observed *workloadObservation, key string) error {
	namespace := observed.deployment.Namespace
	revision, onSlip := observed.slip[key]
	set := &v1alpha1.SidecarSet{}
	err := o.cache.Get(ctx, types.NamespacedName{Namespace: namespace, Name: key}, set, client.UnsafeDisableDeepCopy)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("getting set %q: %w", key, err)
	}
	exists := err == nil
	if !exists && onSlip {
		observed.gone = append(observed.gone, key)
	}
	added := assignedSet{
		Set:      injection.Set{Key: key, CreatedAt: set.CreationTimestamp.Time, Revision: revision, Content: &injection.Content{}},
		strategy: set.Spec.UpdateStrategy,
		judged:   revision != set.Status.CurrentRevision,
		today:    slices.Contains([]string{set.Status.CurrentRevision, set.Status.UpdateRevision}, revision),
	}
	if revision == set.Status.UpdateRevision {
		added.degraded = rollout.Degraded(&set.Status, set.Generation, revision)
	}
	deleting := !set.DeletionTimestamp.IsZero()
	switch {
	case onSlip && deleting && set.Spec.DeletionPolicy == v1alpha1.RetainDeletionPolicy:
		added.standing, added.Held = handedOver, true
	case onSlip && exists:
		added.Held = set.Spec.UpdateStrategy.Paused && !deleting
		if err := o.addContent(ctx, observed, set, &added); err != nil {
			return err
		}
	case exists && o.wants(set, observed.deployment):
		added.standing, added.Held = dropped, true
	default:
		added.standing = leaving
	}
	observed.assigned = append(observed.assigned, added)
	return nil
}

// addContent adds what a set brings.
func (o *observer) addContent(ctx context.Context, observed *workloadObservation, set *v1alpha1.SidecarSet, added *assignedSet) error {
	content, err := o.content(ctx, set.Namespace, added.Revision)
	if apierrors.IsNotFound(err) {
		added.standing, added.Held = missing, true
		return nil
	}
	if err != nil {
		return err
	}
	added.Content = content
	if added.outdated, err = isOutdated(set, content); err != nil {
		return err
	}
	added.proven, err = o.proven(ctx, observed, set, added)
	return err
}

// proven is what comes to the pods that a set's partition keeps, where the template has nothing of the set.
func (o *observer) proven(ctx context.Context, observed *workloadObservation, set *v1alpha1.SidecarSet, assigned *assignedSet) (*injection.Set, error) {
	current := set.Status.CurrentRevision
	if marksOf(observed.workload.Template)[assigned.Key] != "" || current == "" || !rollout.KeepsPods(observed.partitionOf(assigned)) {
		return nil, nil
	}
	content, err := o.content(ctx, set.Namespace, current)
	if err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return &injection.Set{Key: assigned.Key, CreatedAt: assigned.CreatedAt, Revision: current, Content: content}, nil
}

// isOutdated compares what a workload was assigned with a spec that the status does not know yet.
func isOutdated(set *v1alpha1.SidecarSet, assigned *injection.Content) (bool, error) {
	if set.Status.ObservedGeneration >= set.Generation || !set.DeletionTimestamp.IsZero() || len(injection.Validate(&set.Spec)) > 0 {
		return false, nil
	}
	wanted, err := injection.ContentOf(&set.Spec).Canonical()
	if err != nil {
		return false, err
	}
	has, err := assigned.Canonical()
	return !bytes.Equal(wanted, has), err
}

// wants is true of a set that has a Deployment on its mind. One whose first revision failed is off its slip on purpose.
func (o *observer) wants(set *v1alpha1.SidecarSet, deployment *appsv1.Deployment) bool {
	isTakenOut := isRolledBack(&set.Status) && set.Status.CurrentRevision == ""
	return set.DeletionTimestamp.IsZero() && !isTakenOut && o.selects(set, deployment)
}

func (o *observer) content(ctx context.Context, namespace, name string) (*injection.Content, error) {
	revision := &appsv1.ControllerRevision{}
	if err := o.cache.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, revision, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("getting revision %q: %w", name, err)
	}
	return injection.ParseContent(revision.Data.Raw)
}

// addPods adds a Deployment's ReplicaSets that carry sidecars, and those of their pods that are not terminating.
func (o *observer) addPods(ctx context.Context, observed *workloadObservation) error {
	namespace := client.InNamespace(observed.deployment.Namespace)
	var replicaSets appsv1.ReplicaSetList
	if err := o.cache.List(ctx, &replicaSets, namespace, client.MatchingFields{ownerIndex: string(observed.deployment.UID)}, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("listing ReplicaSets: %w", err)
	}
	observed.replicaSets = replicaSets.Items
	slices.SortFunc(observed.replicaSets, func(a, b appsv1.ReplicaSet) int {
		// As the Deployment controller sorts them (pkg/controller/controller_utils.go, ReplicaSetsByCreationTimestamp).
		if order := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); order != 0 {
			return order
		}
		return strings.Compare(a.Name, b.Name)
	})
	read := rollout.PodReader{}
	for i := range replicaSets.Items {
		var pods corev1.PodList
		if err := o.cache.List(ctx, &pods, namespace, client.MatchingFields{ownerIndex: string(replicaSets.Items[i].UID)}, client.UnsafeDisableDeepCopy); err != nil {
			return fmt.Errorf("listing pods: %w", err)
		}
		for j := range pods.Items {
			if !isActive(&pods.Items[j]) {
				continue
			}
			pod := read.PodOf(&pods.Items[j])
			pod.Replaced = replicaSets.Items[i].Annotations[templateIdentity] != observed.template
			observed.pods = append(observed.pods, pod)
		}
	}
	return nil
}

// pulls are the pre-pull pods of a Deployment, whether it exists or not.
func (o *observer) pulls(ctx context.Context, deployment types.NamespacedName) ([]rollout.Pull, error) {
	var pods corev1.PodList
	if err := o.cache.List(ctx, &pods, client.InNamespace(deployment.Namespace), client.MatchingFields{ownerIndex: pullsOf(deployment.Name)}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing pre-pull pods: %w", err)
	}
	var pulls []rollout.Pull
	for i := range pods.Items {
		pulls = append(pulls, rollout.PullOf(&pods.Items[i]))
	}
	return pulls, nil
}

// addDisruptionBudgets adds what the PodDisruptionBudgets that cover the Deployment's pods allow. One whose controller has not seen its spec
// allows nothing.
func (o *observer) addDisruptionBudgets(ctx context.Context, observed *workloadObservation) error {
	var budgets policyv1.PodDisruptionBudgetList
	if err := o.cache.List(ctx, &budgets, client.InNamespace(observed.deployment.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("listing PodDisruptionBudgets: %w", err)
	}
	for i := range budgets.Items {
		budget := &budgets.Items[i]
		if !covers(budget, observed.deployment) {
			continue
		}
		status := rollout.DisruptionBudget{UID: budget.UID, Healthy: budget.Status.CurrentHealthy, Expected: o.expectedPods(ctx, budget, *observed.deployment.Spec.Replicas)}
		if budget.Status.ObservedGeneration >= budget.Generation {
			status.Allowed = budget.Status.DisruptionsAllowed
		}
		observed.disruptionBudgets = append(observed.disruptionBudgets, status)
	}
	observed.sharers = func(uid types.UID) []types.NamespacedName {
		index := slices.IndexFunc(budgets.Items, func(budget policyv1.PodDisruptionBudget) bool { return budget.UID == uid })
		if index < 0 {
			return nil
		}
		return o.coveredBy(ctx, &budgets.Items[index])
	}
	return nil
}

// covers is true of a PodDisruptionBudget that selects the pods of a Deployment.
func covers(budget *policyv1.PodDisruptionBudget, deployment *appsv1.Deployment) bool {
	selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
	return err == nil && selector.Matches(labels.Set(deployment.Spec.Template.Labels))
}

// isActive is true of the pods that a ReplicaSet counts (pkg/controller/controller_utils.go, IsPodActive).
func isActive(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp.IsZero() && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

// ownsRevision is true of a revision that exists and is the set's. It reads from the API server, because the cache has just been wrong.
func (o *observer) ownsRevision(ctx context.Context, set *v1alpha1.SidecarSet, name string) (bool, error) {
	revision := &appsv1.ControllerRevision{}
	if err := o.live.Get(ctx, types.NamespacedName{Namespace: set.Namespace, Name: name}, revision); err != nil {
		return false, fmt.Errorf("getting revision %q: %w", name, err)
	}
	return metav1.IsControlledBy(revision, set), nil
}

// withManagedFields reads a Deployment with the fields of all managers, at the version that was observed.
func (o *observer) withManagedFields(ctx context.Context, observed *appsv1.Deployment) (*appsv1.Deployment, error) {
	deployment := &appsv1.Deployment{}
	if err := o.live.Get(ctx, client.ObjectKeyFromObject(observed), deployment); err != nil {
		return nil, fmt.Errorf("getting the Deployment's managed fields: %w", err)
	}
	if deployment.ResourceVersion != observed.ResourceVersion {
		return nil, apierrors.NewConflict(appsv1.Resource("deployments"), observed.Name, fmt.Errorf("it changed since it was observed"))
	}
	return deployment, nil
}

// setsForDeployment names the sets that select a Deployment, that are on its slip, or that are in its template.
func (o *observer) setsForDeployment(ctx context.Context, deployment *appsv1.Deployment) []types.NamespacedName {
	keys := setsOf(deployment)
	var sets v1alpha1.SidecarSetList
	if err := o.cache.List(ctx, &sets, client.InNamespace(deployment.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		log.FromContext(ctx).Error(err, "Listing the sets of a Deployment", "Deployment", klog.KObj(deployment))
	}
	for i := range sets.Items {
		if o.selects(&sets.Items[i], deployment) {
			keys = append(keys, sets.Items[i].Name)
		}
	}
	names := make([]types.NamespacedName, 0, len(keys))
	for _, key := range keys {
		names = append(names, types.NamespacedName{Namespace: deployment.Namespace, Name: key})
	}
	return names
}

// deploymentsForSet maps a set to the Deployments that it was assigned to, or that carry it.
func (o *observer) deploymentsForSet(ctx context.Context, set client.Object) []reconcile.Request {
	var deployments appsv1.DeploymentList
	if err := o.cache.List(ctx, &deployments, client.InNamespace(set.GetNamespace()), client.MatchingFields{setIndex: set.GetName()}, client.UnsafeDisableDeepCopy); err != nil {
		log.FromContext(ctx).Error(err, "Listing the Deployments of a set", "SidecarSet", klog.KObj(set))
	}
	requests := make([]reconcile.Request, 0, len(deployments.Items))
	for i := range deployments.Items {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&deployments.Items[i])})
	}
	return requests
}

// deploymentForPod maps a pod to the Deployment of its ReplicaSet, and a pre-pull pod to its own. A ReplicaSet that is not in the cache yet
// maps itself when it comes.
func (o *observer) deploymentForPod(ctx context.Context, pod client.Object) []reconcile.Request {
	owner := metav1.GetControllerOf(pod)
	if owner != nil && isPrePull(pod) {
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: pod.GetNamespace(), Name: owner.Name}}}
	}
	if owner == nil || owner.Kind != "ReplicaSet" {
		return nil
	}
	rs := &appsv1.ReplicaSet{}
	if err := o.cache.Get(ctx, types.NamespacedName{Namespace: pod.GetNamespace(), Name: owner.Name}, rs, client.UnsafeDisableDeepCopy); err != nil {
		return nil
	}
	deployment := metav1.GetControllerOf(rs)
	if deployment == nil || deployment.Kind != "Deployment" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: pod.GetNamespace(), Name: deployment.Name}}}
}

// deploymentsForBudget maps a PodDisruptionBudget to the Deployments with an order slip whose pods it covers.
func (o *observer) deploymentsForBudget(ctx context.Context, object client.Object) []reconcile.Request {
	budget, ok := object.(*policyv1.PodDisruptionBudget)
	if !ok {
		return nil
	}
	var requests []reconcile.Request
	for _, workload := range o.coveredBy(ctx, budget) {
		requests = append(requests, reconcile.Request{NamespacedName: workload})
	}
	return requests
}

// coveredBy names the Deployments with an order slip whose pods a PodDisruptionBudget covers.
func (o *observer) coveredBy(ctx context.Context, budget *policyv1.PodDisruptionBudget) (names []types.NamespacedName) {
	for _, deployment := range o.covered(ctx, budget) {
		if deployment.DeletionTimestamp.IsZero() && len(slipOf(deployment)) > 0 {
			names = append(names, client.ObjectKeyFromObject(deployment))
		}
	}
	return names
}

// covered are the Deployments whose pods a PodDisruptionBudget covers.
func (o *observer) covered(ctx context.Context, budget *policyv1.PodDisruptionBudget) (covered []*appsv1.Deployment) {
	var deployments appsv1.DeploymentList
	if err := o.cache.List(ctx, &deployments, client.InNamespace(budget.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		log.FromContext(ctx).Error(err, "Listing the Deployments of a PodDisruptionBudget", "PodDisruptionBudget", klog.KObj(budget))
	}
	for i := range deployments.Items {
		if covers(budget, &deployments.Items[i]) {
			covered = append(covered, &deployments.Items[i])
		}
	}
	return covered
}

// expectedPods is how many pods there are to be that a PodDisruptionBudget covers. With a number as minAvailable, its controller expects as many as
// there are (getExpectedPodCount in pkg/controller/disruption/disruption.go), those included that a rollout is about to delete. No more than those of
// one Deployment need no closer look.
func (o *observer) expectedPods(ctx context.Context, budget *policyv1.PodDisruptionBudget, ofOne int32) int32 {
	expected := budget.Status.ExpectedPods
	if minAvailable := budget.Spec.MinAvailable; expected <= ofOne || minAvailable == nil || minAvailable.Type != intstr.Int {
		return expected
	}
	for _, deployment := range o.covered(ctx, budget) {
		expected -= max(0, deployment.Status.Replicas-*deployment.Spec.Replicas)
	}
	return expected
}
