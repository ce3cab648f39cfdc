// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// The sentences of the rules that the policy has, too, are compared with the API server's in test/admission. Here stand the rules of
// the schema, what is valid, and the order.
func TestValidate(t *testing.T) {
	const positive = ` must be a number of at least 1 or a percentage from "1%" to "100%"; to change nothing for now, write paused: true`
	const natural = ` must be a number of at least 0 or a percentage from "0%" to "100%"`

	tests := []struct {
		name   string
		change func(*v1alpha1.SidecarSetSpec)
		want   []string
	}{
		{name: "a valid spec", change: func(*v1alpha1.SidecarSetSpec) {}},
		{name: "nothing but a volume", change: func(spec *v1alpha1.SidecarSetSpec) {
			spec.Containers = nil
		}},
		{name: "nothing but a native sidecar", change: func(spec *v1alpha1.SidecarSetSpec) {
			*spec = v1alpha1.SidecarSetSpec{InitContainers: []v1alpha1.SidecarContainer{makeNative("proxy")}}
		}},
		{name: "a mount of one of the application's volumes", change: func(spec *v1alpha1.SidecarSetSpec) {
			spec.Containers[0].VolumeMounts[0].Name = "the-application-has-it"
			spec.Containers[0].Inherit = &v1alpha1.Inherit{VolumeMounts: v1alpha1.InheritVolumeMountsAll}
		}},
		{name: "two volumes at one path of different application containers", change: func(spec *v1alpha1.SidecarSetSpec) {
			spec.Volumes = append(spec.Volumes, v1alpha1.SidecarVolume{Volume: corev1.Volume{Name: "cache"}})
			spec.Volumes[0].AppMounts = []v1alpha1.AppMount{{MountPath: "/data", Containers: []string{"web"}}}
			spec.Volumes[1].AppMounts = []v1alpha1.AppMount{{MountPath: "/data", Containers: []string{"api"}}}
		}},
		{name: "least and greatest quantities", change: func(spec *v1alpha1.SidecarSetSpec) {
			spec.UpdateStrategy.MaxUnavailable = new(intstr.FromInt32(1))
			spec.UpdateStrategy.Partition = new(intstr.FromInt32(0))
			spec.UpdateStrategy.MaxConcurrentWorkloads = new(intstr.FromString("100%"))
		}},
		{name: "quantities below the least", change: func(spec *v1alpha1.SidecarSetSpec) {
			spec.UpdateStrategy.MaxUnavailable = new(intstr.FromInt32(0))
			spec.UpdateStrategy.Partition = new(intstr.FromInt32(-1))
			spec.UpdateStrategy.MaxConcurrentWorkloads = new(intstr.FromString("0%"))
		}, want: []string{
			"spec.updateStrategy.maxUnavailable" + positive,
			"spec.updateStrategy.partition" + natural,
			"spec.updateStrategy.maxConcurrentWorkloads" + positive,
		}},
		{name: "quantities that are no percentages", change: func(spec *v1alpha1.SidecarSetSpec) {
			spec.UpdateStrategy.MaxUnavailable = new(intstr.FromString("101%"))
			spec.UpdateStrategy.Partition = new(intstr.FromString("half"))
			spec.UpdateStrategy.MaxConcurrentWorkloads = new(intstr.FromString("10"))
		}, want: []string{
			"spec.updateStrategy.maxUnavailable" + positive,
			"spec.updateStrategy.partition" + natural,
			"spec.updateStrategy.maxConcurrentWorkloads" + positive,
		}},
		{name: "names that are there twice", change: func(spec *v1alpha1.SidecarSetSpec) {
			spec.InitContainers = []v1alpha1.SidecarContainer{makeNative("proxy"), makeNative("proxy")}
			spec.Containers = append(spec.Containers, spec.Containers[0])
			spec.Volumes = append(spec.Volumes, spec.Volumes[0])
		}, want: []string{
			`spec.initContainers["proxy"] is there twice: rename or remove one of them`,
			`spec.containers["agent"] is there twice: rename or remove one of them`,
			`spec.volumes["logs"] is there twice: rename or remove one of them`,
		}},
		{name: "every offending item, in the order of the policy", change: func(spec *v1alpha1.SidecarSetSpec) {
			spec.Containers[0].Image = ""
			spec.Containers = append(spec.Containers, v1alpha1.SidecarContainer{Container: corev1.Container{Name: "other"}})
			spec.Selector.MatchLabels = map[string]string{"b/": "", "a/": ""}
			spec.PodMetadata = &v1alpha1.PodMetadata{Labels: map[string]string{v1alpha1.InjectedLabel: "false"}}
		}, want: []string{
			`spec.containers["agent"] has no image: write the image to run, such as image: busybox:1.36`,
			`spec.containers["other"] has no image: write the image to run, such as image: busybox:1.36`,
			`spec.podMetadata.labels["sidecarset.io/injected"] is a key that the operator writes: write one that does not begin with sidecarset.io/`,
			`spec.selector has key "a/", which is not a label key: ` + labelKeyForm,
			`spec.selector has key "b/", which is not a label key: ` + labelKeyForm,
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			spec := makeValidSpec()
			test.change(spec)
			if got := Validate(spec); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// TestValidateSelectorLikeKubernetes compares our sentences about selectors with the conversion that would fail in the controllers.
func TestValidateSelectorLikeKubernetes(t *testing.T) {
	keys := []string{"tier", "example.com/tier", "", "a b", "/tier", "Example.com/tier"}
	operators := []metav1.LabelSelectorOperator{"In", "NotIn", "Exists", "DoesNotExist", "in", ""}
	values := [][]string{nil, {""}, {"web"}, {"web", "a b"}, {"-"}}
	for _, key := range keys {
		for _, operator := range operators {
			for _, value := range values {
				spec := makeValidSpec()
				spec.Selector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: key, Operator: operator, Values: value}}
				_, err := metav1.LabelSelectorAsSelector(&spec.Selector)
				if got := Validate(spec); (len(got) > 0) != (err != nil) {
					t.Errorf("%v: got %q, Kubernetes says: %v", spec.Selector.MatchExpressions, got, err)
				}
			}
		}
	}
}

func makeValidSpec() *v1alpha1.SidecarSetSpec {
	return &v1alpha1.SidecarSetSpec{
		Selector: metav1.LabelSelector{MatchLabels: map[string]string{"logging": "enabled"}},
		Containers: []v1alpha1.SidecarContainer{{Container: corev1.Container{
			Name: "agent", Image: "busybox:1.36", VolumeMounts: []corev1.VolumeMount{{Name: "logs", MountPath: "/var/log"}},
		}}},
		Volumes: []v1alpha1.SidecarVolume{{Volume: corev1.Volume{Name: "logs"}}},
	}
}

func makeNative(name string) v1alpha1.SidecarContainer {
	return v1alpha1.SidecarContainer{Container: corev1.Container{
		Name: name, Image: "proxy:1.0", RestartPolicy: new(corev1.ContainerRestartPolicyAlways),
	}}
}
