// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// refusals remembers which templates, slips and promotions the API server refused, so that not every event of a workload sends them again. Losing it costs one
// more try.
type refusals struct {
	mutex      sync.Mutex
	byWorkload map[types.NamespacedName]map[uint64]refusal // by attempt: one does not make another one forgotten.
}

type refusal struct {
	problems map[string]injection.Problem
	until    time.Time
}

func newRefusals() *refusals {
	return &refusals{byWorkload: map[types.NamespacedName]map[uint64]refusal{}}
}

// recall returns the problems of an attempt that was refused, and after how long to try it again; zero when it was not, or is due.
func (r *refusals) recall(workload types.NamespacedName, attempt uint64, now time.Time) (problems map[string]injection.Problem, wait time.Duration) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	refused, ok := r.byWorkload[workload][attempt]
	if !ok || !now.Before(refused.until) {
		return nil, 0
	}
	return refused.problems, refused.until.Sub(now)
}

// remember adds the problems of an attempt to those that it has and that are not due, which wait for as long then.
func (r *refusals) remember(workload types.NamespacedName, attempt uint64, problems map[string]injection.Problem, now time.Time) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	refused := r.byWorkload[workload]
	if refused == nil {
		refused = map[uint64]refusal{}
		r.byWorkload[workload] = refused
	}
	maps.DeleteFunc(refused, func(_ uint64, refusal refusal) bool { return !now.Before(refusal.until) })
	all := maps.Clone(problems)
	maps.Copy(all, refused[attempt].problems)
	refused[attempt] = refusal{problems: all, until: now.Add(tryAgain)}
}

func (r *refusals) forget(workload types.NamespacedName) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	delete(r.byWorkload, workload)
}

// unchangeable is the problem of sets in a Deployment of which the API server refuses any change.
func unchangeable(refusal error) injection.Problem {
	return injection.Problem{Reason: v1alpha1.ReasonPreflightFailed, Message: "the API server refuses to have the Deployment changed: " + serverWords(refusal)}
}

// refusedSlips are the Deployments whose slip the API server refused to have changed, as a policy may have it. They are tried again after some
// time, or when they or the set are other ones.
type refusedSlips map[types.UID]refusedSlip

type refusedSlip struct {
	problem rollout.Problem
	// ofSet and ofDeployment are the generations that it was about.
	ofSet, ofDeployment int64
	until               time.Time
}

// recallRefused tells the workloads of a set what was refused of them, and forgets what was about something else. It returns after how long the
// first of them is tried again.
func (r *sidecarSetReconciler) recallRefused(observed *setObservation) (retry time.Duration) {
	stored, _ := r.refused.Load(client.ObjectKeyFromObject(observed.set))
	known, _ := stored.(refusedSlips)
	observed.refused = refusedSlips{}
	for i := range observed.workloads {
		workload := &observed.workloads[i]
		deployment := observed.deployments[types.NamespacedName{Namespace: workload.Namespace, Name: workload.Name}]
		refused, ok := known[workload.UID]
		if !ok || refused.ofSet != observed.set.Generation || refused.ofDeployment != deployment.Generation {
			continue
		}
		wait := refused.until.Sub(r.now())
		observed.refused[workload.UID] = refused
		workload.Refused, workload.Retry, retry = &refused.problem, wait <= 0, soonest(retry, wait)
	}
	return retry
}

// passOver notes that a slip was refused. It returns an error that leads to another look, in which the workload is passed over.
func (r *sidecarSetReconciler) passOver(ctx context.Context, observed *setObservation, slip rollout.Slip, refusal error) error {
	log.FromContext(ctx).Info("The API server refuses to have a revision assigned", "Deployment", klog.KRef(slip.Namespace, slip.Name), "reason", serverWords(refusal))
	deployment := observed.deployments[types.NamespacedName{Namespace: slip.Namespace, Name: slip.Name}]
	observed.refused[deployment.UID] = refusedSlip{
		problem: rollout.Problem(unchangeable(refusal)), ofSet: observed.set.Generation, ofDeployment: deployment.Generation, until: r.now().Add(tryAgain),
	}
	return errLookAgain
}

// keepRefused remembers what is refused, and not what was due and is not refused any more. It returns true when it forgot something, of which the
// status does not know. Nothing is kept of a set that is released.
func (r *sidecarSetReconciler) keepRefused(observed *setObservation, released bool) (forgot bool) {
	now, before := r.now(), len(observed.refused)
	maps.DeleteFunc(observed.refused, func(_ types.UID, refused refusedSlip) bool { return !now.Before(refused.until) })
	if name := client.ObjectKeyFromObject(observed.set); released || len(observed.refused) == 0 {
		r.refused.Delete(name)
	} else {
		r.refused.Store(name, observed.refused)
	}
	return len(observed.refused) < before
}

// fingerprint identifies an attempt: the template and what we own of it, and what is to be applied. Which other managers there are is not in
// it: what they let go is seen when the attempt is due again, or when the template changes.
func fingerprint(observed *workloadObservation, plan *injection.Plan) uint64 {
	return hashOf(observed.template, observed.workload.Owned.Fingerprint(), plan.Template)
}

// hashOf identifies something by what it is made of.
func hashOf(parts ...any) uint64 {
	hasher := fnv.New64a()
	_, _ = fmt.Fprintln(hasher, parts...) // a hash takes every write, and maps are printed in the order of their keys.
	return hasher.Sum64()
}
