// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
)

// way is how a change reaches the pods of a workload.
type way int

const (
	// inRunningPods patches the pods that there are.
	inRunningPods way = iota
	// byNewPods lets the Deployment replace them.
	byNewPods
)

// preflight lets the API server judge a plan in a dry run, before anything of the workload is touched for a new revision: the Deployment, and
// a pod of its template, because PodSecurity only warns about a Deployment, and a quota counts pods. Sets that it refuses are held as they
// are: the plan that it returns is for the others. Each attempt is judged once, and one that was refused once more after some time. New images in
// running pods are judged for one workload of a namespace, and that holds for those about which nothing is special (commonChange): the API
// server judges each of their pods when it is patched, and what it refuses then is judged as a change that makes new pods.
func (r *deploymentReconciler) preflight(ctx context.Context, observed *workloadObservation, plan *injection.Plan, way way) (*injection.Plan, verdict, error) {
	if !observed.bringsRevision(plan) || observed.goesBack(plan) {
		return plan, verdict{}, nil
	}
	name, attempt := client.ObjectKeyFromObject(observed.deployment), fingerprint(observed, plan)
	known, passed, refused := r.preflights.recall(name, attempt, way, r.now())
	switch {
	case len(known.problems) > 0:
		accepted, err := r.without(observed, slices.Collect(maps.Keys(known.problems)))
		return accepted, known, err
	case passed, way == inRunningPods && !refused && observed.isUnseen():
		return plan, verdict{}, nil
	}
	var change podChange
	if !refused { // else it is judged by itself.
		change = observed.commonChange(plan, way)
	}
	err := r.judgeOnce(ctx, observed, plan, way, change)
	if isFieldConflict(err) {
		err = r.takeBackPast(ctx, observed, err)
	}
	switch {
	case err == nil:
		r.preflights.pass(name, attempt, way)
		return plan, verdict{}, nil
	case !isRefusal(err):
		return plan, verdict{}, err
	}
	problems, err := r.refusedSets(ctx, observed, err, way)
	if err != nil {
		return plan, verdict{}, err
	}
	log.FromContext(ctx).V(1).Info("Refused in a dry run", "problems", problems)
	r.preflights.refuse(name, attempt, problems, r.now())
	accepted, err := r.without(observed, slices.Collect(maps.Keys(problems)))
	return accepted, verdict{problems: problems, retry: tryAgain}, err
}

// podChange is one of revisions in the running pods of a namespace; its zero value is none.
type podChange struct{ namespace, from, to string }

// commonChange is what a plan has in common with those for other workloads, when there is nothing special about this one: it brings images, and
// nothing else, to running pods, and all fields that we applied are still ours alone. Patches for resources are not asked about everything
// that a new pod is, and without pods nothing is asked before the template is written.
func (o *workloadObservation) commonChange(plan *injection.Plan, way way) podChange {
	disputed := o.deployment.Annotations[fieldsAreShared] != "" || !o.workload.Owned.Lacks(plan.Keep).Empty()
	if way != inRunningPods || disputed || *o.deployment.Spec.Replicas == 0 || len(o.pods) == 0 || o.isRollingOut() || o.bringsResources(plan) {
		return podChange{}
	}
	return podChange{o.deployment.Namespace, o.workload.Template.Annotations[v1alpha1.RevisionsAnnotation], injection.EncodeRevisions(plan.Revisions)}
}

// bringsResources is true of a plan that may change the resources of a sidecar.
func (o *workloadObservation) bringsResources(plan *injection.Plan) bool {
	return slices.ContainsFunc(o.assigned, func(set assignedSet) bool {
		if plan.Revisions[set.Key] != set.Revision {
			return false
		}
		before, known := o.workload.Rendered[set.Key]
		return !known || !equality.Semantic.DeepEqual(resourcesOf(before), resourcesOf(set.Content))
	})
}

// resourcesOf are the resources of sidecars by name.
func resourcesOf(content *injection.Content) map[string]corev1.ResourceRequirements {
	result := map[string]corev1.ResourceRequirements{}
	for _, sidecar := range content.Sidecars() {
		result[sidecar.Name] = sidecar.Resources
	}
	return result
}

// judgeOnce judges a plan, unless a change that it has in common with others has passed, or is being judged and passes then. What is wrong with
// another workload may not be with this one.
func (r *deploymentReconciler) judgeOnce(ctx context.Context, observed *workloadObservation, plan *injection.Plan, way way, change podChange) error {
	passed, underWay := r.preflights.begin(change, r.now())
	switch {
	case passed:
		return nil
	case underWay == nil:
		defer r.preflights.end(change)
	default:
		select {
		case <-underWay:
		case <-ctx.Done():
			return fmt.Errorf("waiting for a dry run of another workload: %w", ctx.Err())
		}
		if r.preflights.hasPassed(change, r.now()) {
			return nil
		}
	}
	judged, err := r.judge(ctx, observed, plan, way)
	if judged && err == nil {
		r.preflights.passChange(change, r.now())
	}
	return err
}

// judge asks the API server whether it would accept a plan. Whatever else it answers than a refusal is no judgement; judged is false when something
// stood in the way of one.
func (r *deploymentReconciler) judge(ctx context.Context, observed *workloadObservation, plan *injection.Plan, way way) (judged bool, err error) {
	template, err := r.writer.dryRunTemplate(ctx, observed.deployment, plan)
	if isUnjudgeable(err) {
		return false, nil
	}
	if err != nil || !observed.bringsRevision(plan) {
		return true, err
	}
	err = r.writer.dryRunPod(ctx, podOf(observed.deployment, template))
	switch {
	case isUnjudgeable(err):
		return false, nil
	case isQuotaExceeded(err) && !observed.needsRoom(way):
		return true, nil
	case isRefusal(err):
		return true, podRefusal{err}
	}
	return true, err
}

// bringsRevision is true of a plan with a revision that the template does not have. To take content out, or to put it right, is no risk that
// was not there before.
func (o *workloadObservation) bringsRevision(plan *injection.Plan) (brings bool) {
	o.eachNew(plan, func(string) { brings = true })
	return brings
}

// goesBack is true of a plan that brings nothing but revisions that have proven themselves, of sets that the template has: what failed is taken
// back whatever a dry run would say.
func (o *workloadObservation) goesBack(plan *injection.Plan) bool {
	marks := marksOf(o.workload.Template)
	back := !o.isJudged(plan)
	o.eachNew(plan, func(key string) { back = back && marks[key] != "" })
	return back
}

// needsRoom is true when a change makes more pods than there are, so that a quota has a say in it. In the middle of a rollout it is the
// rollout that may have filled the quota, and it takes pods that do not get ready away before it makes others: a correction must not wait for it.
func (o *workloadObservation) needsRoom(way way) bool {
	return way == byNewPods && *o.deployment.Spec.Replicas > 0 && !o.hasPodsOfOtherTemplates()
}

// without holds sets as they are, such as those that were refused, and renders the others.
func (r *deploymentReconciler) without(observed *workloadObservation, keys []string) (*injection.Plan, error) {
	observed.each(keys, func(set *assignedSet) { set.Held, set.standing = true, assigned })
	return r.renderer.Render(observed.workload, observed.sets())
}

// podOf is a pod as the ReplicaSet controller would make it. Its owner does not exist, but policies tell pods with an owner from those without.
func podOf(deployment *appsv1.Deployment, template *corev1.PodTemplateSpec) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: deployment.Namespace, GenerateName: deployment.Name + "-", Labels: template.Labels, Annotations: template.Annotations,
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "ReplicaSet", Name: deployment.Name, UID: deployment.UID, Controller: new(true),
			}},
		},
		Spec: template.Spec,
	}
}

// podRefusal is the refusal of a pod that was tried.
type podRefusal struct{ error }

func (r podRefusal) Unwrap() error { return r.error }

// podRefusalWords tells people what the API server said, without the name that the pod would have had: it would be another one each time.
func podRefusalWords(refusal error) string {
	words := serverWords(refusal)
	var status apierrors.APIStatus
	if errors.As(refusal, &status) && status.Status().Details != nil {
		details := status.Status().Details
		words = strings.TrimPrefix(words, fmt.Sprintf("%s %q is ", details.Kind, details.Name))
	}
	return "nothing is changed, because the API server would refuse a pod with it; correct the set, or what the namespace allows: " + words
}

// isQuotaExceeded is true when a quota is full, which is all that says so (apiserver/pkg/admission/plugin/resourcequota/controller.go). Quotas are
// asked last: everybody else has accepted the pod.
func isQuotaExceeded(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(serverWords(err), "exceeded quota: ")
}

// isUnjudgeable is true when an admission webhook that has side effects stands in the way of all dry runs
// (apiserver/pkg/admission/plugin/webhook/errors, NewDryRunUnsupportedErr).
func isUnjudgeable(err error) bool {
	return apierrors.IsBadRequest(err) && strings.Contains(serverWords(err), "does not support dry run")
}

// preflights remembers how the API server judged the last attempt at each workload, or one like it, so that an update that takes many reconciles
// is not tried in each of them. Losing it costs one more dry run. Its zero value is ready for use.
type preflights struct {
	mutex      sync.Mutex
	byWorkload map[types.NamespacedName]judgement
	// passed is when changes passed for some workload, for as long as that counts.
	passed map[podChange]time.Time
	// underWay are changes that are being judged. At the end of that, the channel is closed.
	underWay map[podChange]chan struct{}
}

type judgement struct {
	attempt uint64
	passed  map[way]bool
	// refused are the sets that were refused last, until then.
	refused map[string]injection.Problem
	until   time.Time
}

// verdict is what came of the sets that the API server refuses, and after how long it is asked again.
type verdict struct {
	problems map[string]injection.Problem
	retry    time.Duration
}

// recall returns what is known of an attempt. Sets that were refused on one way are not tried on the other. refused is true of one that was
// refused before, and is due.
func (p *preflights) recall(workload types.NamespacedName, attempt uint64, way way, now time.Time) (known verdict, passed, refused bool) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	last := p.byWorkload[workload]
	switch {
	case last.attempt != attempt:
		return verdict{}, false, false
	case now.Before(last.until):
		return verdict{problems: last.refused, retry: last.until.Sub(now)}, false, true
	}
	return verdict{}, last.passed[way], len(last.refused) > 0
}

func (p *preflights) pass(workload types.NamespacedName, attempt uint64, way way) {
	p.change(workload, attempt, func(judgement *judgement) { judgement.passed[way] = true })
}

func (p *preflights) refuse(workload types.NamespacedName, attempt uint64, problems map[string]injection.Problem, now time.Time) {
	p.change(workload, attempt, func(judgement *judgement) { judgement.refused, judgement.until = problems, now.Add(tryAgain) })
}

func (p *preflights) change(workload types.NamespacedName, attempt uint64, change func(*judgement)) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	last := p.byWorkload[workload]
	if last.attempt != attempt || last.passed == nil {
		last = judgement{attempt: attempt, passed: map[way]bool{}}
	}
	change(&last)
	if p.byWorkload == nil {
		p.byWorkload = map[types.NamespacedName]judgement{}
	}
	p.byWorkload[workload] = last
}

// begin tells whether a change has passed, or is being judged: then underWay is closed at the end of that. Else it is the caller who judges it, up
// to the call of end.
func (p *preflights) begin(change podChange, now time.Time) (passed bool, underWay <-chan struct{}) {
	if change == (podChange{}) {
		return false, nil
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.isFresh(change, now) {
		return true, nil
	}
	if judging, ok := p.underWay[change]; ok {
		return false, judging
	}
	if p.underWay == nil {
		p.underWay = map[podChange]chan struct{}{}
	}
	p.underWay[change] = make(chan struct{})
	return false, nil
}

func (p *preflights) end(change podChange) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if judging, ok := p.underWay[change]; ok {
		close(judging)
		delete(p.underWay, change)
	}
}

// hasPassed is true of a change that has passed for some workload not long ago: what a namespace allows may change.
func (p *preflights) hasPassed(change podChange, now time.Time) bool {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.isFresh(change, now)
}

// isFresh is hasPassed for who has the mutex.
func (p *preflights) isFresh(change podChange, now time.Time) bool {
	at, ok := p.passed[change]
	return ok && now.Before(at.Add(tryAgain))
}

func (p *preflights) passChange(passed podChange, now time.Time) {
	if passed == (podChange{}) {
		return
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.passed == nil {
		p.passed = map[podChange]time.Time{}
	}
	maps.DeleteFunc(p.passed, func(_ podChange, at time.Time) bool { return !now.Before(at.Add(tryAgain)) })
	p.passed[passed] = now
}

func (p *preflights) forget(workload types.NamespacedName) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	delete(p.byWorkload, workload)
}
