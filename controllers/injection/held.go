// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// hold builds the part of a set from what we own of it in the live template, so that applying it changes nothing. Fields that somebody
// else has taken over are not in it. Of a set whose content is not known (its revision or its mark is gone), it is everything that we own
// and no other set accounts for.
func hold(set *Set, workload Workload, owned tree) *part {
	mine := accounted(set.Key, workload)
	spec, metadata := object(owned, "spec"), object(owned, "metadata")
	isApplications := func(container tree) bool {
		name := str(container, "name")
		return !workload.Owned.ownsContainer("containers", name, workload.isRendered(name))
	}
	result := &part{
		set:            set.Key,
		revision:       Revisions(workload.Template.Annotations[v1alpha1.RevisionsAnnotation])[set.Key],
		initContainers: kept(items(spec, "initContainers"), mine.container),
		containers:     kept(items(spec, "containers"), func(item tree) bool { return !isApplications(item) && mine.container(item) }),
		volumes:        kept(items(spec, "volumes"), mine.volume),
		pullSecrets:    kept(items(spec, "imagePullSecrets"), mine.pullSecret),
		mounts:         map[string][]tree{},
		labels:         present(object(metadata, "labels"), mine.label),
		annotations:    present(object(metadata, "annotations"), mine.annotation),
	}
	for _, container := range kept(items(spec, "containers"), isApplications) {
		if mounts := kept(items(container, "volumeMounts"), mine.mount); len(mounts) > 0 {
			result.mounts[str(container, "name")] = mounts
		}
	}
	marked := sidecarsOf(workload.Template)
	for _, container := range result.allContainers() {
		if name := str(container, "name"); slices.Contains(marked, name) {
			result.sidecars = append(result.sidecars, name)
		}
	}
	return result
}

// account tells what in a template is a set's.
type account struct {
	container, volume, pullSecret, mount func(item tree) bool
	label, annotation                    func(key string) bool
}

func accounted(key string, workload Workload) account {
	if content, known := workload.Rendered[key]; known {
		return accountOf(content)
	}
	var others []account
	for _, content := range workload.Rendered {
		others = append(others, accountOf(content))
	}
	items := func(is func(account) func(tree) bool) func(tree) bool {
		return func(item tree) bool {
			return !slices.ContainsFunc(others, func(other account) bool { return is(other)(item) })
		}
	}
	keys := func(is func(account) func(string) bool) func(string) bool {
		return func(key string) bool {
			return !isMark(key) && !slices.ContainsFunc(others, func(other account) bool { return is(other)(key) })
		}
	}
	return account{
		container:  items(func(a account) func(tree) bool { return a.container }),
		volume:     items(func(a account) func(tree) bool { return a.volume }),
		pullSecret: items(func(a account) func(tree) bool { return a.pullSecret }),
		mount:      items(func(a account) func(tree) bool { return a.mount }),
		label:      keys(func(a account) func(string) bool { return a.label }),
		annotation: keys(func(a account) func(string) bool { return a.annotation }),
	}
}

func accountOf(content *Content) account {
	metadata := content.PodMetadata
	if metadata == nil {
		metadata = &v1alpha1.PodMetadata{}
	}
	return account{
		container: func(item tree) bool { return content.hasContainer(str(item, "name")) },
		volume:    func(item tree) bool { return content.hasVolume(str(item, "name")) },
		pullSecret: func(item tree) bool {
			return slices.ContainsFunc(content.ImagePullSecrets, func(own corev1.LocalObjectReference) bool { return own.Name == str(item, "name") })
		},
		mount:      content.hasAppMount,
		label:      func(key string) bool { _, ok := metadata.Labels[key]; return ok },
		annotation: func(key string) bool { _, ok := metadata.Annotations[key]; return ok },
	}
}

// hasAppMount is true of a mount of one of the content's volumes, at a path where the content mounts it.
func (c *Content) hasAppMount(mount tree) bool {
	return slices.ContainsFunc(c.Volumes, func(volume v1alpha1.SidecarVolume) bool {
		// Who took the mount over may have changed its volume: then we own its path alone.
		name := str(mount, "name")
		return (name == "" || name == volume.Name) && slices.ContainsFunc(volume.AppMounts, func(own v1alpha1.AppMount) bool {
			return own.MountPath == str(mount, "mountPath")
		})
	})
}

func isMark(key string) bool {
	return key == v1alpha1.InjectedLabel || key == v1alpha1.RevisionsAnnotation || key == v1alpha1.ContainersAnnotation
}

// ownedTemplate returns the live values of the fields that we own.
func ownedTemplate(live *typed.TypedValue, owned Ownership) tree {
	extracted := live.ExtractItems(owned.fields.Leaves(), typed.WithAppendKeyFields()).AsValue().Unstructured()
	deployment, _ := extracted.(tree)
	return object(object(deployment, "spec"), "template")
}

func kept(list []tree, keep func(item tree) bool) []tree {
	return slices.DeleteFunc(list, func(item tree) bool { return !keep(item) })
}

// present returns the live values of the keys to keep.
func present(live tree, keep func(key string) bool) map[string]string {
	result := map[string]string{}
	for key, value := range live {
		if text, ok := value.(string); ok && keep(key) {
			result[key] = text
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
