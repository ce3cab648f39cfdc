// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

const (
	labelCharacters = `write at most 63 letters, digits, "-", "_" or ".", beginning and ending with a letter or digit`
	labelKeyForm    = labelCharacters + `; a DNS subdomain and "/" may precede them`
	dnsLabelForm    = `write at most 63 lower-case letters, digits or "-", beginning and ending with a letter or digit`

	// reservedPrefix begins every key that the operator writes.
	reservedPrefix = "sidecarset.io/"
)

var (
	percentage         = regexp.MustCompile(`^([0-9]|[1-9][0-9]|100)%$`)
	positivePercentage = regexp.MustCompile(`^([1-9][0-9]?|100)%$`)
)

// Validate says what is wrong with a spec: one sentence for each offending item, with what to write instead. It is empty for a
// valid spec.
//
// The API server refuses such sets, by the schema of the resource or by the ValidatingAdmissionPolicy sidecarset-spec
// (config/crd/policy.yaml), whose sentences and order these are. This is for clusters that have an older schema or no policy.
func Validate(spec *v1alpha1.SidecarSetSpec) []string {
	return slices.Concat(
		repeatedNames(spec),
		badQuantities(&spec.UpdateStrategy),

		emptySpec(spec),
		badContainerNames(spec),
		badVolumeNames(spec),
		sharedNames(spec),
		missingImages(spec),
		inheritingInits(spec),
		undeclaredVolumes(spec),
		relativeMountPaths(spec),
		sharedMountPaths(spec),
		reservedMetadata(spec.PodMetadata),
		badSelectorKeys(spec),
		badSelectorOperators(spec),
		badSelectorValues(spec),
	)
}

// namedContainer is a container of either list. path is what the sentences call it.
type namedContainer struct {
	*v1alpha1.SidecarContainer
	path      string
	plainInit bool
}

func containersOf(spec *v1alpha1.SidecarSetSpec) []namedContainer {
	all := make([]namedContainer, 0, len(spec.InitContainers)+len(spec.Containers))
	for i := range spec.InitContainers {
		c := &spec.InitContainers[i]
		all = append(all, namedContainer{c, fmt.Sprintf("spec.initContainers[%q]", c.Name), !c.IsNativeSidecar()})
	}
	for i := range spec.Containers {
		c := &spec.Containers[i]
		all = append(all, namedContainer{c, fmt.Sprintf("spec.containers[%q]", c.Name), false})
	}
	return all
}

// repeatedNames stands in the schema as listMapKey.
func repeatedNames(spec *v1alpha1.SidecarSetSpec) []string {
	seen := map[string]bool{}
	var sentences []string
	check := func(path string) {
		if seen[path] {
			sentences = append(sentences, path+" is there twice: rename or remove one of them")
		}
		seen[path] = true
	}
	for _, c := range containersOf(spec) {
		check(c.path)
	}
	for _, v := range spec.Volumes {
		check(fmt.Sprintf("spec.volumes[%q]", v.Name))
	}
	return sentences
}

// badQuantities stands in the schema. A budget of 0 would never let anything finish.
func badQuantities(strategy *v1alpha1.UpdateStrategy) []string {
	const positive = `must be a number of at least 1 or a percentage from "1%" to "100%"; to change nothing for now, write paused: true`
	const natural = `must be a number of at least 0 or a percentage from "0%" to "100%"`
	var sentences []string
	if !isQuantity(strategy.MaxUnavailable, 1, positivePercentage) {
		sentences = append(sentences, "spec.updateStrategy.maxUnavailable "+positive)
	}
	if !isQuantity(strategy.Partition, 0, percentage) {
		sentences = append(sentences, "spec.updateStrategy.partition "+natural)
	}
	if !isQuantity(strategy.MaxConcurrentWorkloads, 1, positivePercentage) {
		sentences = append(sentences, "spec.updateStrategy.maxConcurrentWorkloads "+positive)
	}
	return sentences
}

func isQuantity(value *intstr.IntOrString, least int32, form *regexp.Regexp) bool {
	if value == nil {
		return true
	}
	if value.Type == intstr.Int {
		return value.IntVal >= least
	}
	return form.MatchString(value.StrVal)
}

func emptySpec(spec *v1alpha1.SidecarSetSpec) []string {
	runs := func(c namedContainer) bool { return !c.plainInit }
	if len(spec.Volumes) > 0 || slices.ContainsFunc(containersOf(spec), runs) {
		return nil
	}
	return []string{"spec has no container, no native sidecar and no volume: write at least one in spec.containers, " +
		"in spec.initContainers with restartPolicy: Always, or in spec.volumes"}
}

func badContainerNames(spec *v1alpha1.SidecarSetSpec) []string {
	var sentences []string
	for _, c := range containersOf(spec) {
		if len(validation.IsDNS1123Label(c.Name)) > 0 {
			sentences = append(sentences, fmt.Sprintf("%s has a name that is not a DNS label: %s", c.path, dnsLabelForm))
		}
	}
	return sentences
}

func badVolumeNames(spec *v1alpha1.SidecarSetSpec) []string {
	var sentences []string
	for _, v := range spec.Volumes {
		if len(validation.IsDNS1123Label(v.Name)) > 0 {
			sentences = append(sentences, fmt.Sprintf("spec.volumes[%q] has a name that is not a DNS label: %s", v.Name, dnsLabelForm))
		}
	}
	return sentences
}

func sharedNames(spec *v1alpha1.SidecarSetSpec) []string {
	var sentences []string
	for _, init := range spec.InitContainers {
		isNamesake := func(c v1alpha1.SidecarContainer) bool { return c.Name == init.Name }
		if slices.ContainsFunc(spec.Containers, isNamesake) {
			sentences = append(sentences, fmt.Sprintf(
				"spec.initContainers[%q] has the name of spec.containers[%q]: rename one of them, a pod has one container of a name",
				init.Name, init.Name))
		}
	}
	return sentences
}

func missingImages(spec *v1alpha1.SidecarSetSpec) []string {
	var sentences []string
	for _, c := range containersOf(spec) {
		if c.Image == "" {
			sentences = append(sentences, c.path+" has no image: write the image to run, such as image: busybox:1.36")
		}
	}
	return sentences
}

func inheritingInits(spec *v1alpha1.SidecarSetSpec) []string {
	var sentences []string
	for _, c := range containersOf(spec) {
		if c.plainInit && c.Inherit != nil {
			sentences = append(sentences,
				c.path+" is an init container that does not keep running, and has inherit: remove inherit, or set restartPolicy: Always")
		}
	}
	return sentences
}

func undeclaredVolumes(spec *v1alpha1.SidecarSetSpec) []string {
	declared := map[string]bool{}
	for _, v := range spec.Volumes {
		declared[v.Name] = true
	}
	var sentences []string
	for _, c := range containersOf(spec) {
		if c.Inherit != nil && c.Inherit.VolumeMounts == v1alpha1.InheritVolumeMountsAll {
			continue
		}
		remedy := "declare it there, or set inherit.volumeMounts: All"
		if c.plainInit {
			remedy = "declare it there"
		}
		for _, m := range c.VolumeMounts {
			if !declared[m.Name] {
				sentences = append(sentences, fmt.Sprintf("%s mounts volume %q, which spec.volumes does not declare: %s", c.path, m.Name, remedy))
			}
		}
	}
	return sentences
}

// relativeMountPaths are refused because the kubelet makes them absolute: "html" would cover an application's mount at "/html" unseen.
func relativeMountPaths(spec *v1alpha1.SidecarSetSpec) []string {
	var sentences []string
	for _, v := range spec.Volumes {
		for _, m := range v.AppMounts {
			if !strings.HasPrefix(m.MountPath, "/") {
				sentences = append(sentences, fmt.Sprintf(
					`spec.volumes[%q].appMounts[%q] is not an absolute path: begin mountPath with "/"`, v.Name, m.MountPath))
			}
		}
	}
	return sentences
}

func sharedMountPaths(spec *v1alpha1.SidecarSetSpec) []string {
	var sentences []string
	for i, v := range spec.Volumes {
		for _, m := range v.AppMounts {
			mountsThere := func(w v1alpha1.SidecarVolume) bool {
				return slices.ContainsFunc(w.AppMounts, func(n v1alpha1.AppMount) bool { return isSameMount(m, n) })
			}
			if first := slices.IndexFunc(spec.Volumes[:i], mountsThere); first >= 0 {
				sentences = append(sentences, fmt.Sprintf("spec.volumes[%q].appMounts[%q] mounts where spec.volumes[%q] does, "+
					"in the same application containers: write another mountPath, or other containers", v.Name, m.MountPath, spec.Volumes[first].Name))
			}
		}
	}
	return sentences
}

// isSameMount is true if some application container would get both mounts at one path. A mount without containers is for all of them.
func isSameMount(m, n v1alpha1.AppMount) bool {
	if m.MountPath != n.MountPath {
		return false
	}
	isInM := func(name string) bool { return slices.Contains(m.Containers, name) }
	return len(m.Containers) == 0 || len(n.Containers) == 0 || slices.ContainsFunc(n.Containers, isInM)
}

func reservedMetadata(metadata *v1alpha1.PodMetadata) []string {
	if metadata == nil {
		return nil
	}
	return slices.Concat(
		reservedKeys("spec.podMetadata.labels", metadata.Labels),
		reservedKeys("spec.podMetadata.annotations", metadata.Annotations),
	)
}

func reservedKeys(path string, entries map[string]string) []string {
	var sentences []string
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		if strings.HasPrefix(key, reservedPrefix) {
			sentences = append(sentences, fmt.Sprintf(
				"%s[%q] is a key that the operator writes: write one that does not begin with %s", path, key, reservedPrefix))
		}
	}
	return sentences
}

// namedSelector is a label selector of the spec. path is what the sentences call it.
type namedSelector struct {
	path string
	// requirements are all that it requires, matchLabels as the operator In.
	requirements []metav1.LabelSelectorRequirement
}

func selectorsOf(spec *v1alpha1.SidecarSetSpec) []namedSelector {
	selectors := []namedSelector{{"spec.selector", requirementsOf(&spec.Selector)}}
	if canary := spec.UpdateStrategy.Canary; canary != nil {
		selectors = append(selectors, namedSelector{"spec.updateStrategy.canary.selector", requirementsOf(&canary.Selector)})
	}
	return selectors
}

func requirementsOf(selector *metav1.LabelSelector) []metav1.LabelSelectorRequirement {
	var requirements []metav1.LabelSelectorRequirement
	for _, key := range slices.Sorted(maps.Keys(selector.MatchLabels)) {
		requirements = append(requirements, metav1.LabelSelectorRequirement{
			Key: key, Operator: metav1.LabelSelectorOpIn, Values: []string{selector.MatchLabels[key]},
		})
	}
	return append(requirements, selector.MatchExpressions...)
}

func badSelectorKeys(spec *v1alpha1.SidecarSetSpec) []string {
	var sentences []string
	for _, s := range selectorsOf(spec) {
		for _, r := range s.requirements {
			if len(validation.IsQualifiedName(r.Key)) > 0 {
				sentences = append(sentences, fmt.Sprintf("%s has key %q, which is not a label key: %s", s.path, r.Key, labelKeyForm))
			}
		}
	}
	return sentences
}

func badSelectorOperators(spec *v1alpha1.SidecarSetSpec) []string {
	var sentences []string
	for _, s := range selectorsOf(spec) {
		for _, r := range s.requirements {
			if problem := badOperator(r); problem != "" {
				sentences = append(sentences, s.path+" has operator "+problem)
			}
		}
	}
	return sentences
}

func badOperator(r metav1.LabelSelectorRequirement) string {
	switch r.Operator {
	case metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn:
		if len(r.Values) == 0 {
			return fmt.Sprintf("%s for key %q, and no values: write at least one value", r.Operator, r.Key)
		}
	case metav1.LabelSelectorOpExists:
		if len(r.Values) > 0 {
			return fmt.Sprintf("%s for key %q, and values: remove the values, or write operator In", r.Operator, r.Key)
		}
	case metav1.LabelSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			return fmt.Sprintf("%s for key %q, and values: remove the values, or write operator NotIn", r.Operator, r.Key)
		}
	default:
		return fmt.Sprintf("%q for key %q: write In, NotIn, Exists or DoesNotExist", r.Operator, r.Key)
	}
	return ""
}

func badSelectorValues(spec *v1alpha1.SidecarSetSpec) []string {
	var sentences []string
	for _, s := range selectorsOf(spec) {
		for _, r := range s.requirements {
			for _, value := range r.Values {
				if len(validation.IsValidLabelValue(value)) > 0 {
					sentences = append(sentences, fmt.Sprintf("%s has value %q for key %q, which is not a label value: %s",
						s.path, value, r.Key, labelCharacters))
				}
			}
		}
	}
	return sentences
}
