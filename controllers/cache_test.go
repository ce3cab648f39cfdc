// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// Objects of an initial list are transformed twice (client-go/tools/cache, Reflector.watchList).
func TestTransformsCanBeRepeated(t *testing.T) {
	meta := metav1.ObjectMeta{
		Name: "web", UID: "1", ResourceVersion: "2", Generation: 3,
		Labels: map[string]string{v1alpha1.InjectedLabel: "true", appsv1.DefaultDeploymentUniqueLabelKey: "abc", "app": "web"},
		Annotations: map[string]string{
			v1alpha1.RevisionsAnnotation: "{}", v1alpha1.InPlaceAnnotation: "{}", corev1.LastAppliedConfigAnnotation: `{"spec":{"paused":true}}`, "other": "x",
		},
		ManagedFields: []metav1.ManagedFieldsEntry{fieldsOf("kubectl", `{"f:spec":{"f:paused":{}}}`), fieldsOf(v1alpha1.FieldManager, `{"f:spec":{"f:paused":{}}}`)},
	}
	template := corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:1", Command: []string{"x"}}}}}
	for name, test := range map[string]struct {
		object    runtime.Object
		transform func(any) (any, error)
	}{
		"Deployment": {&appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Template: template}}, stripDeployment},
		"ReplicaSet": {&appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{Template: template}}, stripReplicaSet},
		"Pod": {&corev1.Pod{ObjectMeta: meta, Spec: template.Spec, Status: corev1.PodStatus{
			Phase:             corev1.PodRunning,
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady}, {Type: corev1.PodScheduled}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "web", ContainerID: "1", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(time.Unix(1, 0))}}}},
		}}, newPodStripper().strip},
		"pre-pull Pod": {&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Labels: map[string]string{v1alpha1.InjectedLabel: v1alpha1.PrePullLabelValue}, Annotations: map[string]string{v1alpha1.ContainersAnnotation: "web"},
			},
			Spec:   corev1.PodSpec{NodeName: "node", Containers: template.Spec.Containers},
			Status: corev1.PodStatus{Phase: corev1.PodFailed, ContainerStatuses: []corev1.ContainerStatus{{Name: "web", ImageID: "1"}}},
		}, newPodStripper().strip},
	} {
		t.Run(name, func(t *testing.T) {
			once, err := test.transform(test.object.DeepCopyObject())
			if err != nil {
				t.Fatal(err)
			}
			before, ok := once.(runtime.Object)
			if !ok {
				t.Fatalf("%T came back", once)
			}
			twice, err := test.transform(before.DeepCopyObject())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(any(before), twice); diff != "" {
				t.Errorf("the second time changes it:\n%s", diff)
			}
		})
	}
}

// What the cache leaves of a pre-pull pod is to tell the same as the pod.
func TestAStrippedPrePullPodKeepsWhatItTells(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "pull", UID: "1", CreationTimestamp: metav1.NewTime(time.Unix(1, 0)), Labels: map[string]string{v1alpha1.InjectedLabel: v1alpha1.PrePullLabelValue},
			Annotations: map[string]string{v1alpha1.ContainersAnnotation: "agent,proxy"},
		},
		Spec: corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Name: "agent", Image: "agent:2"}, {Name: "proxy", Image: "proxy:2"}}},
		Status: corev1.PodStatus{Phase: corev1.PodFailed, Reason: "DeadlineExceeded", Message: "too long", ContainerStatuses: []corev1.ContainerStatus{
			{Name: "agent", ImageID: "1", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 128}}},
			{Name: "proxy", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "not found"}}},
		}},
	}
	want := rollout.PullOf(pod.DeepCopy())
	if _, err := newPodStripper().strip(pod); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, rollout.PullOf(pod), cmp.AllowUnexported(rollout.Pull{})); diff != "" {
		t.Errorf("stripped it tells something else (-want +got):\n%s", diff)
	}
}

// What is told of a pod without containers is the same with and without the cache.
func TestAStrippedPodKeepsWhyItStalls(t *testing.T) {
	since := metav1.NewTime(time.Unix(1, 0))
	scheduled := corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}
	for want, conditions := range map[string][]corev1.PodCondition{
		"pod web-1 has no node: 0/1 nodes are available": {
			{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/1 nodes are available", LastTransitionTime: since},
		},
		"node node-1 can not start pod web-1: look at its events": {
			scheduled, {Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse, LastTransitionTime: since},
		},
		"": {scheduled, {Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionTrue, LastTransitionTime: since}},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-1"}, Spec: corev1.PodSpec{NodeName: "node-1"}, Status: corev1.PodStatus{Conditions: conditions}}
		if _, err := newPodStripper().strip(pod); err != nil {
			t.Fatal(err)
		}
		var expected rollout.Stall
		if want != "" {
			expected = rollout.Stall{Message: want, Since: since.Time}
		}
		if diff := cmp.Diff(expected, rollout.PodOf(pod).Stalled); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
}

func TestAStrippedPodKeepsWhatItTells(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, FinishedAt: metav1.NewTime(time.Unix(2, 0))}}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "pod", UID: "1", Annotations: map[string]string{
			v1alpha1.RevisionsAnnotation: `{"set":"set-1"}`, v1alpha1.InPlaceAnnotation: `{"revisions":{"set":"set-1"}}`,
		}, ManagedFields: []metav1.ManagedFieldsEntry{
			{Manager: v1alpha1.FieldManager, Time: new(metav1.NewTime(time.Unix(1, 0)))},
			{Manager: v1alpha1.FieldManager, Subresource: rollout.ResizeSubresource, Time: new(metav1.NewTime(time.Unix(2, 0)))},
		}},
		Spec: corev1.PodSpec{
			NodeName:       "node",
			InitContainers: []corev1.Container{{Name: "setup", Image: "setup:1"}, {Name: "proxy", Image: "proxy:1", RestartPolicy: &always}},
			Containers:     []corev1.Container{{Name: "agent", Image: "agent:1"}},
		},
		Status: corev1.PodStatus{
			InitContainerStatuses: []corev1.ContainerStatus{{Name: "setup", State: ended}, {Name: "proxy", ContainerID: "2", RestartCount: 3, State: ended}},
			ContainerStatuses: []corev1.ContainerStatus{
				{Name: "agent", Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(time.Unix(1, 0))}}},
			},
		},
	}
	want := rollout.PodOf(pod.DeepCopy())
	if _, err := newPodStripper().strip(pod); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, rollout.PodOf(pod)); diff != "" {
		t.Errorf("stripped it tells something else (-want +got):\n%s", diff)
	}
}

func TestAStrippedReplicaSetKeepsWhatItsTemplateIs(t *testing.T) {
	annotations := map[string]string{v1alpha1.PromotionAnnotation: "intent", "else": "too"}
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Annotations: annotations}, Spec: appsv1.ReplicaSetSpec{Template: corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{appsv1.DefaultDeploymentUniqueLabelKey: "abc"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:1"}}},
	}}}
	want := injection.TemplateIdentity(&corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:1"}}}})
	if _, err := stripReplicaSet(rs); err != nil || rs.Annotations[templateIdentity] != want {
		t.Errorf("identity %q, want that of the Deployment's template, %q", rs.Annotations[templateIdentity], want)
	}
	if rs.Annotations[v1alpha1.PromotionAnnotation] != "intent" || rs.Annotations["else"] != "" {
		t.Errorf("annotations %v, want the intent that was copied to it, and nothing else of the Deployment's", rs.Annotations)
	}
}

// fieldsOf makes the entry of an apply.
func fieldsOf(manager, fields string) metav1.ManagedFieldsEntry {
	return metav1.ManagedFieldsEntry{Manager: manager, Operation: metav1.ManagedFieldsOperationApply, FieldsV1: metav1.NewFieldsV1(fields)}
}

func TestSharedFieldsAreKnown(t *testing.T) {
	const (
		image = `{"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"agent\"}":{".":{},"f:image":{},"f:name":{}}}}}}}`
		args  = `{"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"agent\"}":{"f:args":{}}}}}}}`
	)
	status := fieldsOf("kube-controller-manager", image)
	status.Subresource = "status"
	for name, test := range map[string]struct {
		fields []metav1.ManagedFieldsEntry
		want   string
	}{
		"nothing of ours":           {[]metav1.ManagedFieldsEntry{fieldsOf("gitops", image)}, ""},
		"ours alone":                {[]metav1.ManagedFieldsEntry{fieldsOf(v1alpha1.FieldManager, image)}, ""},
		"another field of the same": {[]metav1.ManagedFieldsEntry{fieldsOf(v1alpha1.FieldManager, image), fieldsOf("gitops", args)}, ""},
		"shared":                    {[]metav1.ManagedFieldsEntry{fieldsOf("gitops", image), fieldsOf(v1alpha1.FieldManager, image)}, "true"},
		"of another object":         {[]metav1.ManagedFieldsEntry{status, fieldsOf(v1alpha1.FieldManager, image)}, ""},
		"unreadable":                {[]metav1.ManagedFieldsEntry{fieldsOf("gitops", "?"), fieldsOf(v1alpha1.FieldManager, image)}, "true"},
	} {
		deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{ManagedFields: test.fields}}
		if _, err := stripDeployment(deployment); err != nil {
			t.Fatal(err)
		}
		if got := deployment.Annotations[fieldsAreShared]; got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestDeclaredPausesAreKept(t *testing.T) {
	for manifest, want := range map[string]string{
		"":                               "",
		`{"spec":{"replicas":1}}`:        "",
		`{"spec":{"paused":false}}`:      "",
		`{"spec":{"paused":true}}`:       "true",
		`{"metadata":{"name":"paused"}}`: "",
		`paused: true`:                   "",
	} {
		deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: manifest}}}
		if _, err := stripDeployment(deployment); err != nil {
			t.Fatal(err)
		}
		if got := deployment.Annotations[declaresPause]; got != want {
			t.Errorf("%s: declares a pause: %q", manifest, got)
		}
	}
}
