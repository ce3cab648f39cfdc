// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// runsNothing is the command of pre-pull pods. No image has it: a container whose image is there ends at once, and nothing has run.
const runsNothing = "/sidecarset-pre-pull-runs-nothing"

// prePull carries out what was decided about images ahead of updates, and says why pods wait for them.
func (r *deploymentReconciler) prePull(ctx context.Context, observed *workloadObservation, update rollout.PodUpdate, step rollout.PrePullStep, result *outcome) error {
	result.keepsPulls = true
	for i := range update.Sets {
		if problem := step.Problem(&update.Sets[i]); problem != nil {
			result.problems[update.Sets[i].Key] = *problem
		}
	}
	if err := r.deletePulls(ctx, observed.deployment.Namespace, step.Delete); err != nil {
		return err
	}
	if len(step.Create) == 0 {
		return nil
	}
	name, attempt := client.ObjectKeyFromObject(observed.deployment), pullsFingerprint(step.Create)
	problems, wait := r.refusals.recall(name, attempt, r.now())
	if wait == 0 {
		var err error
		if problems, err = r.createPulls(ctx, observed, update, step.Create); err != nil {
			return err
		}
		if len(problems) > 0 {
			r.refusals.remember(name, attempt, problems, r.now())
		}
	}
	result.addProblems(problems)
	result.recheck = soonest(result.recheck, wait)
	return nil
}

// createPulls begins pulls. A refusal of one is a problem of the sets that want it, and all others would be refused as well.
func (r *deploymentReconciler) createPulls(ctx context.Context, observed *workloadObservation, update rollout.PodUpdate, pulls []rollout.Pull) (map[string]injection.Problem, error) {
	for i := range pulls {
		pod := prePullPod(observed.deployment, &pulls[i])
		err := r.writer.createPull(ctx, pod)
		if isRefusal(err) {
			return refusedPulls(update, err), nil
		}
		if err != nil {
			return nil, err
		}
		log.FromContext(ctx).Info("Began to pull images ahead of updates", "Pod", klog.KObj(pod), "Node", pulls[i].Node)
	}
	return nil, nil
}

func refusedPulls(update rollout.PodUpdate, refusal error) map[string]injection.Problem {
	problems := map[string]injection.Problem{}
	for i := range update.Sets {
		if update.Sets[i].PrePull {
			problems[update.Sets[i].Key] = injection.Problem{Reason: v1alpha1.ReasonPreflightFailed, Message: fmt.Sprintf(
				"the API server refuses the pod that is to pull images ahead, so no pod is updated; correct what the namespace allows, or set updateStrategy.prePull: Never: %s",
				serverWords(refusal))}
		}
	}
	return problems
}

// deletePulls ends pulls, and what remains of them.
func (r *deploymentReconciler) deletePulls(ctx context.Context, namespace string, pulls []rollout.Pull) error {
	var errs []error
	for i := range pulls {
		errs = append(errs, r.writer.deletePull(ctx, namespace, &pulls[i]))
	}
	return errors.Join(errs...)
}

// deletePullsOf ends the pulls of a Deployment that is gone, or no concern of ours any more.
func (r *deploymentReconciler) deletePullsOf(ctx context.Context, deployment types.NamespacedName) error {
	pulls, err := r.observer.pulls(ctx, deployment)
	if err != nil {
		return err
	}
	return r.deletePulls(ctx, deployment.Namespace, pulls)
}

// prePullPod is a pod that pulls images to a node for a Deployment's pods, with their credentials: the kubelet lets a pod use an image that is
// there only if it could have pulled it (KubeletEnsureSecretPulledImages). It runs nothing, and may do nothing. Its owner is the Deployment, so
// that it goes with it also while no operator runs; a set can not go without an operator.
func prePullPod(deployment *appsv1.Deployment, pull *rollout.Pull) *corev1.Pod {
	template := &deployment.Spec.Template.Spec
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: deployment.Namespace, Name: prePullName(deployment, pull),
			Labels:          map[string]string{v1alpha1.InjectedLabel: v1alpha1.PrePullLabelValue},
			Annotations:     map[string]string{v1alpha1.ContainersAnnotation: strings.Join(slices.Sorted(maps.Keys(pull.Images)), ",")},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(deployment, appsv1.SchemeGroupVersion.WithKind("Deployment"))},
		},
		Spec: corev1.PodSpec{
			NodeName:                      pull.Node,
			ServiceAccountName:            template.ServiceAccountName,
			ImagePullSecrets:              slices.Clone(template.ImagePullSecrets),
			AutomountServiceAccountToken:  new(false),
			EnableServiceLinks:            new(false),
			RestartPolicy:                 corev1.RestartPolicyNever,
			ActiveDeadlineSeconds:         new(int64(rollout.PullDeadline.Seconds())),
			TerminationGracePeriodSeconds: new(int64(0)),
			// The node is one that such pods run on already, whatever its taints.
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: new(true), RunAsUser: new(int64(65534)), RunAsGroup: new(int64(65534)),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
		},
	}
	// A controller reference blocks the deletion of its owner by default, which takes permissions that we do not need.
	pod.OwnerReferences[0].BlockOwnerDeletion = nil
	for _, name := range slices.Sorted(maps.Keys(pull.Images)) {
		pod.Spec.Containers = append(pod.Spec.Containers, prePullContainer(name, pull.Images[name]))
	}
	return pod
}

func prePullContainer(name string, image rollout.PullImage) corev1.Container {
	resources := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	return corev1.Container{
		Name: name, Image: image.Image, ImagePullPolicy: image.Policy, Command: []string{runsNothing},
		Resources: corev1.ResourceRequirements{Requests: resources("1m", "8Mi"), Limits: resources("50m", "32Mi")},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}
}

// prePullName is the same for the same images on the same node: an old cache makes no second pod.
func prePullName(deployment *appsv1.Deployment, pull *rollout.Pull) string {
	const longest = 40
	name := deployment.Name[:min(longest, len(deployment.Name))]
	return fmt.Sprintf("%s-pre-pull-%s", strings.TrimRight(name, ".-"), strconv.FormatUint(hashOf(deployment.UID, pull.Node, pull.Images), 36))
}

// pullsFingerprint identifies an attempt to begin pulls.
func pullsFingerprint(pulls []rollout.Pull) uint64 {
	var parts []any
	for i := range pulls {
		parts = append(parts, pulls[i].Node, pulls[i].Images)
	}
	return hashOf(parts...)
}
