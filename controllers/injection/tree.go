// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
)

// tree is a JSON object as apply configurations are made of: what its author did not write is not in it.
type tree = map[string]any

// toTree encodes a pointer to an API type and leaves out what Go encodes although nobody wrote it.
func toTree(object any) (tree, error) {
	result, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return nil, fmt.Errorf("encoding %T: %w", object, err)
	}
	pruneUnwritten(result)
	return result, nil
}

// pruneUnwritten drops nulls, and the empty "resources" that corev1.Container and PersistentVolumeClaimSpec always encode: a claim on
// it would be a claim on what somebody else may want to set.
func pruneUnwritten(value any) {
	walk(value, func(object tree, _ string) {
		for key, child := range object {
			empty, isObject := child.(tree)
			if child == nil || (key == "resources" && isObject && len(empty) == 0) {
				delete(object, key)
			}
		}
	})
}

// crdDefaults are the values that the CRD's schema fills into rendered content, by parent and field. A revision's hash must not depend
// on whether, or by which version of the CRD, they were filled in.
var crdDefaults = map[string]any{
	"inherit.volumeMounts": "None",
	"ports.protocol":       "TCP",
	"grpc.service":         "",
	"fileKeyRef.optional":  false,
	"azureDisk.fsType":     "ext4",
	"azureDisk.readOnly":   false,
	"iscsi.iscsiInterface": "default",
	"rbd.keyring":          "/etc/ceph/keyring",
	"rbd.pool":             "rbd",
	"rbd.user":             "admin",
	"scaleIO.fsType":       "xfs",
	"scaleIO.storageMode":  "ThinProvisioned",
}

func pruneDefaults(value any) {
	walk(value, func(object tree, parent string) {
		for key, child := range object {
			byDefault, hasDefault := crdDefaults[parent+"."+key]
			empty, isObject := child.(tree)
			if (hasDefault && child == byDefault) || (key == "inherit" && isObject && len(empty) == 0) {
				delete(object, key)
			}
		}
	})
}

// completeAtomics writes the defaults into the values that server-side apply treats as one: what the API server adds there would be a
// difference from what was applied, for ever. See +structType=atomic in k8s.io/api/core/v1, and pkg/apis/core/v1/defaults.go.
func completeAtomics(value any) {
	walk(value, func(object tree, parent string) {
		switch parent {
		case "fieldRef":
			setDefault(object, "apiVersion", "v1")
		case "serviceAccountToken":
			setDefault(object, "expirationSeconds", int64(3600))
		}
	})
}

func setDefault(object tree, field string, value any) {
	if _, written := object[field]; !written {
		object[field] = value
	}
}

// walk visits every object in value, children first, with the name of the field that holds it (or the list that it is in).
func walk(value any, visit func(object tree, parent string)) {
	walkNamed(value, "", visit)
}

func walkNamed(value any, name string, visit func(object tree, parent string)) {
	switch value := value.(type) {
	case tree:
		for key, child := range value {
			walkNamed(child, key, visit)
		}
		visit(value, name)
	case []any:
		for _, item := range value {
			walkNamed(item, name, visit)
		}
	}
}

// items returns the list in a field of an object; nil when there is none.
func items(object tree, field string) []tree {
	list, _ := object[field].([]any)
	result := make([]tree, 0, len(list))
	for _, item := range list {
		if object, ok := item.(tree); ok {
			result = append(result, object)
		}
	}
	return result
}

func object(parent tree, field string) tree {
	child, _ := parent[field].(tree)
	return child
}

// setList puts a list into a field, and nothing when it is empty.
func setList(parent tree, field string, list []tree) {
	if len(list) == 0 {
		return
	}
	values := make([]any, 0, len(list))
	for _, item := range list {
		values = append(values, item)
	}
	parent[field] = values
}

// setObject puts an object into a field, and nothing when it is empty.
func setObject(parent tree, field string, child tree) {
	if len(child) > 0 {
		parent[field] = child
	}
}

func str(object tree, field string) string {
	value, _ := object[field].(string)
	return value
}
