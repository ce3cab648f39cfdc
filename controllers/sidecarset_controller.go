// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// sidecarSetReconciler keeps the history of a set, writes order slips, and reports. It never touches a template.
type sidecarSetReconciler struct {
	observer *observer
	writer   *writer
	turns    *turns
	recorder events.EventRecorder
	now      func() time.Time
	// pace is how long at least lies between two writes of a set's status, unless a revision has failed in the meantime.
	pace    time.Duration
	written sync.Map // of types.NamespacedName to time.Time: when a status was written last.
	refused sync.Map // of types.NamespacedName to refusedSlips, of the sets that have some.
}

// setPlan is what a reconcile of a set does.
type setPlan struct {
	// revision is nil when the spec is invalid or the set is being deleted.
	revision *rollout.Next
	slips    []rollout.Slip
	// called are the workloads whose turn it is to go on to what the partition has come to let go.
	called   []types.NamespacedName
	turn     turn
	released bool
	prune    []rollout.Revision
	// status is nil while some workload has not been looked at yet.
	status *v1alpha1.SidecarSetStatus
	// recheck is after how long to come again without any event; zero when events suffice.
	recheck time.Duration
}

// leavingInterval is how often is looked whether the pods of a workload are gone that is not the set's any more: no event of it comes here.
const leavingInterval = 2 * time.Second

// slipsAtATime is how many order slips of a set are written at the same time at most.
const slipsAtATime = 25

// Reconcile brings the slips of a set's workloads to its spec, and its status to what was seen of them.
func (r *sidecarSetReconciler) Reconcile(ctx context.Context, set *v1alpha1.SidecarSet) (reconcile.Result, error) {
	observed, err := r.observer.set(ctx, set)
	if err != nil {
		return reconcile.Result{}, err
	}
	retry := r.recallRefused(observed)
	plan, err := decideSet(observed, r.now())
	if err != nil {
		return reconcile.Result{}, err
	}
	err = r.act(ctx, observed, plan)
	if r.keepRefused(observed, plan.released) {
		retry = lookAgain
	}
	recheck := soonest(plan.recheck, retry)
	if plan.released {
		r.written.Delete(client.ObjectKeyFromObject(set))
	}
	if !plan.released && plan.status != nil {
		wait, reportErr := r.report(ctx, set, *plan.status)
		recheck, err = soonest(recheck, wait), errors.Join(err, reportErr)
	}
	if err != nil {
		return quietly(err)
	}
	return reconcile.Result{RequeueAfter: recheck}, nil
}

// decideSet is pure: it plans from what was observed.
func decideSet(observed *setObservation, now time.Time) (*setPlan, error) {
	spec := &observed.set.Spec
	set := rolloutSet(observed.set, now)
	plan := &setPlan{}
	if !set.Deleting && len(set.Invalid) == 0 {
		content, err := injection.ContentOf(spec).Canonical()
		if err != nil {
			return nil, err
		}
		next := rollout.NextRevision(set.Name, content, observed.history, set.CollisionCount)
		plan.revision = &next
		set.UpdateRevision, set.CollisionCount = next.Name, next.CollisionCount
		observed.inUse[next.Name] = true
		if spec.RevisionHistoryLimit != nil {
			plan.prune = rollout.Prune(observed.history, observed.inUse, *spec.RevisionHistoryLimit)
		}
	}
	plan.slips, plan.called = rollout.Assign(set, observed.workloads)
	plan.turn = turnOf(observed.set, set.UpdateRevision)
	plan.released = set.Deleting && rollout.Released(observed.workloads)
	if rollout.Known(observed.workloads) {
		status := rollout.Status(set, observed.workloads)
		plan.status = &status
	}
	if slices.ContainsFunc(observed.workloads, func(workload rollout.Workload) bool { return workload.Leaving }) {
		plan.recheck = leavingInterval
	}
	return plan, nil
}

func rolloutSet(set *v1alpha1.SidecarSet, now time.Time) rollout.Set {
	strategy := &set.Spec.UpdateStrategy
	return rollout.Set{
		Name:                   set.Name,
		Generation:             set.Generation,
		UpdateRevision:         set.Status.UpdateRevision,
		CollisionCount:         set.Status.CollisionCount,
		Paused:                 strategy.Paused,
		Deleting:               !set.DeletionTimestamp.IsZero(),
		Retain:                 set.Spec.DeletionPolicy == v1alpha1.RetainDeletionPolicy,
		Halt:                   strategy.OnFailure == v1alpha1.HaltFailurePolicy,
		Partitioned:            rollout.KeepsPods(strategy.Partition),
		Partition:              strategy.Partition.String(),
		MaxConcurrentWorkloads: strategy.MaxConcurrentWorkloads,
		Invalid:                injection.Validate(&set.Spec),
		Status:                 set.Status,
		Now:                    now,
	}
}

// act carries a plan out. What goes wrong with one workload does not stop the others.
func (r *sidecarSetReconciler) act(ctx context.Context, observed *setObservation, plan *setPlan) error {
	set := observed.set
	if err := r.keepFinalizer(ctx, set, plan.released); err != nil {
		return err
	}
	if err := r.keepRevision(ctx, set, plan.revision); err != nil {
		return err
	}
	errs := []error{r.assignAll(ctx, observed, plan.slips)}
	r.turns.put(client.ObjectKeyFromObject(set), plan.turn, plan.called)
	for _, revision := range plan.prune {
		errs = append(errs, r.writer.deleteRevision(ctx, set.Namespace, revision.Name))
	}
	return errors.Join(errs...)
}

// assignAll writes order slips: a few one by one, in the order of the wave, and of many slipsAtATime together, since workloads that wait for
// nothing but their slip would wait longest on an API server that those before them keep busy.
func (r *sidecarSetReconciler) assignAll(ctx context.Context, observed *setObservation, slips []rollout.Slip) error {
	errs := make([]error, len(slips))
	var group errgroup.Group
	group.SetLimit(slipsAtATime)
	for i := 0; i < len(slips) && ctx.Err() == nil; i++ {
		assign := func() error {
			errs[i] = r.assign(ctx, observed, slips[i])
			return nil
		}
		if len(slips) < 2*slipsAtATime {
			_ = assign()
		} else {
			group.Go(assign)
		}
	}
	_ = group.Wait() // what goes wrong is in errs.
	for i, err := range errs {
		if isRefusal(err) {
			errs[i] = r.passOver(ctx, observed, slips[i], err)
		}
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// keepFinalizer holds a set until it is released: without the finalizer, a deleted set would leave its content behind.
func (r *sidecarSetReconciler) keepFinalizer(ctx context.Context, set *v1alpha1.SidecarSet, released bool) error {
	held := controllerutil.ContainsFinalizer(set, v1alpha1.ReleaseFinalizer)
	switch {
	case held && released:
		return client.IgnoreNotFound(r.writer.setFinalizer(ctx, set, false))
	case !held && set.DeletionTimestamp.IsZero():
		return r.writer.setFinalizer(ctx, set, true)
	}
	return nil
}

func (r *sidecarSetReconciler) keepRevision(ctx context.Context, set *v1alpha1.SidecarSet, next *rollout.Next) error {
	switch {
	case next == nil:
		return nil
	case !next.Exists:
		return r.createRevision(ctx, set, next)
	case next.Renumber:
		return r.writer.renumberRevision(ctx, set.Namespace, next.Revision)
	}
	return nil
}

// createRevision creates a revision. When something else has its name, such as a revision that an orphaning deletion left, it takes the next one.
func (r *sidecarSetReconciler) createRevision(ctx context.Context, set *v1alpha1.SidecarSet, next *rollout.Next) error {
	log.FromContext(ctx).Info("Creating revision", "ControllerRevision", klog.KRef(set.Namespace, next.Name))
	err := r.writer.createRevision(ctx, set, next.Revision)
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	ours, lookErr := r.observer.ownsRevision(ctx, set, next.Name)
	if lookErr != nil || ours {
		return errors.Join(lookErr, err)
	}
	status := *set.Status.DeepCopy()
	status.CollisionCount = next.CollisionCount + 1
	return errors.Join(r.writer.writeStatus(ctx, set, status), errLookAgain)
}

func (r *sidecarSetReconciler) assign(ctx context.Context, observed *setObservation, slip rollout.Slip) error {
	deployment := observed.deployments[types.NamespacedName{Namespace: slip.Namespace, Name: slip.Name}]
	revisions := slipOf(deployment)
	if slip.Revision == "" {
		delete(revisions, observed.set.Name)
	} else {
		revisions[observed.set.Name] = slip.Revision
	}
	if err := changeSlip(ctx, r.observer, r.writer, deployment, revisions); err != nil {
		return client.IgnoreNotFound(err)
	}
	log.FromContext(ctx).Info("Assigned revision", "Deployment", klog.KObj(deployment), "revision", slip.Revision)
	return nil
}

// changeSlip writes the order slip of a Deployment, or removes it when nothing is left on it.
func changeSlip(ctx context.Context, observer *observer, writer *writer, deployment *appsv1.Deployment, slip map[string]string) error {
	if len(slip) > 0 {
		return writer.writeSlip(ctx, deployment, slip)
	}
	complete, err := observer.withManagedFields(ctx, deployment)
	if err != nil {
		return err
	}
	return writer.removeSlip(ctx, complete)
}

// report writes the status when it is another one, and then announces what changed. It returns after how long to come again when the last write
// is too young.
func (r *sidecarSetReconciler) report(ctx context.Context, set *v1alpha1.SidecarSet, status v1alpha1.SidecarSetStatus) (wait time.Duration, err error) {
	if equality.Semantic.DeepEqual(set.Status, status) {
		return 0, nil
	}
	name := client.ObjectKeyFromObject(set)
	if last, ok := r.written.Load(name); ok && !failsNow(&set.Status, &status) {
		if at, isTime := last.(time.Time); isTime && r.now().Sub(at) < r.pace {
			return r.pace - r.now().Sub(at), nil
		}
	}
	if err := r.writer.writeStatus(ctx, set, status); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	r.written.Store(name, r.now())
	announce(r.recorder, set, set.Status.Conditions, status.Conditions)
	return 0, nil
}

// failsNow is true of a status that says that a revision is taken back, and the one before did not: what is to be done waits for that write.
func failsNow(before, after *v1alpha1.SidecarSetStatus) bool {
	return !isRolledBack(before) && isRolledBack(after)
}

func isRolledBack(status *v1alpha1.SidecarSetStatus) bool {
	degraded := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionDegraded)
	return degraded != nil && degraded.Reason == v1alpha1.ReasonRolledBack
}
