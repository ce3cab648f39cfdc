// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// application is what stands in a template and is not ours.
type application struct {
	containers     []*corev1.Container
	initContainers []*corev1.Container
	volumes        map[string]bool
	labels         map[string]string
	annotations    map[string]string
	isOurMount     func(container string, mount *corev1.VolumeMount) bool
}

func applicationOf(workload *Workload) *application {
	owned := workload.Owned
	return besides(workload, ours{
		container: func(list, name string) bool { return owned.ownsContainer(list, name, workload.isRendered(name)) },
		volume:    func(name string) bool { return owned.has("volumes", byName(name)) },
		mount: func(container string, mount *corev1.VolumeMount) bool {
			return owned.ownsMount(container, mount.MountPath)
		},
		metadata: func(field, key, value string) bool {
			// A value of ours that somebody else owns is one that a rollback restored.
			return owned.fields.Has(metadataPath(field, key)) || workload.hasRendered(field, key, value)
		},
	})
}

// applicationWithout is what stands in a template besides everything that the marked revisions render, whoever owns it.
func applicationWithout(workload *Workload) *application {
	return besides(workload, ours{
		container: func(_, name string) bool { return workload.isRendered(name) },
		volume:    workload.isRenderedVolume,
		mount:     func(_ string, mount *corev1.VolumeMount) bool { return workload.isRenderedVolume(mount.Name) },
		metadata:  workload.hasRendered,
	})
}

// ours tells what is not the application's.
type ours struct {
	container func(list, name string) bool
	volume    func(name string) bool
	mount     func(container string, mount *corev1.VolumeMount) bool
	metadata  func(field, key, value string) bool
}

func besides(workload *Workload, ours ours) *application {
	spec := &workload.Template.Spec
	app := &application{volumes: map[string]bool{}, labels: map[string]string{}, annotations: map[string]string{}, isOurMount: ours.mount}
	for i := range spec.Containers {
		if !ours.container("containers", spec.Containers[i].Name) {
			app.containers = append(app.containers, &spec.Containers[i])
		}
	}
	for i := range spec.InitContainers {
		if !ours.container("initContainers", spec.InitContainers[i].Name) {
			app.initContainers = append(app.initContainers, &spec.InitContainers[i])
		}
	}
	for i := range spec.Volumes {
		if !ours.volume(spec.Volumes[i].Name) {
			app.volumes[spec.Volumes[i].Name] = true
		}
	}
	for key, value := range workload.Template.Labels {
		if !ours.metadata("labels", key, value) {
			app.labels[key] = value
		}
	}
	for key, value := range workload.Template.Annotations {
		if !ours.metadata("annotations", key, value) {
			app.annotations[key] = value
		}
	}
	return app
}

// isRendered is true of the names of containers that the marks name, or that are in the revisions that the marks name.
func (w *Workload) isRendered(container string) bool {
	if slices.Contains(sidecarsOf(w.Template), container) {
		return true
	}
	for _, content := range w.Rendered {
		if content.hasContainer(container) {
			return true
		}
	}
	return false
}

// isRenderedVolume is true of the names of volumes in the revisions that the marks name.
func (w *Workload) isRenderedVolume(volume string) bool {
	for _, content := range w.Rendered {
		if content.hasVolume(volume) {
			return true
		}
	}
	return false
}

// hasRendered is true of a label or annotation with the value that a revision gives it which the marks name.
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
		if !a.isOurMount(container.Name, mount) {
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
