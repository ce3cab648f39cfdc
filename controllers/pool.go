// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"encoding/json"
	"fmt"
	"sync"
)

// poolLimit is how many values a pool remembers at most, which is more than there are templates and nodes in most clusters.
const poolLimit = 10_000

// pool remembers values, so that equal ones share their memory. When it is full it forgets all it has; then some values are there twice. Its
// zero value is ready for use.
type pool struct {
	mutex  sync.Mutex
	texts  map[string]string
	values map[string]any
}

// shareText returns an equal text: the one that was first.
func shareText[T ~string](p *pool, text T) T {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return T(first(&p.texts, string(text), string(text)))
}

// share returns a value that equals this one, as its JSON tells: the one that was first. Nobody may change it.
func share[T any](p *pool, value T) T {
	data, err := json.Marshal(value)
	if err != nil {
		return value
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if known, ok := first(&p.values, fmt.Sprintf("%T %s", value, data), any(value)).(T); ok {
		return known
	}
	return value
}

// first returns what a key stood for first.
func first[T any](values *map[string]T, key string, value T) T {
	if known, ok := (*values)[key]; ok {
		return known
	}
	if *values == nil || len(*values) >= poolLimit {
		*values = map[string]T{}
	}
	(*values)[key] = value
	return value
}
