// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"encoding/json"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// TemplateIdentity is the same for two templates exactly when the Deployment controller takes them for equal: it leaves the label
// pod-template-hash out (pkg/controller/deployment/util, EqualIgnoreHash).
func TemplateIdentity(template *corev1.PodTemplateSpec) string {
	compared := *template
	compared.Labels = maps.Clone(template.Labels)
	delete(compared.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return identity(&compared)
}

// ApplicationIdentity is the same for two templates that differ only in what an in-place update changes.
func ApplicationIdentity(template *corev1.PodTemplateSpec) string {
	compared := withoutInPlace(template)
	delete(compared.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return identity(compared)
}

func identity(template *corev1.PodTemplateSpec) string {
	data, _ := json.Marshal(template) // an API object can always be encoded.
	hasher := fnv.New64a()
	_, _ = hasher.Write(data) // hash.Hash never returns an error.
	return strconv.FormatUint(hasher.Sum64(), 36)
}

// withoutInPlace returns a template without what an in-place update changes: image and resources of the sidecars that its marks name,
// and the mark for their revisions.
func withoutInPlace(template *corev1.PodTemplateSpec) *corev1.PodTemplateSpec {
	result := template.DeepCopy()
	sidecars := sidecarsOf(template)
	for _, list := range [][]corev1.Container{result.Spec.InitContainers, result.Spec.Containers} {
		for i := range list {
			if slices.Contains(sidecars, list[i].Name) {
				list[i].Image, list[i].Resources = "", corev1.ResourceRequirements{}
			}
		}
	}
	delete(result.Annotations, v1alpha1.RevisionsAnnotation)
	return result
}

func sidecarsOf(template *corev1.PodTemplateSpec) []string {
	return strings.Split(template.Annotations[v1alpha1.ContainersAnnotation], ",")
}

// isInPlace is true when a merged template differs from the live one in nothing but what can change in running pods. Fields that are
// pruned, because we owned them and do not apply them any more, are still in the merged template; they are told apart by their paths.
func isInPlace(live *corev1.PodTemplateSpec, merged *typed.TypedValue, pruned *fieldpath.Set) bool {
	object, _ := merged.AsValue().Unstructured().(tree)
	deployment := &appsv1.Deployment{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object, deployment); err != nil {
		return false
	}
	if !equality.Semantic.DeepEqual(withoutInPlace(live), withoutInPlace(&deployment.Spec.Template)) {
		return false
	}
	sidecars := sidecarsOf(live)
	inPlace := true
	pruned.Leaves().Iterate(func(field fieldpath.Path) { inPlace = inPlace && isSidecarResource(field, sidecars) })
	return inPlace
}

// isSidecarResource is true of paths like spec.template.spec.containers[name="agent"].resources.limits.cpu.
func isSidecarResource(field fieldpath.Path, sidecars []string) bool {
	return slices.ContainsFunc(sidecars, func(name string) bool {
		for _, list := range []string{"containers", "initContainers"} {
			if resources := templatePath(list, byName(name), "resources"); len(field) > len(resources) && field[:len(resources)].Equals(resources) {
				return true
			}
		}
		return false
	})
}
