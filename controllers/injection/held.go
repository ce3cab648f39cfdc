// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"encoding/json"
	"slices"

	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// hold builds the part of a set from what we own of it in the live template, so that applying it changes nothing. Fields that somebody
// else has taken over are not in it.
func hold(set *Set, workload Workload, owned tree) *part {
	content, rendered := workload.Rendered[set.Key]
	if !rendered {
		return &part{set: set.Key}
	}
	spec := object(owned, "spec")
	result := &part{
		set:            set.Key,
		revision:       Revisions(workload.Template.Annotations[v1alpha1.RevisionsAnnotation])[set.Key],
		initContainers: named(items(spec, "initContainers"), content.hasContainer),
		containers:     named(items(spec, "containers"), content.hasContainer),
		volumes:        named(items(spec, "volumes"), content.hasVolume),
		mounts:         map[string][]tree{},
		sidecars:       content.sidecarNames(),
	}
	for i := range content.ImagePullSecrets {
		name := content.ImagePullSecrets[i].Name
		result.pullSecrets = append(result.pullSecrets, named(items(spec, "imagePullSecrets"), func(other string) bool { return other == name })...)
	}
	for _, container := range items(spec, "containers") {
		if mounts := appMountsOf(container, content); len(mounts) > 0 && !content.hasContainer(str(container, "name")) {
			result.mounts[str(container, "name")] = mounts
		}
	}
	if content.PodMetadata != nil {
		result.labels = present(content.PodMetadata.Labels, object(object(owned, "metadata"), "labels"))
		result.annotations = present(content.PodMetadata.Annotations, object(object(owned, "metadata"), "annotations"))
	}
	return result
}

// ownedTemplate returns the live values of the fields that we own.
func ownedTemplate(live *typed.TypedValue, owned Ownership) tree {
	extracted := live.ExtractItems(owned.fields.Leaves(), typed.WithAppendKeyFields()).AsValue().Unstructured()
	deployment, _ := extracted.(tree)
	return object(object(deployment, "spec"), "template")
}

func named(list []tree, keep func(name string) bool) []tree {
	return slices.DeleteFunc(list, func(item tree) bool { return !keep(str(item, "name")) })
}

func appMountsOf(container tree, content *Content) []tree {
	return slices.DeleteFunc(items(container, "volumeMounts"), func(mount tree) bool {
		return !slices.ContainsFunc(content.Volumes, func(volume v1alpha1.SidecarVolume) bool {
			return slices.ContainsFunc(volume.AppMounts, func(own v1alpha1.AppMount) bool { return own.MountPath == str(mount, "mountPath") })
		})
	})
}

// present returns the live values of the declared keys.
func present(declared map[string]string, live tree) map[string]string {
	result := map[string]string{}
	for key := range declared {
		if value, ok := live[key].(string); ok {
			result[key] = value
		}
	}
	return result
}

// Revisions reads a map from set keys to revisions, as the marks and the order slip hold it. What is not such a map is empty.
func Revisions(annotation string) map[string]string {
	revisions := map[string]string{}
	if json.Unmarshal([]byte(annotation), &revisions) != nil {
		return map[string]string{}
	}
	return revisions
}

// EncodeRevisions is the inverse of Revisions, with sorted keys.
func EncodeRevisions(revisions map[string]string) string {
	data, _ := json.Marshal(revisions) // a map of strings can always be encoded.
	return string(data)
}
