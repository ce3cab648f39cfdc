// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// kubelet runs the pods. It reports that it has seen a spec before it acts on it, kills a container whose image changed, and starts it anew later;
// no other container restarts with it. Resources change nothing. It hears of a spec late, and may start a container from an older one meanwhile.
type kubelet struct {
	server  *apiServer
	running map[types.UID]*runningPod
	started int
	// sick are pods whose application does not become ready.
	sick map[types.UID]bool
	// failed is told of pods of which a container ended by itself.
	failed func(pod *corev1.Pod)
	// trace takes down what happens to containers; nil when nobody is to read it.
	trace func(format string, args ...any)
}

// What an image does besides running, by the end of its name.
const (
	notFound   = ":not-found"
	crashes    = ":crashes"
	neverReady = ":never-ready"
)

var brokenImages = []string{notFound, crashes, neverReady}

func isBroken(image string) bool {
	return slices.ContainsFunc(brokenImages, func(broken string) bool { return strings.HasSuffix(image, broken) })
}

// runningPod is a pod as it runs, whatever the API server says.
type runningPod struct {
	// seen is the spec that the kubelet acts on.
	seen       *corev1.Pod
	containers []*runningContainer
}

type runningContainer struct {
	name, image, id string
	init            bool
	up, ready       bool
	// waits is why a container is not started, and again before which time it is not.
	waits    string
	again    time.Time
	since    metav1.Time
	restarts int32
}

func newKubelet(server *apiServer) *kubelet {
	return &kubelet{server: server, running: map[types.UID]*runningPod{}, sick: map[types.UID]bool{}}
}

// longRunning are the containers of a pod that run as long as it does.
func longRunning(pod *corev1.Pod) (result []*corev1.Container) {
	for i := range pod.Spec.InitContainers {
		if policy := pod.Spec.InitContainers[i].RestartPolicy; policy != nil && *policy == corev1.ContainerRestartPolicyAlways {
			result = append(result, &pod.Spec.InitContainers[i])
		}
	}
	for i := range pod.Spec.Containers {
		result = append(result, &pod.Spec.Containers[i])
	}
	return result
}

func imageIn(pod *corev1.Pod, name string) string { return containerIn(pod, name).Image }

// containerIn is a container of a pod that runs as long as it does; empty when there is none of that name.
func containerIn(pod *corev1.Pod, name string) corev1.Container {
	for _, container := range longRunning(pod) {
		if container.Name == name {
			return *container
		}
	}
	return corev1.Container{}
}

// step does one thing for one pod, if there is one to do.
func (k *kubelet) step(random *rand.Rand) bool {
	pods := k.server.pods()
	random.Shuffle(len(pods), func(i, j int) { pods[i], pods[j] = pods[j], pods[i] })
	return slices.ContainsFunc(pods, func(pod *corev1.Pod) bool { return k.syncPod(pod, random) })
}

func (k *kubelet) syncPod(pod *corev1.Pod, random *rand.Rand) bool {
	run := k.running[pod.UID]
	switch {
	case !pod.DeletionTimestamp.IsZero():
		delete(k.running, pod.UID)
		k.server.remove(pod)
		return true
	case run == nil:
		run = &runningPod{seen: pod}
		for _, container := range longRunning(pod) {
			run.containers = append(run.containers, &runningContainer{
				name: container.Name, init: slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == container.Name }),
			})
		}
		k.running[pod.UID] = run
		k.report(pod)
		return true
	}
	if run.seen.Generation < pod.Generation && random.IntN(3) > 0 {
		k.hear(pod, run)
		return true
	}
	return k.killContainer(pod, run, random) || k.startContainer(pod, run, random)
}

// hear hears of a pod's spec as it is.
func (k *kubelet) hear(pod *corev1.Pod, run *runningPod) {
	for _, container := range run.containers {
		if imageIn(pod, container.name) != imageIn(run.seen, container.name) {
			container.waits = ""
		}
	}
	run.seen = pod
	k.report(pod)
}

// killContainer stops a container that runs another image than it should.
func (k *kubelet) killContainer(pod *corev1.Pod, run *runningPod, random *rand.Rand) bool {
	for _, container := range run.containers {
		if container.up && container.image != imageIn(run.seen, container.name) {
			k.stop(pod, container, random.IntN(3000), "")
			return true
		}
	}
	return false
}

// stop ends a container that starts again after so many milliseconds, and says why it waits.
func (k *kubelet) stop(pod *corev1.Pod, container *runningContainer, startsAfter int, waits string) {
	container.up, container.ready, container.waits = false, false, waits
	container.again = k.server.now.Add(time.Duration(startsAfter) * time.Millisecond)
	k.report(pod)
}

// catchUp acts on specs that have been there for longer than it may be late.
func (k *kubelet) catchUp(lateness time.Duration, random *rand.Rand) {
	for _, pod := range k.server.pods() {
		run := k.running[pod.UID]
		if run == nil || !pod.DeletionTimestamp.IsZero() || k.server.now.Sub(k.server.respecified[pod.UID]) <= lateness {
			continue
		}
		if run.seen.Generation < pod.Generation {
			k.hear(pod, run)
		}
		for k.killContainer(pod, run, random) {
		}
	}
}

// startContainer starts a container that does not run, or makes one ready that does, or lets one end that can not run.
func (k *kubelet) startContainer(pod *corev1.Pod, run *runningPod, random *rand.Rand) bool {
	for _, container := range run.containers {
		image := imageIn(run.seen, container.name)
		healthy := !strings.HasSuffix(image, neverReady) && (!k.sick[pod.UID] || container.name != "main")
		switch {
		case container.up && strings.HasSuffix(image, crashes):
			k.stop(pod, container, 10000, "CrashLoopBackOff")
			k.failed(pod)
			return true
		case container.up && !container.ready && healthy:
			container.ready = true
		case container.up || k.server.now.Before(container.again):
			continue
		case strings.HasSuffix(image, notFound):
			if container.waits != "" {
				continue
			}
			container.waits = "ErrImagePull"
		default:
			if container.id != "" {
				container.restarts++
			}
			k.started++
			container.id, container.image = fmt.Sprintf("run-%d", k.started), image
			container.up, container.ready, container.waits, container.since = true, healthy && random.IntN(2) == 0, "", k.server.time()
		}
		k.report(pod)
		return true
	}
	return false
}

// fail lets a container of a pod end by itself; the kubelet starts it again.
func (k *kubelet) fail(pod *corev1.Pod, random *rand.Rand) string {
	run := k.running[pod.UID]
	if run == nil || !pod.DeletionTimestamp.IsZero() {
		return ""
	}
	container := run.containers[random.IntN(len(run.containers))]
	if !container.up {
		return ""
	}
	k.stop(pod, container, random.IntN(5000), "")
	k.failed(pod)
	return container.name
}

// report writes the status of a pod: the containers as they are, and what generation the kubelet has seen.
func (k *kubelet) report(pod *corev1.Pod) {
	stored, _ := k.server.objects[podKind][pod.Name].(*corev1.Pod)
	run, after := k.running[pod.UID], copyOf(stored)
	ready, before := len(run.containers) > 0, after.Status.Conditions
	after.Status = corev1.PodStatus{Phase: corev1.PodRunning, ObservedGeneration: run.seen.Generation}
	for _, container := range run.containers {
		status := corev1.ContainerStatus{Name: container.name, Image: container.image, ContainerID: container.id, RestartCount: container.restarts, Ready: container.ready}
		switch {
		case container.up:
			status.State.Running = &corev1.ContainerStateRunning{StartedAt: container.since}
		case container.waits != "":
			status.State.Waiting = &corev1.ContainerStateWaiting{Reason: container.waits}
		}
		if container.init {
			after.Status.InitContainerStatuses = append(after.Status.InitContainerStatuses, status)
		} else {
			after.Status.ContainerStatuses = append(after.Status.ContainerStatuses, status)
		}
		ready = ready && container.up && container.ready
	}
	for _, conditionType := range []corev1.PodConditionType{corev1.PodReady, corev1.ContainersReady} {
		condition := corev1.PodCondition{Type: conditionType, Status: corev1.ConditionFalse, LastTransitionTime: k.server.time()}
		if ready {
			condition.Status = corev1.ConditionTrue
		}
		for _, old := range before {
			if old.Type == conditionType && old.Status == condition.Status {
				condition.LastTransitionTime = old.LastTransitionTime
			}
		}
		after.Status.Conditions = append(after.Status.Conditions, condition)
	}
	if k.trace != nil {
		text := ""
		for _, container := range run.containers {
			text += fmt.Sprintf(" %s=%s(%s up=%v ready=%v)", container.name, container.id, container.image, container.up, container.ready)
		}
		k.trace("kubelet: %s seen %d of %d%s", pod.Name, run.seen.Generation, pod.Generation, text)
	}
	if _, err := k.server.update(after, "kubelet", true); err != nil {
		panic(err) // it is the live one
	}
}

// conditionSince is since when a pod is ready; zero when it is not.
func conditionSince(pod *corev1.Pod) time.Time {
	for i := range pod.Status.Conditions {
		if condition := &pod.Status.Conditions[i]; condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
			return condition.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// isAvailable is the truth about a pod: it is ready for long enough, and no container of it has to restart.
func (k *kubelet) isAvailable(pod *corev1.Pod, minReadySeconds int32) bool {
	return k.isReadyFor(pod, minReadySeconds) && !k.hasToRestart(pod)
}

func (k *kubelet) isReadyFor(pod *corev1.Pod, minReadySeconds int32) bool {
	since := conditionSince(pod)
	return !since.IsZero() && pod.DeletionTimestamp.IsZero() && k.server.now.Sub(since) >= time.Duration(minReadySeconds)*time.Second
}

// hasToRestart is true of a pod with a container that runs another image than its spec says.
func (k *kubelet) hasToRestart(pod *corev1.Pod) bool {
	run := k.running[pod.UID]
	return run == nil || slices.ContainsFunc(run.containers, func(container *runningContainer) bool { return container.image != imageIn(pod, container.name) })
}
