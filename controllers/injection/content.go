// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// Content is what a revision holds: everything of a set that is rendered.
type Content struct {
	InitContainers   []v1alpha1.SidecarContainer   `json:"initContainers,omitempty"`
	Containers       []v1alpha1.SidecarContainer   `json:"containers,omitempty"`
	Volumes          []v1alpha1.SidecarVolume      `json:"volumes,omitempty"`
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`
	PodMetadata      *v1alpha1.PodMetadata         `json:"podMetadata,omitempty"`
}

// ContentOf returns the part of a spec that is rendered.
func ContentOf(spec *v1alpha1.SidecarSetSpec) *Content {
	return &Content{
		InitContainers:   spec.InitContainers,
		Containers:       spec.Containers,
		Volumes:          spec.Volumes,
		ImagePullSecrets: spec.ImagePullSecrets,
		PodMetadata:      spec.PodMetadata,
	}
}

// ParseContent is the inverse of Canonical.
func ParseContent(data []byte) (*Content, error) {
	content := &Content{}
	if err := json.Unmarshal(data, content); err != nil {
		return nil, fmt.Errorf("parsing the content of a revision: %w", err)
	}
	return content, nil
}

// Canonical returns the JSON that two contents share exactly when they mean the same: keys are sorted, quantities have one form, and
// what is empty or a default is left out.
func (c *Content) Canonical() ([]byte, error) {
	tree, err := toTree(c)
	if err != nil {
		return nil, err
	}
	pruneDefaults(tree)
	data, err := json.Marshal(tree)
	if err != nil {
		return nil, fmt.Errorf("encoding the content of a revision: %w", err)
	}
	return data, nil
}

// Structural returns Canonical without the fields that can change in a running pod: image and resources of containers and native
// sidecars. Two contents with the same one can be told apart in place.
func (c *Content) Structural() ([]byte, error) {
	structural := *c
	structural.InitContainers = withoutInPlaceFields(c.InitContainers, (*v1alpha1.SidecarContainer).IsNativeSidecar)
	structural.Containers = withoutInPlaceFields(c.Containers, func(*v1alpha1.SidecarContainer) bool { return true })
	return structural.Canonical()
}

func withoutInPlaceFields(containers []v1alpha1.SidecarContainer, applies func(*v1alpha1.SidecarContainer) bool) []v1alpha1.SidecarContainer {
	stripped := make([]v1alpha1.SidecarContainer, 0, len(containers))
	for _, container := range containers {
		if applies(&container) {
			container.Image = ""
			container.Resources = corev1.ResourceRequirements{}
		}
		stripped = append(stripped, container)
	}
	return stripped
}

// Hash returns a short name for canonical content, safe in the name of an object. collisionCount tells apart contents that share it.
func Hash(canonical []byte, collisionCount int32) string {
	hasher := fnv.New32a()
	_, _ = hasher.Write(canonical) // hash.Hash never returns an error.
	if collisionCount > 0 {
		_, _ = hasher.Write(binary.LittleEndian.AppendUint32(nil, uint32(collisionCount)))
	}
	return rand.SafeEncodeString(fmt.Sprint(hasher.Sum32()))
}

// RevisionName returns the name of the revision with this canonical content.
func RevisionName(setName string, canonical []byte, collisionCount int32) string {
	return setName + "-" + Hash(canonical, collisionCount)
}

// Sidecars returns the containers that run beside the application: native sidecars and containers.
func (c *Content) Sidecars() []corev1.Container {
	var sidecars []corev1.Container
	for i := range c.InitContainers {
		if c.InitContainers[i].IsNativeSidecar() {
			sidecars = append(sidecars, c.InitContainers[i].Container)
		}
	}
	for i := range c.Containers {
		sidecars = append(sidecars, c.Containers[i].Container)
	}
	return sidecars
}

// Inits returns the init containers that end before the application starts.
func (c *Content) Inits() []corev1.Container {
	var inits []corev1.Container
	for i := range c.InitContainers {
		if !c.InitContainers[i].IsNativeSidecar() {
			inits = append(inits, c.InitContainers[i].Container)
		}
	}
	return inits
}

// sidecarNames returns their names.
func (c *Content) sidecarNames() []string {
	var names []string
	for _, sidecar := range c.Sidecars() {
		names = append(names, sidecar.Name)
	}
	return names
}

func (c *Content) hasContainer(name string) bool {
	for _, list := range [][]v1alpha1.SidecarContainer{c.InitContainers, c.Containers} {
		for i := range list {
			if list[i].Name == name {
				return true
			}
		}
	}
	return false
}

func (c *Content) hasVolume(name string) bool {
	for i := range c.Volumes {
		if c.Volumes[i].Name == name {
			return true
		}
	}
	return false
}
