// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
)

// happen lets something happen that nobody in the cluster asked for. A quiet history has no user but the one who changes images.
func (h *history) happen() {
	events := []func(){h.changeImage, h.changeImage, h.changeImage, h.changeResources, h.takeBack, h.failPod, h.failPod, h.stopManager, h.stopOperator}
	if !h.quiet {
		events = append(events, h.changeStructure, h.changeStrategy, h.scale, h.editTemplate, h.pause, h.resume, h.declarePause, h.restart, h.undo, h.deleteDeployment, h.deletePod, h.makeSick, h.deleteSet, h.addSet, h.forbid, h.allow)
	}
	events[h.random.IntN(len(events))]()
}

func (h *history) changeImage() {
	name := h.anySet()
	image := fmt.Sprintf("%s:%d", name, 1+h.random.IntN(3))
	if h.chance(6) {
		image = name + brokenImages[h.random.IntN(len(brokenImages))]
	}
	h.note("user: %s gets image %s", name, image)
	h.changeSet(name, func(_ *v1alpha1.SidecarSet, container *v1alpha1.SidecarContainer) { container.Image = image })
}

func (h *history) changeResources() {
	name := h.anySet()
	quantity := []string{"10m", "20m", "30m"}[h.random.IntN(3)]
	h.note("user: %s gets %s of cpu", name, quantity)
	h.changeSet(name, func(_ *v1alpha1.SidecarSet, container *v1alpha1.SidecarContainer) {
		container.Resources = cpu(quantity)
	})
}

// takeBack applies what a set was before its last change.
func (h *history) takeBack() {
	name := h.anySet()
	former, ok := h.former[name]
	if !ok {
		return
	}
	h.note("user: %s is to be as it was before", name)
	h.changeSet(name, func(set *v1alpha1.SidecarSet, _ *v1alpha1.SidecarContainer) { set.Spec = *former.DeepCopy() })
}

func (h *history) changeStructure() {
	name := h.anySet()
	level := []string{"info", "debug"}[h.random.IntN(2)]
	h.note("user: %s gets LEVEL=%s", name, level)
	h.changeSet(name, func(_ *v1alpha1.SidecarSet, container *v1alpha1.SidecarContainer) {
		container.Env = []corev1.EnvVar{{Name: "LEVEL", Value: level}}
	})
}

func (h *history) changeStrategy() {
	name := h.anySet()
	h.changeSet(name, func(set *v1alpha1.SidecarSet, _ *v1alpha1.SidecarContainer) {
		strategy := &set.Spec.UpdateStrategy
		switch h.random.IntN(4) {
		case 0:
			strategy.Partition = new(intstr.FromInt32(int32(h.random.IntN(4))))
		case 1:
			strategy.MaxUnavailable = new(intstr.FromInt32(int32(1 + h.random.IntN(3))))
		case 2:
			strategy.Paused = !strategy.Paused
		case 3:
			strategy.Type = []v1alpha1.UpdateStrategyType{v1alpha1.InPlaceUpdateStrategyType, v1alpha1.RollingUpdateUpdateStrategyType}[h.random.IntN(2)]
		}
		h.note("user: %s gets partition %v, maxUnavailable %v, paused %v, %s", name, strategy.Partition, strategy.MaxUnavailable, strategy.Paused, strategy.Type)
	})
}

// deleteSet lets the user delete a set, whose content goes, or stays with the workloads. What can not run does not stay: nobody would put it right.
func (h *history) deleteSet() {
	name := h.anySet()
	if name == "none" {
		return
	}
	h.changeSet(name, func(set *v1alpha1.SidecarSet, container *v1alpha1.SidecarContainer) {
		if h.chance(2) && !isBroken(container.Image) && !h.isBrokenAnywhere(name) {
			set.Spec.DeletionPolicy, h.retained[name] = v1alpha1.RetainDeletionPolicy, true
		}
	})
	h.note("user: delete set %s, retained=%v", name, h.retained[name])
	h.do(h.server.delete(h.server.objects[setKind][name], nil))
}

// isBrokenAnywhere is true of a sidecar with an image that can not run, in some template or pod.
func (h *history) isBrokenAnywhere(name string) bool {
	specs := []corev1.PodSpec{}
	for _, d := range h.server.deployments() {
		specs = append(specs, d.Spec.Template.Spec)
	}
	for _, pod := range h.server.pods() {
		specs = append(specs, pod.Spec)
	}
	return slices.ContainsFunc(specs, func(spec corev1.PodSpec) bool { return isBroken(imageIn(&corev1.Pod{Spec: spec}, name)) })
}

// addSet lets the user create a set that never was before.
func (h *history) addSet() {
	h.added++
	name := fmt.Sprintf("%s-%d", []string{"logs", "mesh"}[h.random.IntN(2)], h.added)
	h.note("user: create set %s", name)
	h.server.policy.strict = false
	h.createSet(name)
}

// forbid lets a policy be against an image of a set. In a cluster with several sets it is never against what is there already: else it could be
// against a Deployment both with a promotion and without.
func (h *history) forbid() {
	kinds := []kind{deploymentKind, replicaSetKind, podKind}
	h.forbidImage(kinds[h.random.IntN(len(kinds))], fmt.Sprintf("%s:%d", h.anySet(), 1+h.random.IntN(3)))
}

func (h *history) forbidImage(kind kind, image string) {
	h.server.policy = policy{kind: kind, image: image, strict: len(h.server.sets()) == 1 && h.chance(2)}
	h.note("user: a policy: %+v", h.server.policy)
}

// cross gets in the way of promotions: the controller manager goes away, the user wants no pods, maybe while the operator is away, or a policy is against what
// a Deployment has or had.
func (h *history) cross() {
	for _, d := range h.server.deployments() {
		if !isPausedByUs(d) || h.quiet || !h.faults {
			continue
		}
		if *d.Spec.Replicas > 0 && !h.isDown(h.managerDown) && h.chance(15) {
			if h.chance(2) {
				h.stopOperator()
			}
			h.empty(d.DeepCopy())
		}
		if !h.chance(10) {
			continue
		}
		images := map[string]string{}
		for _, rs := range ownedReplicaSets(h.server.objects[replicaSetKind], d) {
			for _, container := range longRunning(&corev1.Pod{Spec: rs.Spec.Template.Spec}) {
				if was, is := container.Image, imageIn(&corev1.Pod{Spec: d.Spec.Template.Spec}, container.Name); was != is && *rs.Spec.Replicas > 0 {
					images[was], images[is] = was, is
				}
			}
		}
		if len(images) == 0 || h.chance(2) {
			h.stopManager()
			continue
		}
		candidates := slices.Sorted(maps.Keys(images))
		h.forbidImage([]kind{deploymentKind, replicaSetKind}[h.random.IntN(2)], candidates[h.random.IntN(len(candidates))])
	}
}

func (h *history) allow() {
	h.note("user: no policy")
	h.server.policy = policy{}
}

// editDeployment lets the user change any Deployment by a command; edit returns what it does, and nothing when it does nothing.
func (h *history) editDeployment(edit func(d *appsv1.Deployment) string) {
	h.editDeploymentAs("kubectl", edit)
}

func (h *history) editDeploymentAs(manager string, edit func(d *appsv1.Deployment) string) {
	deployments := h.server.deployments()
	if len(deployments) == 0 {
		return
	}
	d := deployments[h.random.IntN(len(deployments))].DeepCopy()
	did := edit(d)
	if did == "" {
		return
	}
	h.note("user: %s: %s", d.Name, did)
	h.excuse(d.Name)
	_, err := h.server.update(d, manager, false)
	h.do(err)
}

func (h *history) scale() {
	h.editDeployment(func(d *appsv1.Deployment) string {
		d.Spec.Replicas = new(int32(h.random.IntN(6)))
		h.surpriseBudgets(d.Spec.Template.Labels)
		return fmt.Sprintf("scale to %d", *d.Spec.Replicas)
	})
}

// empty lets the user have no pods.
func (h *history) empty(d *appsv1.Deployment) {
	h.note("user: %s: scale to 0", d.Name)
	d.Spec.Replicas = new(int32(0))
	h.surpriseBudgets(d.Spec.Template.Labels)
	_, err := h.server.update(d, "kubectl", false)
	h.do(err)
}

func (h *history) editTemplate() {
	h.editDeployment(func(d *appsv1.Deployment) string {
		for i := range d.Spec.Template.Spec.Containers {
			if container := &d.Spec.Template.Spec.Containers[i]; container.Name == "main" {
				container.Image = fmt.Sprintf("main:%d", 1+h.random.IntN(3))
				return "image " + container.Image
			}
		}
		return ""
	})
}

func (h *history) pause() {
	h.editDeployment(func(d *appsv1.Deployment) string {
		if d.Spec.Paused {
			return "" // kubectl refuses it
		}
		d.Spec.Paused, h.userPaused[d.Name] = true, true
		return "pause"
	})
}

func (h *history) resume() {
	h.editDeployment(func(d *appsv1.Deployment) string {
		if !d.Spec.Paused {
			return ""
		}
		d.Spec.Paused, h.resumed[d.Name] = false, true
		delete(h.userPaused, d.Name)
		return "resume"
	})
}

// declarePause is "kubectl apply" of a manifest that pauses the Deployment, or of one that does not any more. It records the manifest, and sends
// nothing for a pause that is there already.
func (h *history) declarePause() {
	h.editDeploymentAs(clientSideApply, func(d *appsv1.Deployment) string {
		declared := pausesByDeclaration(d)
		switch {
		case d.Annotations == nil:
			return ""
		case !declared:
			d.Annotations[corev1.LastAppliedConfigAnnotation], d.Spec.Paused = `{"spec":{"paused":true}}`, true
			h.userPaused[d.Name] = true
			return "declare a pause"
		default:
			d.Annotations[corev1.LastAppliedConfigAnnotation], d.Spec.Paused = `{"spec":{}}`, false
			h.resumed[d.Name] = true
			delete(h.userPaused, d.Name)
			return "declare no pause"
		}
	})
}

func (h *history) restart() {
	h.editDeployment(func(d *appsv1.Deployment) string {
		if d.Spec.Paused {
			return "" // kubectl refuses it
		}
		if d.Spec.Template.Annotations == nil {
			d.Spec.Template.Annotations = map[string]string{}
		}
		d.Spec.Template.Annotations["kubectl.kubernetes.io/restartedAt"] = h.server.now.String()
		return "restart"
	})
}

// undo is "kubectl rollout undo": the template and the annotations of an older ReplicaSet (k8s.io/kubectl/pkg/polymorphichelpers/rollback.go).
func (h *history) undo() {
	h.editDeployment(func(d *appsv1.Deployment) string {
		sets := ownedReplicaSets(h.server.objects[replicaSetKind], d)
		if d.Spec.Paused || len(sets) == 0 {
			return "" // kubectl refuses it
		}
		rs := sets[h.random.IntN(len(sets))]
		if injection.TemplateIdentity(&rs.Spec.Template) == injection.TemplateIdentity(&d.Spec.Template) {
			return ""
		}
		d.Spec.Template = *rs.Spec.Template.DeepCopy()
		delete(d.Spec.Template.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
		annotations := maps.Clone(rs.Annotations)
		for _, key := range annotationsToSkip {
			delete(annotations, key)
			if value, ok := d.Annotations[key]; ok {
				annotations[key] = value
			}
		}
		d.Annotations = annotations
		h.bringBack(&d.Spec.Template)
		return fmt.Sprintf("undo to %s: %v", rs.Name, annotations)
	})
}

// bringBack makes the application's own what a user restores of sets that are gone, or going.
func (h *history) bringBack(template *corev1.PodTemplateSpec) {
	for _, container := range longRunning(&corev1.Pod{Spec: template.Spec}) {
		isLive := slices.ContainsFunc(h.liveSets(), func(set *v1alpha1.SidecarSet) bool { return set.Name == container.Name })
		if !isLive && container.Name != "main" {
			h.retained[container.Name] = true
		}
	}
}

func (h *history) deleteDeployment() {
	deployments := h.server.deployments()
	if len(deployments) < 2 {
		return
	}
	d := deployments[h.random.IntN(len(deployments))]
	h.note("user: delete %s", d.Name)
	h.surpriseBudgets(d.Spec.Template.Labels)
	h.do(h.server.delete(d, nil))
	delete(h.userPaused, d.Name)
}

func (h *history) anyPod() *corev1.Pod {
	pods := h.server.pods()
	if len(pods) == 0 {
		return nil
	}
	return pods[h.random.IntN(len(pods))]
}

func (h *history) failPod() {
	if pod := h.anyPod(); pod != nil {
		h.note("fate: %s of pod %s ends", h.kubelet.fail(pod, h.random), pod.Name)
	}
}

// failed says that a pod is unavailable by itself. The disruption controller sees that at once: what it sees late is what we do.
func (h *history) failed(pod *corev1.Pod) {
	delete(h.disturbed, pod.UID)
	h.excuse(pod.Labels["app"])
	h.surpriseBudgets(pod.Labels)
}

// surpriseBudgets is what happens when pods with such labels come, go or end, and not by an update of ours.
func (h *history) surpriseBudgets(labels map[string]string) {
	for _, budget := range sorted[*policyv1.PodDisruptionBudget](h.server.objects[budgetKind]) {
		if coversPods(budget, labels) {
			h.budgetKnows[budget.Name] = false
			delete(h.manager.counted, budget.Name) // which was before
		}
	}
}

func (h *history) deletePod() {
	if pod := h.anyPod(); pod != nil {
		h.note("fate: pod %s is deleted", pod.Name)
		h.do(h.server.delete(pod, nil))
		h.failed(pod)
	}
}

// makeSick makes a pod ill for good: its application does not become ready any more.
func (h *history) makeSick() {
	pod := h.anyPod()
	if pod == nil {
		return
	}
	run := h.kubelet.running[pod.UID]
	if run == nil || !pod.DeletionTimestamp.IsZero() {
		return
	}
	h.note("fate: pod %s is sick", pod.Name)
	h.kubelet.sick[pod.UID] = true
	for _, container := range run.containers {
		if container.name == "main" {
			container.ready = false
		}
	}
	h.kubelet.report(pod)
	h.failed(pod)
}

func (h *history) stopManager() {
	h.managerDown = h.server.now.Add(time.Duration(h.random.IntN(60)) * time.Second)
	h.note("fate: the controller manager is down until %v", h.managerDown.Format("15:04:05"))
	clear(h.budgetKnows)
}

func (h *history) stopOperator() {
	h.note("fate: the operator crashes")
	h.restartOperator()
}

// restartOperator lets the operator be away for a while.
func (h *history) restartOperator() {
	h.operatorDown = h.server.now.Add(time.Duration(h.random.IntN(40)) * time.Second / time.Duration(1+h.random.IntN(20)))
	h.startOperator()
}

// endTrouble ends what keeps workloads from converging, but for one of them, whose name it returns: that has a pod that is sick for good.
func (h *history) endTrouble() (broken string) {
	h.faults = false
	h.allow()
	for _, set := range h.server.sets() {
		h.changeSet(set.Name, func(set *v1alpha1.SidecarSet, container *v1alpha1.SidecarContainer) {
			if isBroken(container.Image) {
				container.Image = set.Name + ":4"
			}
			strategy := &set.Spec.UpdateStrategy
			strategy.Partition, strategy.Paused = new(intstr.FromInt32(0)), false
			// A workload that is broken may be a canary, or keep its place in a wave until its Deployment's deadline.
			strategy.MaxConcurrentWorkloads, strategy.Canary = new(intstr.FromString("100%")), nil
		})
	}
	for _, pod := range h.server.pods() {
		if d := h.deploymentOf(pod); d != nil && h.kubelet.sick[pod.UID] && (broken == "" || broken == d.Name) {
			broken = d.Name
		} else {
			delete(h.kubelet.sick, pod.UID)
		}
	}
	h.relaxBudgets(broken)
	for _, d := range h.server.deployments() {
		if h.userPaused[d.Name] && (h.rollsOut() || h.hasBroken(d) || h.chance(2)) {
			h.resumeNow(d)
		}
	}
	return broken
}

// relaxBudgets lets each PodDisruptionBudget allow something besides what a Deployment takes of it that is broken. A pod of it that was updated
// and is sick counts twice for disruptionKnown: in the budget's status, and as one that this may not know of.
func (h *history) relaxBudgets(broken string) {
	for _, budget := range sorted[*policyv1.PodDisruptionBudget](h.server.objects[budgetKind]) {
		relaxed := budget.DeepCopy()
		relaxed.Spec.MinAvailable, relaxed.Spec.MaxUnavailable = nil, new(intstr.FromInt32(max(1, h.manager.wantedPods(budget)-h.manager.wantedHealthy(budget))))
		if d := h.server.deployment(broken); d != nil && coversPods(budget, d.Spec.Template.Labels) {
			relaxed.Spec.MaxUnavailable.IntVal += 2 * *d.Spec.Replicas
		}
		_, err := h.server.update(relaxed, "kubectl", false)
		h.do(err)
		h.budgetKnows[budget.Name] = false
	}
}

// hasBroken is true of a Deployment with a pod that is counted over and over, or takes its part of a budget, because its sidecar can not run: a pause
// may keep what puts it right from it.
func (h *history) hasBroken(d *appsv1.Deployment) bool {
	return slices.ContainsFunc(h.podsOf(d), func(pod *corev1.Pod) bool {
		return slices.ContainsFunc(longRunning(pod), func(c *corev1.Container) bool { return isBroken(c.Image) })
	})
}

func (h *history) podsOf(d *appsv1.Deployment) []*corev1.Pod {
	return slices.DeleteFunc(h.server.pods(), func(pod *corev1.Pod) bool {
		of := h.deploymentOf(pod)
		return of == nil || of.UID != d.UID
	})
}

// rollsOut is true when a set's changes go through the template, which a pause keeps from the pods.
func (h *history) rollsOut() bool {
	return slices.ContainsFunc(h.server.sets(), func(set *v1alpha1.SidecarSet) bool {
		return set.Spec.UpdateStrategy.Type == v1alpha1.RollingUpdateUpdateStrategyType
	})
}

// mend heals a broken workload, and ends pauses.
func (h *history) mend() {
	clear(h.kubelet.sick)
	for _, d := range h.server.deployments() {
		if h.userPaused[d.Name] {
			h.resumeNow(d)
		}
	}
}

func (h *history) resumeNow(d *appsv1.Deployment) {
	resumed := d.DeepCopy()
	resumed.Spec.Paused = false
	delete(h.userPaused, d.Name)
	h.note("user: %s: resume", d.Name)
	_, err := h.server.update(resumed, "kubectl", false)
	h.do(err)
}

// deploymentOf is the Deployment of a pod; nil when it is gone.
func (h *history) deploymentOf(pod *corev1.Pod) *appsv1.Deployment {
	d := h.server.deployment(pod.Labels["app"])
	if d == nil || !slices.ContainsFunc(ownedReplicaSets(h.server.objects[replicaSetKind], d), func(rs *appsv1.ReplicaSet) bool {
		return slices.ContainsFunc(pod.OwnerReferences, func(owner metav1.OwnerReference) bool { return owner.UID == rs.UID })
	}) {
		return nil
	}
	return d
}
