// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"slices"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// recorder records all that happens to objects, in the order in which it happens.
type recorder[T client.Object] struct {
	lock   sync.Mutex
	events []recorded[T]
}

// recorded is an object as it was from a time on, or its end.
type recorded[T client.Object] struct {
	at     time.Time
	gone   bool
	object T
}

// record records until the spec ends, or the container whose BeforeAll calls it.
func record[T client.Object](ctx context.Context, list client.ObjectList, options ...client.ListOption) *recorder[T] {
	GinkgoHelper()
	watching, err := client.NewWithWatch(cluster.Config, client.Options{})
	Expect(err).NotTo(HaveOccurred())
	// The first events are the objects that there are.
	stream, err := watching.Watch(context.WithoutCancel(ctx), list, options...)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(stream.Stop)
	r := &recorder[T]{}
	go func() {
		for event := range stream.ResultChan() {
			if object, ok := event.Object.(T); ok {
				r.add(recorded[T]{at: time.Now(), gone: event.Type == watch.Deleted, object: object})
			}
		}
	}()
	return r
}

func (r *recorder[T]) add(event recorded[T]) {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.events = append(r.events, event)
}

func (r *recorder[T]) all() []recorded[T] {
	r.lock.Lock()
	defer r.lock.Unlock()
	return slices.Clone(r.events)
}

// of are the events of a Deployment, or of its pods.
func (r *recorder[T]) of(namespace, deployment string) []recorded[T] {
	return slices.DeleteFunc(r.all(), func(event recorded[T]) bool {
		of := event.object.GetName()
		if app, is := event.object.GetLabels()["app"]; is {
			of = app
		}
		return event.object.GetNamespace() != namespace || of != deployment
	})
}

// most is how many pods were unavailable at the same time, from a time on, one of them not counted.
func most(events []recorded[*corev1.Pod], from time.Time, except string) (result int) {
	unavailable := map[string]bool{}
	for _, event := range events {
		unavailable[event.object.Name] = isUnavailable(event.object) && !event.gone && event.object.Name != except
		count := 0
		for _, is := range unavailable {
			if is {
				count++
			}
		}
		if event.at.After(from) {
			result = max(result, count)
		}
	}
	return result
}

// isUnavailable is true of a pod that is not ready, and of one that is about to restart a container, from the change of its image on.
func isUnavailable(pod *corev1.Pod) bool {
	images := map[string]string{}
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		images[status.Name] = status.Image
	}
	differs := func(c corev1.Container) bool { return images[c.Name] != c.Image }
	return !isReady(pod) || slices.ContainsFunc(slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers), differs)
}

// longestPause is for how long a Deployment was paused at a stretch.
func longestPause(events []recorded[*appsv1.Deployment]) (longest time.Duration) {
	var since time.Time
	for _, event := range events {
		switch paused := event.object.Spec.Paused && !event.gone; {
		case paused && since.IsZero():
			since = event.at
		case !paused && !since.IsZero():
			longest, since = max(longest, event.at.Sub(since)), time.Time{}
		}
	}
	if !since.IsZero() {
		return max(longest, time.Since(since))
	}
	return longest
}
