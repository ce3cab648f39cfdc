// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// mergePatched applies an RFC 7386 patch.
func mergePatched(object map[string]any, data []byte) (map[string]any, error) {
	patch := map[string]any{}
	if err := json.Unmarshal(data, &patch); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return normalized(merged(object, patch))
}

func merged(object, patch map[string]any) map[string]any {
	if object == nil {
		object = map[string]any{}
	}
	for key, value := range patch {
		switch value := value.(type) {
		case nil:
			delete(object, key)
		case map[string]any:
			inner, _ := object[key].(map[string]any)
			object[key] = merged(inner, value)
		default:
			object[key] = value
		}
	}
	return object
}

// normalized brings a tree into the form that decoding makes: the same for a value whether it was there or came with a patch.
func normalized(tree map[string]any) (map[string]any, error) {
	data, err := json.Marshal(tree)
	if err != nil {
		return nil, fmt.Errorf("encoding a patched object: %w", err)
	}
	result := map[string]any{}
	decoder := json.NewDecoder(strings.NewReader(string(data)))
	decoder.UseNumber()
	if err := decoder.Decode(&result); err != nil {
		return nil, fmt.Errorf("decoding a patched object: %w", err)
	}
	object, _ := integers(result).(map[string]any)
	return object, nil
}

// integers makes of numbers what runtime.DefaultUnstructuredConverter reads.
func integers(tree any) any {
	switch tree := tree.(type) {
	case map[string]any:
		for key, value := range tree {
			tree[key] = integers(value)
		}
	case []any:
		for i, value := range tree {
			tree[i] = integers(value)
		}
	case json.Number:
		if number, err := tree.Int64(); err == nil {
			return number
		}
		number, _ := tree.Float64()
		return number
	}
	return tree
}

// jsonPatched applies an RFC 6902 patch of the operations that we use.
func jsonPatched(object map[string]any, data []byte) (map[string]any, error) {
	var operations jsonPatch
	if err := json.Unmarshal(data, &operations); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	object, err := normalized(object)
	if err != nil {
		return nil, err
	}
	var root any = object
	for _, operation := range operations {
		var keys []string
		for _, key := range strings.Split(operation.Path, "/")[1:] {
			keys = append(keys, strings.NewReplacer("~1", "/", "~0", "~").Replace(key))
		}
		if root, err = patched(root, keys, operation); err != nil {
			return nil, err
		}
	}
	object, _ = root.(map[string]any)
	return normalized(object)
}

func patched(node any, keys []string, operation jsonPatchOperation) (any, error) {
	switch node := node.(type) {
	case map[string]any:
		value, exists := node[keys[0]]
		if len(keys) > 1 {
			inner, err := patched(value, keys[1:], operation)
			if err == nil {
				node[keys[0]] = inner
			}
			return node, err
		}
		return patchedMap(node, keys[0], value, exists, operation)
	case []any:
		index, err := strconv.Atoi(keys[0])
		if err != nil || index >= len(node) {
			return nil, failedTest(operation.Path)
		}
		if len(keys) > 1 {
			inner, err := patched(node[index], keys[1:], operation)
			if err == nil {
				node[index] = inner
			}
			return node, err
		}
		if operation.Op != "remove" {
			return nil, fmt.Errorf("no history needs %q of %s", operation.Op, operation.Path)
		}
		return slices.Delete(node, index, index+1), nil
	}
	return nil, failedTest(operation.Path)
}

func patchedMap(node map[string]any, key string, value any, exists bool, operation jsonPatchOperation) (any, error) {
	switch operation.Op {
	case "test":
		wanted, got := map[string]any{"": operation.Value}, map[string]any{"": value}
		a, errA := normalized(wanted)
		b, errB := normalized(got)
		if !exists || errA != nil || errB != nil || !reflect.DeepEqual(a, b) {
			return nil, failedTest(operation.Path)
		}
	case "remove", "replace":
		if !exists {
			return nil, failedTest(operation.Path)
		}
		delete(node, key)
		if operation.Op == "replace" {
			node[key] = operation.Value
		}
	case "add":
		node[key] = operation.Value
	}
	return node, nil
}
