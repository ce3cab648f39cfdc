// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"path"

	corev1 "k8s.io/api/core/v1"
)

// application is what stands in a template and is not ours.
type application struct {
	containers     []*corev1.Container
	initContainers []*corev1.Container
	volumes        map[string]bool
	labels         map[string]string
	annotations    map[string]string
	owned          Ownership
}

func applicationOf(workload *Workload) *application {
	spec := &workload.Template.Spec
	app := &application{
		volumes:     map[string]bool{},
		labels:      workload.notOurs("labels", workload.Template.Labels),
		annotations: workload.notOurs("annotations", workload.Template.Annotations),
		owned:       workload.Owned,
	}
	app.containers = notOurContainers(spec.Containers, "containers", workload)
	app.initContainers = notOurContainers(spec.InitContainers, "initContainers", workload)
	for i := range spec.Volumes {
		if !workload.Owned.has("volumes", byName(spec.Volumes[i].Name)) {
			app.volumes[spec.Volumes[i].Name] = true
		}
	}
	return app
}

func notOurContainers(list []corev1.Container, field string, workload *Workload) []*corev1.Container {
	var result []*corev1.Container
	for i := range list {
		if !workload.Owned.ownsContainer(field, list[i].Name, workload.isRendered(list[i].Name)) {
			result = append(result, &list[i])
		}
	}
	return result
}

// isRendered is true of the names of containers in the revisions that the marks name.
func (w *Workload) isRendered(container string) bool {
	for _, content := range w.Rendered {
		if content.hasContainer(container) {
			return true
		}
	}
	return false
}

// notOurs returns the labels or annotations that we neither own nor rendered. A value of ours that somebody else owns is one that
// a rollback restored.
func (w *Workload) notOurs(field string, values map[string]string) map[string]string {
	result := map[string]string{}
	for key, value := range values {
		if !w.Owned.fields.Has(metadataPath(field, key)) && !w.hasRendered(field, key, value) {
			result[key] = value
		}
	}
	return result
}

func (w *Workload) hasRendered(field, key, value string) bool {
	for _, content := range w.Rendered {
		if content.PodMetadata == nil {
			continue
		}
		declared := content.PodMetadata.Labels
		if field == "annotations" {
			declared = content.PodMetadata.Annotations
		}
		if rendered, ok := declared[key]; ok && rendered == value {
			return true
		}
	}
	return false
}

// container returns the application's container of a name, the first one for an empty name, and nil when there is none.
func (a *application) container(name string) *corev1.Container {
	for _, container := range a.containers {
		if name == "" || container.Name == name {
			return container
		}
	}
	return nil
}

func (a *application) hasContainer(name string) bool {
	for _, list := range [][]*corev1.Container{a.containers, a.initContainers} {
		for _, container := range list {
			if container.Name == name {
				return true
			}
		}
	}
	return false
}

// mounts returns what the application itself mounts into one of its containers.
func (a *application) mounts(container *corev1.Container) []*corev1.VolumeMount {
	var result []*corev1.VolumeMount
	for i := range container.VolumeMounts {
		mount := &container.VolumeMounts[i]
		if !a.owned.ownsMount(container.Name, mount.MountPath) {
			result = append(result, mount)
		}
	}
	return result
}

// mountAt returns the name of the volume that the application mounts at a path of one of its containers.
func (a *application) mountAt(container, mountPath string) (volume string, found bool) {
	for _, mount := range a.mounts(a.container(container)) {
		if samePath(mount.MountPath, mountPath) {
			return mount.Name, true
		}
	}
	return "", false
}

func samePath(a, b string) bool { return path.Clean(a) == path.Clean(b) }
