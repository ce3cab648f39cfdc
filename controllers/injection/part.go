// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// part is what one set contributes to a template.
type part struct {
	set            string
	revision       string
	initContainers []tree
	containers     []tree
	volumes        []tree
	pullSecrets    []tree
	mounts         map[string][]tree // by application container
	labels         map[string]string
	annotations    map[string]string
	sidecars       []string // names of containers and native sidecars
}

func (p *part) empty() bool {
	return len(p.initContainers)+len(p.containers)+len(p.volumes)+len(p.pullSecrets)+len(p.mounts)+len(p.labels)+len(p.annotations) == 0
}

// render builds the part of a set for an application.
func render(set *Set, app *application) (*part, *Problem) {
	result := &part{set: set.Key, revision: set.Revision, mounts: map[string][]tree{}, sidecars: set.Content.sidecarNames()}
	if metadata := set.Content.PodMetadata; metadata != nil {
		result.labels, result.annotations = metadata.Labels, metadata.Annotations
	}
	var problem *Problem
	if result.initContainers, problem = renderContainers(set.Content.InitContainers, app); problem != nil {
		return nil, problem
	}
	if result.containers, problem = renderContainers(set.Content.Containers, app); problem != nil {
		return nil, problem
	}
	for i := range set.Content.ImagePullSecrets {
		result.pullSecrets = append(result.pullSecrets, tree{"name": set.Content.ImagePullSecrets[i].Name})
	}
	for i := range set.Content.Volumes {
		if problem := result.addVolume(&set.Content.Volumes[i], app); problem != nil {
			return nil, problem
		}
	}
	return result, nil
}

func renderContainers(containers []v1alpha1.SidecarContainer, app *application) ([]tree, *Problem) {
	var result []tree
	for i := range containers {
		container := containers[i].DeepCopy()
		if problem := inherit(container, app); problem != nil {
			return nil, problem
		}
		rendered, problem := toItem(&container.Container)
		if problem != nil {
			return nil, problem
		}
		result = append(result, rendered)
	}
	return result, nil
}

func (p *part) addVolume(volume *v1alpha1.SidecarVolume, app *application) *Problem {
	rendered, problem := toItem(&volume.Volume)
	if problem != nil {
		return problem
	}
	p.volumes = append(p.volumes, rendered)
	for i := range volume.AppMounts {
		if problem := p.addAppMount(volume.Name, &volume.AppMounts[i], app); problem != nil {
			return problem
		}
	}
	return nil
}

func (p *part) addAppMount(volume string, mount *v1alpha1.AppMount, app *application) *Problem {
	targets := mount.Containers
	if len(targets) == 0 {
		for _, container := range app.containers {
			targets = append(targets, container.Name)
		}
	}
	rendered, problem := toItem(&corev1.VolumeMount{Name: volume, MountPath: mount.MountPath, ReadOnly: mount.ReadOnly, SubPath: mount.SubPath})
	if problem != nil {
		return problem
	}
	for _, target := range targets {
		if app.container(target) == nil {
			return impossible("volume %q is to be mounted into container %q, which the application does not have", volume, target)
		}
		if _, taken := sharedPath([]tree{rendered}, p.mounts[target]); taken {
			return impossible("more than one volume is to be mounted at %q of container %q", mount.MountPath, target)
		}
		p.mounts[target] = append(p.mounts[target], rendered)
	}
	return nil
}

// inherit copies into a sidecar what it takes over from the application. What the sidecar declares itself wins.
func inherit(container *v1alpha1.SidecarContainer, app *application) *Problem {
	if container.Inherit == nil {
		return nil
	}
	source := app.container(container.Inherit.From)
	if source == nil {
		return impossible("container %q inherits from container %q, which the application does not have", container.Name, container.Inherit.From)
	}
	container.Env = append(inheritedEnv(container, source), container.Env...)
	if container.Inherit.VolumeMounts == v1alpha1.InheritVolumeMountsAll {
		container.VolumeMounts = append(container.VolumeMounts, inheritedMounts(container, app.mounts(source))...)
	}
	return nil
}

// inheritedEnv stands in front of the sidecar's own variables, so that those can refer to it.
func inheritedEnv(container *v1alpha1.SidecarContainer, source *corev1.Container) []corev1.EnvVar {
	var result []corev1.EnvVar
	for _, variable := range source.Env {
		declared := slices.ContainsFunc(container.Env, func(own corev1.EnvVar) bool { return own.Name == variable.Name })
		if slices.Contains(container.Inherit.Env, variable.Name) && !declared {
			result = append(result, variable)
		}
	}
	return result
}

func inheritedMounts(container *v1alpha1.SidecarContainer, mounts []*corev1.VolumeMount) []corev1.VolumeMount {
	var result []corev1.VolumeMount
	for _, mount := range mounts {
		taken := slices.ContainsFunc(container.VolumeMounts, func(own corev1.VolumeMount) bool { return samePath(own.MountPath, mount.MountPath) })
		if !taken {
			result = append(result, *mount)
		}
	}
	return result
}

func toItem(object any) (tree, *Problem) {
	item, err := toTree(object)
	if err != nil {
		return nil, impossible("%v", err)
	}
	completeAtomics(item)
	return item, nil
}

// impossible is the problem of a set that can not be rendered beside an application.
func impossible(format string, args ...any) *Problem {
	return &Problem{Reason: v1alpha1.ReasonPreflightFailed, Message: fmt.Sprintf(format, args...)}
}
