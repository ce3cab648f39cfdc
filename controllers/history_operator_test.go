// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
)

// task is a reconcile to be done: of a set, or of a Deployment.
type task struct {
	kind kind
	name string
}

// fault is what befalls a write of the operator.
type fault string

const (
	noFault          fault = ""
	conflictFault    fault = "conflict"
	lostAnswerFault  fault = "lost answer"
	crashBeforeFault fault = "crash before"
	crashAfterFault  fault = "crash after"
)

// errCrash is thrown through the reconcilers: the process is gone.
var errCrash = errors.New("the operator crashed")

// process is a run of the operator, from start to crash: the real reconcilers with the real mapping of events to reconciles. They read
// a cache that is stripped and selected like that of the manager.
type process struct {
	*laboratory

	ctx         context.Context
	server      *apiServer
	cache       *lagging
	observer    *observer
	sets        reconcile.Reconciler
	deployments *deploymentReconciler
	due         map[task]time.Time
	// failures counts errors in a row.
	failures map[task]int
	// fault decides what befalls a write, and audit looks at what a write did.
	fault func(write string) fault
	audit func(before, after client.Object)
	trace func(format string, args ...any)
	// deceive, when there is one, changes what comes into the cache.
	deceive func(object client.Object)
	// writes counts the writes that were sent.
	writes int
	// rehearse, while it is not nil, takes down writes instead of sending them.
	rehearse *[]string
}

var errRehearsal = errors.New("this is a rehearsal")

// laboratory is what histories share: it takes long to make, and has no state.
type laboratory struct {
	fields   *managedfields.FieldManager
	renderer *injection.Renderer
	scheme   *runtime.Scheme
}

// newProcess makes fresh reconcilers, which know nothing yet.
func newProcess(ctx context.Context, laboratory *laboratory, server *apiServer) *process {
	p := &process{laboratory: laboratory, ctx: ctx, server: server, due: map[task]time.Time{}, failures: map[task]int{}}
	summaries := newSummaries(func(_ string, keys []string) {
		for _, key := range keys {
			p.enqueue(task{setKind, key}, statusInterval)
		}
	})
	api := &operatorClient{process: p}
	call := func(workload types.NamespacedName) { p.enqueue(task{deploymentKind, workload.Name}, 0) }
	turns := newTurns(call)
	p.observer = &observer{cache: cachedReader{p}, live: api, summaries: summaries, turns: turns, operatorNamespace: "sidecarset-system"}
	recorder := &events.FakeRecorder{}
	writer := &writer{client: api}
	p.sets = reconcile.AsReconciler(client.Client(api), &sidecarSetReconciler{observer: p.observer, writer: writer, turns: turns, recorder: recorder, now: func() time.Time { return p.server.now }})
	p.deployments = &deploymentReconciler{
		observer: p.observer, writer: writer, renderer: p.renderer, summaries: summaries, refusals: newRefusals(), unseen: newUnseen(), sightings: newSightings(), disruptions: newDisruptions(), recorder: recorder, podSlots: newPodSlots(1), renderings: newRenderings(),
		promotions: newPromotions(1, call), turns: turns,
		now: func() time.Time { return p.server.now },
	}
	p.cache = newLagging(p.server, p.see, allKinds...)
	return p
}

// enqueue is a work queue's AddAfter: of two times for the same task, the earlier one counts.
func (p *process) enqueue(next task, delay time.Duration) {
	at := p.server.now.Add(delay)
	if known, ok := p.due[next]; !ok || at.Before(known) {
		p.due[next] = at
	}
}

// next is a task that is due, and when one will be.
func (p *process) next(pick func(n int) int) (found task, ok bool, at time.Time) {
	var ready []task
	for next, due := range p.due {
		if !due.After(p.server.now) {
			ready = append(ready, next)
		} else if at.IsZero() || due.Before(at) {
			at = due
		}
	}
	if len(ready) == 0 {
		return task{}, false, at
	}
	slices.SortFunc(ready, func(a, b task) int { return strings.Compare(string(a.kind)+a.name, string(b.kind)+b.name) })
	return ready[pick(len(ready))], true, p.server.now
}

// late is a task that is overdue by so much.
func (p *process) late(by time.Duration) (late task, found bool) {
	var oldest time.Time
	for next, due := range p.due {
		if p.server.now.Sub(due) > by && (!found || due.Before(oldest) || due.Equal(oldest) && next.name < late.name) {
			late, oldest, found = next, due, true
		}
	}
	return late, found
}

// run does a reconcile. It returns false when the process crashed in it.
func (p *process) run(next task) (alive bool) {
	defer func() {
		if thrown := recover(); thrown != nil {
			if thrown != errCrash { //nolint:errorlint // it is that very value
				panic(thrown)
			}
			alive = false
		}
	}()
	delete(p.due, next)
	result, err := p.reconcile(next)
	if err != nil {
		p.failures[next]++
		p.trace("operator: %s %s failed: %v", next.kind, next.name, err)
		p.enqueue(next, min(time.Second, 5*time.Millisecond<<p.failures[next]))
		return true
	}
	delete(p.failures, next)
	if result.RequeueAfter > 0 {
		p.enqueue(next, result.RequeueAfter)
	}
	return true
}

func (p *process) reconcile(next task) (reconcile.Result, error) {
	request := reconcile.Request{NamespacedName: types.NamespacedName{Namespace: historyNamespace, Name: next.name}}
	if next.kind == setKind {
		return p.sets.Reconcile(p.ctx, request)
	}
	return p.deployments.Reconcile(p.ctx, request)
}

// rehearsal is what a fresh operator that has seen the same would write first.
func (p *process) rehearsal(next task) []string {
	var writes []string
	other := newProcess(p.ctx, p.laboratory, p.server)
	other.rehearse, other.cache = &writes, p.cache
	_, _ = other.reconcile(next) // it fails at the first write
	return writes
}

// see takes a change into the cache, selected and stripped, and asks for the reconciles that it leads to, by the predicates and mappings of the
// real watches.
func (p *process) see(kind kind, next change) {
	cached, seen := p.cache, change{}
	if next.before != nil {
		seen.before = cached.objects[kind][next.before.GetName()]
	}
	if next.after != nil && isCached(next.after) {
		seen.after = copyOf(next.after)
		if err := strip(seen.after); err != nil {
			panic(err)
		}
		if p.deceive != nil {
			p.deceive(seen.after)
		}
		cached.objects[kind][seen.after.GetName()] = seen.after
	} else if seen.before != nil {
		delete(cached.objects[kind], seen.before.GetName())
	}
	p.react(kind, seen)
}

func isCached(object client.Object) bool {
	switch kindOf(object) {
	case replicaSetKind:
		return isInjected(object)
	case podKind:
		return isInjected(object) || isPrePull(object)
	case revisionKind:
		return object.GetLabels()[v1alpha1.SetLabel] != ""
	default:
		return true
	}
}

func (p *process) react(kind kind, seen change) {
	both := slices.DeleteFunc([]client.Object{seen.before, seen.after}, func(object client.Object) bool { return object == nil })
	reconcileDeployments := func(requests []reconcile.Request, delay time.Duration) {
		for _, request := range requests {
			p.enqueue(task{deploymentKind, request.Name}, delay)
		}
	}
	for _, object := range both {
		switch kind {
		case replicaSetKind:
			if owner := metav1.GetControllerOf(object); owner != nil && passes(replicaSetChanged.UpdateFunc, seen) {
				p.enqueue(task{deploymentKind, owner.Name}, 0)
			}
		case podKind:
			reconcileDeployments(p.observer.deploymentForPod(p.ctx, object), podInterval)
		case budgetKind:
			reconcileDeployments(p.observer.deploymentsForBudget(p.ctx, object), 0)
		case setKind:
			p.enqueue(task{setKind, object.GetName()}, 0)
			if passes(setChanged.UpdateFunc, seen) {
				reconcileDeployments(p.observer.deploymentsForSet(p.ctx, object), 0)
			}
		case revisionKind:
			if owner := metav1.GetControllerOf(object); owner != nil {
				p.enqueue(task{setKind, owner.Name}, 0)
			}
		default:
		}
	}
	if kind == deploymentKind && len(both) > 0 {
		p.reactToDeployment(seen)
	}
}

// passes asks the predicate of a watch about an update; creations and deletions pass.
func passes(predicate func(event.UpdateEvent) bool, seen change) bool {
	return seen.before == nil || seen.after == nil || predicate(event.UpdateEvent{ObjectOld: seen.before, ObjectNew: seen.after})
}

func (p *process) reactToDeployment(seen change) {
	before, _ := seen.before.(*appsv1.Deployment)
	after, _ := seen.after.(*appsv1.Deployment)
	handler, queue := setsOfDeployment(p.observer), historyQueue{process: p}
	concerned := false
	name := ""
	switch {
	case before == nil:
		name, concerned = after.Name, concernsUs.Create(event.CreateEvent{Object: after})
		handler.Create(p.ctx, event.TypedCreateEvent[*appsv1.Deployment]{Object: after}, queue)
	case after == nil:
		name, concerned = before.Name, concernsUs.Delete(event.DeleteEvent{Object: before})
		handler.Delete(p.ctx, event.TypedDeleteEvent[*appsv1.Deployment]{Object: before}, queue)
	default:
		name, concerned = after.Name, concernsUs.Update(event.UpdateEvent{ObjectOld: before, ObjectNew: after})
		handler.Update(p.ctx, event.TypedUpdateEvent[*appsv1.Deployment]{ObjectOld: before, ObjectNew: after}, queue)
	}
	if concerned {
		p.enqueue(task{deploymentKind, name}, 0)
	}
}

// historyQueue is the queue of the controller of sets.
type historyQueue struct {
	requestQueue

	process *process
}

func (q historyQueue) AddAfter(request reconcile.Request, delay time.Duration) {
	q.process.enqueue(task{setKind, request.Name}, delay)
}

// cachedReader reads what the operator has seen.
type cachedReader struct{ process *process }

func (r cachedReader) Get(_ context.Context, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
	found, ok := r.process.cache.objects[kindOf(object)][key.Name]
	if !ok || key.Namespace != historyNamespace {
		return apierrors.NewNotFound(resourceOf(kindOf(object)), key.Name)
	}
	asked := (&client.GetOptions{}).ApplyOptions(options)
	if asked.UnsafeDisableDeepCopy != nil && *asked.UnsafeDisableDeepCopy {
		reflect.ValueOf(object).Elem().Set(reflect.ValueOf(found).Elem())
		return nil
	}
	into(object, found)
	return nil
}

// into copies what was found into where it was asked for.
func into(object, found client.Object) {
	reflect.ValueOf(object).Elem().Set(reflect.ValueOf(found.DeepCopyObject()).Elem())
}

func (r cachedReader) List(_ context.Context, list client.ObjectList, options ...client.ListOption) error {
	asked := (&client.ListOptions{}).ApplyOptions(options)
	keep := func(client.Object) bool { return true }
	if asked.FieldSelector != nil {
		requirement := asked.FieldSelector.Requirements()[0]
		keep = func(object client.Object) bool {
			indexed := ownerUID(object)
			if deployment, ok := object.(*appsv1.Deployment); ok && requirement.Field == setIndex {
				indexed = setsOf(deployment)
			}
			return slices.Contains(indexed, requirement.Value)
		}
	}
	objects := r.process.cache.objects[kindOf(list)]
	switch list := list.(type) {
	case *appsv1.DeploymentList:
		list.Items = listed[appsv1.Deployment](objects, keep, asked)
	case *appsv1.ReplicaSetList:
		list.Items = listed[appsv1.ReplicaSet](objects, keep, asked)
	case *corev1.PodList:
		list.Items = listed[corev1.Pod](objects, keep, asked)
	case *policyv1.PodDisruptionBudgetList:
		list.Items = listed[policyv1.PodDisruptionBudget](objects, keep, asked)
	case *v1alpha1.SidecarSetList:
		list.Items = listed[v1alpha1.SidecarSet](objects, keep, asked)
	case *appsv1.ControllerRevisionList:
		list.Items = listed[appsv1.ControllerRevision](objects, keep, asked)
	}
	return nil
}

func listed[T any](objects map[string]client.Object, keep func(client.Object) bool, asked *client.ListOptions) (items []T) {
	for _, object := range sorted[client.Object](objects) {
		if !keep(object) {
			continue
		}
		if asked.UnsafeDisableDeepCopy == nil || !*asked.UnsafeDisableDeepCopy {
			object = copyOf(object)
		}
		if typed, ok := any(object).(*T); ok {
			items = append(items, *typed)
		}
	}
	return items
}

// operatorClient is the client of a process: its reads are live, its writes meet with faults.
type operatorClient struct {
	client.Client

	process *process
}

func (c *operatorClient) Scheme() *runtime.Scheme { return c.process.scheme }

func (c *operatorClient) Get(ctx context.Context, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
	if kindOf(object) == setKind {
		return cachedReader{c.process}.Get(ctx, key, object, options...)
	}
	found, ok := c.process.server.objects[kindOf(object)][key.Name]
	if !ok {
		return apierrors.NewNotFound(resourceOf(kindOf(object)), key.Name)
	}
	into(object, found)
	return nil
}

// write sends a write, unless something befalls it.
func (c *operatorClient) write(text string, send func() (before, after client.Object, err error)) error {
	p := c.process
	if p.rehearse != nil {
		*p.rehearse = append(*p.rehearse, text)
		return errRehearsal
	}
	p.writes++
	fault := p.fault(text)
	if fault != noFault {
		p.trace("operator: %s at: %s", fault, text)
	}
	switch fault {
	case conflictFault:
		return apierrors.NewConflict(resourceOf(deploymentKind), "it", errors.New("it was changed"))
	case crashBeforeFault:
		panic(errCrash)
	default:
	}
	before, after, err := send()
	p.trace("operator: %s: %v", text, err)
	if err == nil && before != nil {
		p.audit(before, after)
	}
	switch fault {
	case crashAfterFault:
		panic(errCrash)
	case lostAnswerFault:
		return apierrors.NewInternalError(errors.New("the answer was lost"))
	default:
		return err
	}
}

func (c *operatorClient) Create(_ context.Context, object client.Object, options ...client.CreateOption) error {
	if asked := (&client.CreateOptions{}).ApplyOptions(options); len(asked.DryRun) > 0 {
		return c.write("try "+object.GetGenerateName(), func() (_, _ client.Object, err error) { return nil, nil, c.process.server.policy.admits(nil, object) })
	}
	return c.write("create "+object.GetName(), func() (_, _ client.Object, err error) {
		return nil, nil, c.process.server.create(object, v1alpha1.FieldManager)
	})
}

func (c *operatorClient) Delete(_ context.Context, object client.Object, options ...client.DeleteOption) error {
	asked := (&client.DeleteOptions{}).ApplyOptions(options)
	return c.write(fmt.Sprintf("delete %s %s", kindOf(object), object.GetName()), func() (before, after client.Object, err error) {
		before, _ = c.process.server.live(object)
		return before, nil, c.process.server.delete(object, asked.AsDeleteOptions().Preconditions)
	})
}

func (c *operatorClient) Patch(_ context.Context, object client.Object, patch client.Patch, _ ...client.PatchOption) error {
	return c.patch(object, patch, "")
}

func (c *operatorClient) patch(object client.Object, patch client.Patch, subresource string) error {
	data, err := patch.Data(object)
	if err != nil {
		return fmt.Errorf("encoding a patch: %w", err)
	}
	text := fmt.Sprintf("patch %s %s %s", kindOf(object), object.GetName(), subresource)
	if c.process.rehearse != nil {
		text += string(data)
	}
	return c.write(text, func() (before, after client.Object, err error) {
		before, after, err = c.process.server.patch(object, patch.Type(), data, v1alpha1.FieldManager, subresource)
		if err == nil {
			into(object, after)
		}
		return before, after, err
	})
}

func (c *operatorClient) Apply(_ context.Context, config runtime.ApplyConfiguration, options ...client.ApplyOption) error {
	asked := (&client.ApplyOptions{}).ApplyOptions(options)
	if asked.Force != nil && *asked.Force {
		panic("the operator forces an apply")
	}
	data, err := json.Marshal(config)
	if err != nil {
		return fmt.Errorf("encoding an apply configuration: %w", err)
	}
	applied := &unstructured.Unstructured{}
	if err := applied.UnmarshalJSON(data); err != nil {
		return fmt.Errorf("decoding an apply configuration: %w", err)
	}
	dryRun := len(asked.DryRun) > 0
	text := fmt.Sprintf("apply %s dry=%v ", applied.GetName(), dryRun)
	if paused, _, _ := unstructured.NestedBool(applied.Object, "spec", "paused"); paused {
		text += "paused "
	}
	if c.process.rehearse != nil {
		text += string(data)
	}
	return c.write(text, func() (_, _ client.Object, err error) {
		before, after, err := c.process.server.apply(applied, asked.FieldManager, dryRun)
		if err != nil {
			return nil, nil, err
		}
		answer, err := json.Marshal(after)
		if err == nil {
			err = json.Unmarshal(answer, config)
		}
		if dryRun {
			return nil, nil, err
		}
		return before, after, err
	})
}

func (c *operatorClient) Status() client.SubResourceWriter { return c.SubResource("status") }

func (c *operatorClient) SubResource(name string) client.SubResourceClient {
	return subResourceClient{client: c, name: name}
}

type subResourceClient struct {
	client.SubResourceClient

	client *operatorClient
	name   string
}

func (c subResourceClient) Patch(_ context.Context, object client.Object, patch client.Patch, _ ...client.SubResourcePatchOption) error {
	return c.client.patch(object, patch, c.name)
}
