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

// pool remembers values, so that equal ones share their memory. Its zero value is ready for use.
type pool struct {
	mutex  sync.Mutex
	values map[string]any
}

// share returns a value that equals this one, as its JSON tells: the one that was first. Nobody may change it. A pool that is full
// forgets all it has; then some values are there twice.
func share[T any](p *pool, value T) T {
	data, err := json.Marshal(value)
	if err != nil {
		return value
	}
	key := fmt.Sprintf("%T %s", value, data)
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if known, ok := p.values[key].(T); ok {
		return known
	}
	if p.values == nil || len(p.values) >= poolLimit {
		p.values = map[string]any{}
	}
	p.values[key] = value
	return value
}
