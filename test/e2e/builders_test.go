// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"slices"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// deployment is a user's manifest in the making. What Obj returned does not change any more.
type deployment struct{ object appsv1.Deployment }

// MakeDeployment makes a Deployment with two replicas, no label and no container. It rolls out in one go, and its pods go soon: the namespace
// controller waits for half their grace period.
func MakeDeployment(name string) *deployment {
	labels := map[string]string{"app": name}
	return &deployment{appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(2)),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Strategy: appsv1.DeploymentStrategy{RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: new(intstr.FromString("100%"))}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1))},
			},
		},
	}}
}

func (d *deployment) Label(key, value string) *deployment {
	metav1.SetMetaDataLabel(&d.object.ObjectMeta, key, value)
	return d
}

func (d *deployment) Annotation(key, value string) *deployment {
	metav1.SetMetaDataAnnotation(&d.object.ObjectMeta, key, value)
	return d
}

func (d *deployment) Replicas(count int32) *deployment {
	d.object.Spec.Replicas = new(count)
	return d
}

func (d *deployment) Container(name, image string, options ...containerOption) *deployment {
	spec := &d.object.Spec.Template.Spec
	spec.Containers = append(spec.Containers, makeContainer(name, image, options))
	return d
}

func (d *deployment) InitContainer(name, image string, options ...containerOption) *deployment {
	spec := &d.object.Spec.Template.Spec
	spec.InitContainers = append(spec.InitContainers, makeContainer(name, image, options))
	return d
}

func (d *deployment) WithoutInitContainer(name string) *deployment {
	spec := &d.object.Spec.Template.Spec
	spec.InitContainers = slices.DeleteFunc(spec.InitContainers, func(c corev1.Container) bool { return c.Name == name })
	return d
}

func (d *deployment) Volume(name string) *deployment {
	spec := &d.object.Spec.Template.Spec
	spec.Volumes = append(spec.Volumes, emptyDir(name))
	return d
}

// Image gives a container another image.
func (d *deployment) Image(container, image string) *deployment {
	d.container(container).Image = image
	return d
}

// Rename gives a container another name.
func (d *deployment) Rename(container, name string) *deployment {
	d.container(container).Name = name
	return d
}

// MemoryOfPod declares request and limit for the pod as a whole.
func (d *deployment) MemoryOfPod(quantity string) *deployment {
	memory := corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(quantity)}
	d.object.Spec.Template.Spec.Resources = &corev1.ResourceRequirements{Requests: memory, Limits: memory}
	return d
}

func (d *deployment) Obj() *appsv1.Deployment { return d.object.DeepCopy() }

func (d *deployment) container(name string) *corev1.Container {
	containers := d.object.Spec.Template.Spec.Containers
	return &containers[slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == name })]
}

// sidecarSet is a SidecarSet in the making.
type sidecarSet struct{ object v1alpha1.SidecarSet }

// MakeSidecarSet makes a set that selects all Deployments and renders nothing.
func MakeSidecarSet(name string) *sidecarSet {
	return &sidecarSet{v1alpha1.SidecarSet{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "SidecarSet"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
	}}
}

// Selecting adds a label that a Deployment must have.
func (s *sidecarSet) Selecting(key, value string) *sidecarSet {
	metav1.AddLabelToSelector(&s.object.Spec.Selector, key, value)
	return s
}

func (s *sidecarSet) Container(name, image string, options ...containerOption) *sidecarSet {
	s.object.Spec.Containers = append(s.object.Spec.Containers, v1alpha1.SidecarContainer{Container: makeContainer(name, image, options)})
	return s
}

func (s *sidecarSet) NativeSidecar(name, image string, options ...containerOption) *sidecarSet {
	container := makeContainer(name, image, options)
	container.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
	s.object.Spec.InitContainers = append(s.object.Spec.InitContainers, v1alpha1.SidecarContainer{Container: container})
	return s
}

func (s *sidecarSet) InitContainer(name, image string, options ...containerOption) *sidecarSet {
	s.object.Spec.InitContainers = append(s.object.Spec.InitContainers, v1alpha1.SidecarContainer{Container: makeContainer(name, image, options)})
	return s
}

func (s *sidecarSet) Volume(name string, appMounts ...v1alpha1.AppMount) *sidecarSet {
	s.object.Spec.Volumes = append(s.object.Spec.Volumes, v1alpha1.SidecarVolume{Volume: emptyDir(name), AppMounts: appMounts})
	return s
}

func (s *sidecarSet) PullSecret(name string) *sidecarSet {
	s.object.Spec.ImagePullSecrets = append(s.object.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
	return s
}

func (s *sidecarSet) PodMetadata(labels, annotations map[string]string) *sidecarSet {
	s.object.Spec.PodMetadata = &v1alpha1.PodMetadata{Labels: labels, Annotations: annotations}
	return s
}

// Image gives a container another image.
func (s *sidecarSet) Image(container, image string) *sidecarSet {
	for _, list := range [][]v1alpha1.SidecarContainer{s.object.Spec.InitContainers, s.object.Spec.Containers} {
		for i := range list {
			if list[i].Name == container {
				list[i].Image = image
			}
		}
	}
	return s
}

func (s *sidecarSet) Retain() *sidecarSet {
	s.object.Spec.DeletionPolicy = v1alpha1.RetainDeletionPolicy
	return s
}

func (s *sidecarSet) Obj() *v1alpha1.SidecarSet { return s.object.DeepCopy() }

type containerOption func(*corev1.Container)

func mount(volume, path string) containerOption {
	return func(c *corev1.Container) {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: volume, MountPath: path})
	}
}

func env(name, value string) containerOption {
	return func(c *corev1.Container) { c.Env = append(c.Env, corev1.EnvVar{Name: name, Value: value}) }
}

func memory(request string) containerOption {
	return func(c *corev1.Container) {
		c.Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(request)}
	}
}

func makeContainer(name, image string, options []containerOption) corev1.Container {
	container := corev1.Container{Name: name, Image: image}
	for _, option := range options {
		option(&container)
	}
	return container
}

func emptyDir(name string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}
}

// web is the application of most stories, with the label that logAgent selects.
func web(name string) *deployment {
	return MakeDeployment(name).Label("logging", "enabled").Container("web", "nginx:1")
}

// logAgent is the classic sidecar: it writes what every container of the application reads.
func logAgent() *sidecarSet {
	return MakeSidecarSet("log-agent").Selecting("logging", "enabled").
		Container("log-agent", "busybox:1", mount("var-logs", "/var/log")).
		Volume("var-logs", v1alpha1.AppMount{MountPath: "/usr/share/nginx/html", ReadOnly: true})
}

// manifest returns objects as a file that people write: what Go encodes and nobody would write is not in it.
func manifest(objects ...client.Object) string {
	text := ""
	for _, object := range objects {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
		Expect(err).NotTo(HaveOccurred())
		delete(content, "status")
		dropEmpty(content, "resources", "strategy", "creationTimestamp")
		document, err := yaml.Marshal(content)
		Expect(err).NotTo(HaveOccurred())
		text += "---\n" + string(document)
	}
	return text
}

// dropEmpty removes fields of these names that hold nothing, at any depth.
func dropEmpty(node any, names ...string) {
	switch node := node.(type) {
	case map[string]any:
		for _, name := range names {
			if content, isMap := node[name].(map[string]any); node[name] == nil || (isMap && len(content) == 0) {
				delete(node, name)
			}
		}
		for _, child := range node {
			dropEmpty(child, names...)
		}
	case []any:
		for _, child := range node {
			dropEmpty(child, names...)
		}
	}
}
