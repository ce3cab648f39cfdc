// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// owner says in words what a field manager owns of a Deployment.
type owner struct {
	manager string
	owns    []string
}

// fields is a node of managedFields: its keys are f:name for a field, k:{…} for a list item, "." for the node itself.
type fields map[string]fields

// describeOwners takes together what a manager applied and what it updated. It leaves status out.
func describeOwners(entries []metav1.ManagedFieldsEntry) ([]owner, error) {
	owns := map[string][]string{}
	for _, entry := range entries {
		if entry.Subresource != "" {
			continue
		}
		var root fields
		if err := json.Unmarshal(entry.FieldsV1.GetRawBytes(), &root); err != nil {
			return nil, fmt.Errorf("reading the managed fields of %s: %w", entry.Manager, err)
		}
		owns[entry.Manager] = append(owns[entry.Manager], describe(root)...)
	}
	var owners []owner
	for _, manager := range slices.Sorted(maps.Keys(owns)) {
		owners = append(owners, owner{manager: manager, owns: owns[manager]})
	}
	return owners, nil
}

func describe(root fields) []string {
	template := root.field("spec").field("template")
	pod := template.field("spec")
	return slices.Concat(
		describeMetadata("the Deployment", root.field("metadata")),
		describeMetadata("its pods", template.field("metadata")),
		describeContainers("init container", pod.field("initContainers")),
		describeContainers("container", pod.field("containers")),
		describeItems("volume", pod.field("volumes")),
		describeItems("image pull secret", pod.field("imagePullSecrets")),
	)
}

func (f fields) field(name string) fields {
	return f["f:"+name]
}

// names are those of the fields in a node, sorted.
func (f fields) names() []string {
	var names []string
	for _, key := range slices.Sorted(maps.Keys(f)) {
		if name, isField := strings.CutPrefix(key, "f:"); isField {
			names = append(names, name)
		}
	}
	return names
}

func describeMetadata(what string, metadata fields) []string {
	var owns []string
	for _, kind := range []string{"label", "annotation"} {
		if names := metadata.field(kind + "s").names(); len(names) > 0 {
			owns = append(owns, fmt.Sprintf("%ss of %s: %s", kind, what, strings.Join(names, ", ")))
		}
	}
	return owns
}

func describeContainers(kind string, list fields) []string {
	var owns []string
	for _, name := range list.items("name") {
		container := list.item("name", name)
		owned := slices.DeleteFunc(container.names(), func(field string) bool { return field == "name" })
		if !slices.Equal(owned, []string{"volumeMounts"}) {
			owns = append(owns, fmt.Sprintf("%s %s: %s", kind, name, strings.Join(owned, ", ")))
			continue
		}
		for _, path := range container.field("volumeMounts").items("mountPath") {
			owns = append(owns, fmt.Sprintf("in %s %s only the mount at %s", kind, name, path))
		}
	}
	return owns
}

func describeItems(kind string, list fields) []string {
	var owns []string
	for _, name := range list.items("name") {
		owns = append(owns, kind+" "+name)
	}
	return owns
}

// items are the values of the key by which a list's items are told apart, sorted.
func (f fields) items(key string) []string {
	var items []string
	for _, child := range slices.Sorted(maps.Keys(f)) {
		var keys map[string]string
		if text, isItem := strings.CutPrefix(child, "k:"); isItem && json.Unmarshal([]byte(text), &keys) == nil {
			items = append(items, keys[key])
		}
	}
	return items
}

func (f fields) item(key, value string) fields {
	return f[fmt.Sprintf("k:{%q:%q}", key, value)]
}
