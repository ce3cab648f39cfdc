// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// turns are the workloads that may go on after a set's partition was lowered. The controller of sets calls them, a few at a time, because a slip
// says which revision a workload is to have, and not in how many pods. They are known to this process only: what is lost is called once more.
type turns struct {
	mutex sync.Mutex
	// called are workloads by set.
	called map[types.NamespacedName]map[types.NamespacedName]turn
	call   func(workload types.NamespacedName)
}

// turn is what a workload may go on to.
type turn struct{ revision, partition string }

func newTurns(call func(workload types.NamespacedName)) *turns {
	return &turns{called: map[types.NamespacedName]map[types.NamespacedName]turn{}, call: call}
}

// turnOf is the turn to go on to a revision with the partition that a set has.
func turnOf(set *v1alpha1.SidecarSet, revision string) turn {
	return turn{revision, set.Spec.UpdateStrategy.Partition.String()}
}

// put replaces the workloads of a set whose turn it is, and calls those whose it was not.
func (t *turns) put(set types.NamespacedName, next turn, workloads []types.NamespacedName) {
	t.mutex.Lock()
	before := t.called[set]
	delete(t.called, set)
	if len(workloads) > 0 {
		t.called[set] = map[types.NamespacedName]turn{}
	}
	for _, workload := range workloads {
		t.called[set][workload] = next
	}
	t.mutex.Unlock()
	for _, workload := range workloads {
		if before[workload] != next {
			t.call(workload)
		}
	}
}

// has tells whether it is a workload's turn to go on with a set.
func (t *turns) has(set, workload types.NamespacedName, next turn) bool {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	known, called := t.called[set][workload]
	return called && known == next
}
