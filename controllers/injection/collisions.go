// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"fmt"
	"maps"
	"slices"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// collidesWithApplication returns the first thing of a part that the application has already.
func (p *part) collidesWithApplication(app *application) *Problem {
	for _, container := range p.allContainers() {
		if app.hasContainer(str(container, "name")) {
			return conflict(v1alpha1.ReasonNameConflict, "container %q is the application's own", str(container, "name"))
		}
	}
	for _, volume := range p.volumes {
		if app.volumes[str(volume, "name")] {
			return conflict(v1alpha1.ReasonNameConflict, "volume %q is the application's own", str(volume, "name"))
		}
	}
	for _, container := range slices.Sorted(maps.Keys(p.mounts)) {
		for _, mount := range p.mounts[container] {
			if volume, taken := app.mountAt(container, str(mount, "mountPath")); taken {
				return conflict(v1alpha1.ReasonMountConflict, "the application mounts its volume %q at %q of container %q",
					volume, str(mount, "mountPath"), container)
			}
		}
	}
	return p.collidesInMetadata(app.labels, app.annotations, "the application")
}

// collidesWith returns the first thing of a part that another set has rendered already. Two sets may share a pull secret, and a label or
// annotation with the same value.
func (p *part) collidesWith(rival *part) *Problem {
	name := DisplayName(rival.set)
	if shared, found := sharedName(p.allContainers(), rival.allContainers()); found {
		return conflict(v1alpha1.ReasonNameConflict, "container %q is rendered by %s, which goes before", shared, name)
	}
	if shared, found := sharedName(p.volumes, rival.volumes); found {
		return conflict(v1alpha1.ReasonNameConflict, "volume %q is rendered by %s, which goes before", shared, name)
	}
	for _, container := range slices.Sorted(maps.Keys(p.mounts)) {
		if mountPath, found := sharedPath(p.mounts[container], rival.mounts[container]); found {
			return conflict(v1alpha1.ReasonMountConflict, "%s, which goes before, mounts at %q of container %q", name, mountPath, container)
		}
	}
	return p.collidesInMetadata(rival.labels, rival.annotations, name)
}

func (p *part) collidesInMetadata(labels, annotations map[string]string, rival string) *Problem {
	if key, found := otherValue(p.labels, labels); found {
		return conflict(v1alpha1.ReasonFieldConflict, "label %q of the pod template is set to %q by %s", key, labels[key], rival)
	}
	if key, found := otherValue(p.annotations, annotations); found {
		return conflict(v1alpha1.ReasonFieldConflict, "annotation %q of the pod template is set to %q by %s", key, annotations[key], rival)
	}
	return nil
}

func (p *part) allContainers() []tree { return slices.Concat(p.initContainers, p.containers) }

func conflict(reason, format string, args ...any) *Problem {
	return &Problem{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

func sharedName(a, b []tree) (name string, found bool) {
	for _, item := range a {
		if slices.ContainsFunc(b, func(other tree) bool { return str(other, "name") == str(item, "name") }) {
			return str(item, "name"), true
		}
	}
	return "", false
}

func sharedPath(a, b []tree) (mountPath string, found bool) {
	for _, item := range a {
		if slices.ContainsFunc(b, func(other tree) bool { return samePath(str(other, "mountPath"), str(item, "mountPath")) }) {
			return str(item, "mountPath"), true
		}
	}
	return "", false
}

// otherValue returns the first key, in alphabetical order, that has different values in both maps.
func otherValue(a, b map[string]string) (key string, found bool) {
	for _, key := range slices.Sorted(maps.Keys(a)) {
		if value, ok := b[key]; ok && value != a[key] {
			return key, true
		}
	}
	return "", false
}
