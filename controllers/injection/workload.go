// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// Workload is what rendering needs to know of a Deployment.
type Workload struct {
	// Name says which workload it is, in messages: "Deployment shop/cart".
	Name string
	// Template is the live pod template.
	Template *corev1.PodTemplateSpec
	// Owned is what we applied to it.
	Owned Ownership
	// Rendered are the contents of the revisions that the template's marks name, by set.
	Rendered map[string]*Content
}

// Set is a revision of a set that is assigned to a workload.
type Set struct {
	// Key is the set's name, with v1alpha1.ClusterSetKeyPrefix before that of a ClusterSidecarSet.
	Key string
	// CreatedAt decides which of two colliding sets wins.
	CreatedAt time.Time
	// Revision names the revision with Content.
	Revision string
	Content  *Content
	// Held keeps this set's part of the template as it is.
	Held bool
}

// Problem says why a set is not, or not as declared, in a template.
type Problem struct {
	// Reason is one of the reasons of Degraded.
	Reason string
	// Message names what collides, and with what.
	Message string
}

// oldestFirst returns the sets in the order of their rights.
func oldestFirst(sets []Set) []Set {
	return slices.SortedFunc(slices.Values(sets), func(a, b Set) int {
		if order := a.CreatedAt.Compare(b.CreatedAt); order != 0 {
			return order
		}
		return strings.Compare(a.Key, b.Key)
	})
}

// DisplayName names the set with a key, in messages.
func DisplayName(key string) string {
	if name, ok := strings.CutPrefix(key, v1alpha1.ClusterSetKeyPrefix); ok {
		return "ClusterSidecarSet " + name
	}
	return "SidecarSet " + key
}
