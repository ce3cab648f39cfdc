// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
)

// Options of the controllers.
type Options struct {
	// OperatorNamespace is never a target.
	OperatorNamespace string
	// ConcurrentWorkloads is how many Deployments are reconciled, and how many pods are updated, at the same time.
	ConcurrentWorkloads int
}

const (
	// statusInterval gathers what changes only the status of a set.
	statusInterval = time.Second
	// membershipInterval gathers what changes which workloads a set has.
	membershipInterval = 100 * time.Millisecond
	// podInterval gathers what happens to the pods of a workload: each reconcile of it reads them all.
	podInterval = 100 * time.Millisecond
)

// concurrentSets is how many sets are reconciled at the same time: one with many workloads must not keep the others waiting.
const concurrentSets = 4

// reconciliationTimeout ends a reconcile that hangs.
const reconciliationTimeout = 2 * time.Minute

// What the operator may do: it reads what it decides from, and writes what docs/concepts.md says. No secrets, no wildcards.
// To create pods is for dry runs (preflight.go), for which the API server asks for the same verb, and for pre-pull pods (deployment_prepull.go).
// No pods but these are ever created or deleted.
//
// +kubebuilder:rbac:groups=apps.sidecarset.io,resources=sidecarsets,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=apps.sidecarset.io,resources=sidecarsets/status,verbs=patch
// +kubebuilder:rbac:groups=apps.sidecarset.io,resources=sidecarsets/finalizers,verbs=update
// +kubebuilder:rbac:groups=apps,resources=deployments,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=apps,resources=replicasets,verbs=get;list;watch;patch;delete
// +kubebuilder:rbac:groups=apps,resources=controllerrevisions,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=pods,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=pods/resize,verbs=patch
// +kubebuilder:rbac:groups=policy,resources=poddisruptionbudgets,verbs=get;list;watch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Setup adds both controllers to a manager. The manager's cache has to have CacheOptions.
func Setup(ctx context.Context, mgr ctrl.Manager, options Options) error {
	if err := addIndexes(ctx, mgr.GetFieldIndexer()); err != nil {
		return err
	}
	changedSets := make(chan event.TypedGenericEvent[*v1alpha1.SidecarSet], 1024)
	summaries := newSummaries(func(namespace string, keys []string) {
		for _, key := range keys {
			set := &v1alpha1.SidecarSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: key}}
			changedSets <- event.TypedGenericEvent[*v1alpha1.SidecarSet]{Object: set}
		}
	})
	called := make(chan event.GenericEvent, 1024)
	call := func(workload types.NamespacedName) {
		called <- event.GenericEvent{Object: &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: workload.Namespace, Name: workload.Name}}}
	}
	turns := newTurns(call)
	observer := &observer{cache: mgr.GetClient(), live: mgr.GetAPIReader(), summaries: summaries, turns: turns, operatorNamespace: options.OperatorNamespace}
	writer := &writer{client: mgr.GetClient()}
	sets := &sidecarSetReconciler{observer: observer, writer: writer, turns: turns, recorder: mgr.GetEventRecorder("sidecarset"), now: time.Now, pace: statusInterval}
	if err := setupSets(mgr, sets, changedSets); err != nil {
		return fmt.Errorf("setting up the controller of SidecarSets: %w", err)
	}
	deployments := &deploymentReconciler{
		observer: observer, writer: writer, renderer: injection.NewRenderer(), summaries: summaries, refusals: newRefusals(), unseen: newUnseen(),
		sightings: newSightings(), disruptions: newDisruptions(), recorder: sets.recorder, now: sets.now,
		podSlots: newPodSlots(options.ConcurrentWorkloads), renderings: newRenderings(),
		promotions: newPromotions(promotionsAtATime, call), turns: turns,
	}
	if err := setupDeployments(mgr, deployments, options.ConcurrentWorkloads, called); err != nil {
		return fmt.Errorf("setting up the controller of Deployments: %w", err)
	}
	return nil
}

func setupSets(mgr ctrl.Manager, reconciler *sidecarSetReconciler, changed <-chan event.TypedGenericEvent[*v1alpha1.SidecarSet]) error {
	summaryChanged := handler.TypedFuncs[*v1alpha1.SidecarSet, reconcile.Request]{
		GenericFunc: func(_ context.Context, event event.TypedGenericEvent[*v1alpha1.SidecarSet], queue requestQueue) {
			queue.AddAfter(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(event.Object)}, statusInterval)
		},
	}
	return ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.SidecarSet{}, builder.WithPredicates(setChanged)).
		WatchesRawSource(source.Kind(mgr.GetCache(), &v1alpha1.SidecarSet{}, statusChanged)).
		Owns(&appsv1.ControllerRevision{}, builder.WithPredicates(predicate.ResourceVersionChangedPredicate{})).
		WatchesRawSource(source.Kind(mgr.GetCache(), &appsv1.Deployment{}, setsOfDeployment(reconciler.observer))).
		WatchesRawSource(source.TypedChannel(changed, summaryChanged)).
		WithOptions(controller.Options{MaxConcurrentReconciles: concurrentSets, EnableWarmup: new(true), ReconciliationTimeout: reconciliationTimeout}).
		Complete(reconcile.AsReconciler(mgr.GetClient(), reconciler))
}

func setupDeployments(mgr ctrl.Manager, reconciler *deploymentReconciler, concurrency int, called <-chan event.GenericEvent) error {
	return ctrl.NewControllerManagedBy(mgr).
		For(&appsv1.Deployment{}, builder.WithPredicates(concernsUs)).
		Watches(&appsv1.ReplicaSet{}, handler.EnqueueRequestForOwner(mgr.GetScheme(), mgr.GetRESTMapper(), &appsv1.Deployment{}, handler.OnlyControllerOwner()), builder.WithPredicates(replicaSetChanged)).
		Watches(&corev1.Pod{}, workloadOfPod(reconciler.observer)).
		Watches(&policyv1.PodDisruptionBudget{}, handler.EnqueueRequestsFromMapFunc(reconciler.observer.deploymentsForBudget)).
		Watches(&v1alpha1.SidecarSet{}, handler.EnqueueRequestsFromMapFunc(reconciler.observer.deploymentsForSet), builder.WithPredicates(setChanged)).
		WatchesRawSource(source.Channel(called, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: concurrency, EnableWarmup: new(true), ReconciliationTimeout: reconciliationTimeout}).
		Complete(reconciler)
}

// workloadOfPod enqueues the Deployment of a pod. What happens to several of its pods within podInterval is reconciled together.
func workloadOfPod(observer *observer) handler.EventHandler {
	enqueue := func(ctx context.Context, queue requestQueue, pods ...client.Object) {
		var deployments []reconcile.Request
		for _, pod := range pods {
			deployments = append(deployments, observer.deploymentForPod(ctx, pod)...)
		}
		for _, deployment := range slices.Compact(deployments) { // that of a pod before and after
			queue.AddAfter(deployment, podInterval)
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, created event.CreateEvent, queue requestQueue) {
			enqueue(ctx, queue, created.Object)
		},
		UpdateFunc: func(ctx context.Context, update event.UpdateEvent, queue requestQueue) {
			enqueue(ctx, queue, update.ObjectOld, update.ObjectNew)
		},
		DeleteFunc: func(ctx context.Context, deleted event.DeleteEvent, queue requestQueue) {
			enqueue(ctx, queue, deleted.Object)
		},
	}
}

// setChanged lets the spec, deletion and finalizers of a set through, not its status.
var setChanged = predicate.Funcs{
	UpdateFunc: func(update event.UpdateEvent) bool {
		return update.ObjectOld.GetGeneration() != update.ObjectNew.GetGeneration() ||
			!update.ObjectNew.GetDeletionTimestamp().IsZero() ||
			!slices.Equal(update.ObjectOld.GetFinalizers(), update.ObjectNew.GetFinalizers())
	},
}

// statusChanged looks at a set once more after its status was written: what was computed from an older one may differ.
var statusChanged = handler.TypedFuncs[*v1alpha1.SidecarSet, reconcile.Request]{
	UpdateFunc: func(_ context.Context, update event.TypedUpdateEvent[*v1alpha1.SidecarSet], queue requestQueue) {
		delay := statusInterval
		if failsNow(&update.ObjectOld.Status, &update.ObjectNew.Status) {
			delay = membershipInterval // what failed is taken back without delay.
		}
		queue.AddAfter(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(update.ObjectNew)}, delay)
	},
}

// concernsUs lets Deployments through that have, or had, an order slip or something of ours.
var concernsUs = predicate.Funcs{
	CreateFunc: func(created event.CreateEvent) bool { return isConcerned(created.Object) },
	DeleteFunc: func(deleted event.DeleteEvent) bool { return isConcerned(deleted.Object) },
	UpdateFunc: func(update event.UpdateEvent) bool {
		return isConcerned(update.ObjectOld) || isConcerned(update.ObjectNew)
	},
}

func isConcerned(object client.Object) bool {
	deployment, ok := object.(*appsv1.Deployment)
	return ok && (len(slipOf(deployment)) > 0 || carriesOurs(deployment))
}

// replicaSetChanged lets the spec of a ReplicaSet through, and how many pods it counts: what says that a rollout is over may come into the cache
// last; and the intent of a promotion that comes to one without pods, whose end waits for that. It keeps out how many are ready, of which the pods
// tell.
var replicaSetChanged = predicate.Funcs{
	UpdateFunc: func(update event.UpdateEvent) bool {
		before, _ := update.ObjectOld.(*appsv1.ReplicaSet)
		after, _ := update.ObjectNew.(*appsv1.ReplicaSet)
		if before == nil || after == nil || before.Generation != after.Generation || before.Status.Replicas != after.Status.Replicas {
			return true
		}
		return after.Status.Replicas == 0 && before.Annotations[v1alpha1.PromotionAnnotation] != after.Annotations[v1alpha1.PromotionAnnotation]
	},
}

// setsOfDeployment enqueues the sets that select a Deployment, are on its slip, or are in its template. What came together is reconciled
// together: a set with many workloads is not reconciled for each of them.
func setsOfDeployment(observer *observer) handler.TypedEventHandler[*appsv1.Deployment, reconcile.Request] {
	enqueue := func(ctx context.Context, queue requestQueue, delay time.Duration, deployments ...*appsv1.Deployment) {
		for _, deployment := range deployments {
			for _, set := range observer.setsForDeployment(ctx, deployment) {
				queue.AddAfter(reconcile.Request{NamespacedName: set}, delay)
			}
		}
	}
	return handler.TypedFuncs[*appsv1.Deployment, reconcile.Request]{
		CreateFunc: func(ctx context.Context, created event.TypedCreateEvent[*appsv1.Deployment], queue requestQueue) {
			enqueue(ctx, queue, membershipInterval, created.Object)
		},
		UpdateFunc: func(ctx context.Context, update event.TypedUpdateEvent[*appsv1.Deployment], queue requestQueue) {
			switch {
			case membershipChanged(update.ObjectOld, update.ObjectNew):
				enqueue(ctx, queue, membershipInterval, update.ObjectOld, update.ObjectNew)
			case rolloutOf(update.ObjectOld) != rolloutOf(update.ObjectNew):
				enqueue(ctx, queue, statusInterval, update.ObjectNew)
			}
		},
		DeleteFunc: func(ctx context.Context, deleted event.TypedDeleteEvent[*appsv1.Deployment], queue requestQueue) {
			enqueue(ctx, queue, membershipInterval, deleted.Object)
		},
	}
}

type requestQueue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// membershipChanged is true of updates that can change which sets a Deployment belongs to, or carries.
func membershipChanged(before, after *appsv1.Deployment) bool {
	return !maps.Equal(before.Labels, after.Labels) ||
		before.Annotations[v1alpha1.ExcludeAnnotation] != after.Annotations[v1alpha1.ExcludeAnnotation] ||
		before.Annotations[v1alpha1.TargetRevisionsAnnotation] != after.Annotations[v1alpha1.TargetRevisionsAnnotation] ||
		before.DeletionTimestamp.IsZero() != after.DeletionTimestamp.IsZero() ||
		carriesOurs(before) != carriesOurs(after) ||
		!maps.Equal(marksOf(&before.Spec.Template), marksOf(&after.Spec.Template))
}
