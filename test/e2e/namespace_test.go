// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

const namespacePrefix = "e2e-"

// namespace is a namespace and the people who work in it. Methods with a verb act; the others look, and suit Eventually.
type namespace struct{ name string }

func newNamespace(ctx context.Context) *namespace {
	GinkgoHelper()
	object := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: namespacePrefix}}
	Expect(k8s.Create(ctx, object)).To(Succeed())
	DeferCleanup(deleteNamespace, object)
	return &namespace{name: object.Name}
}

// deleteNamespace does not wait until it is gone: no other spec looks at it.
func deleteNamespace(ctx context.Context, object *corev1.Namespace) error {
	return client.IgnoreNotFound(k8s.Delete(ctx, object))
}

// kubectl runs a command as a user would, which has to succeed.
func (n *namespace) kubectl(ctx context.Context, args ...string) string {
	GinkgoHelper()
	out, err := n.run(n.command(ctx, args...))
	Expect(err).NotTo(HaveOccurred())
	return out
}

// kubectlWith runs a command that reads a manifest.
func (n *namespace) kubectlWith(ctx context.Context, objects []client.Object, args ...string) string {
	GinkgoHelper()
	command := n.command(ctx, append(args, "-f", "-")...)
	command.Stdin = strings.NewReader(manifest(objects...))
	out, err := n.run(command)
	Expect(err).NotTo(HaveOccurred())
	return out
}

func (n *namespace) command(ctx context.Context, args ...string) *exec.Cmd {
	flags := []string{"--kubeconfig", cluster.Kubeconfig, "--cache-dir", filepath.Join(cluster.Dir, "kubectl"), "--namespace", n.name}
	return exec.CommandContext(ctx, filepath.Join(binDir, "kubectl"), append(flags, args...)...)
}

func (*namespace) run(command *exec.Cmd) (string, error) {
	var stdout, stderr strings.Builder
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", strings.Join(command.Args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// apply is "kubectl apply" of one file.
func (n *namespace) apply(ctx context.Context, objects ...client.Object) {
	GinkgoHelper()
	n.kubectlWith(ctx, objects, "apply")
}

// applyServerSide is "kubectl apply --server-side" of one file.
func (n *namespace) applyServerSide(ctx context.Context, objects ...client.Object) {
	GinkgoHelper()
	n.kubectlWith(ctx, objects, "apply", "--server-side")
}

// edit is "kubectl edit" by a person who changes the Deployment as change does.
func (n *namespace) edit(ctx context.Context, name string, change func(*appsv1.Deployment)) {
	GinkgoHelper()
	edited := n.deployment(ctx, name)
	edited.SetGroupVersionKind(appsv1.SchemeGroupVersion.WithKind("Deployment"))
	edited.ManagedFields = nil // kubectl does not show them
	change(edited)
	file := filepath.Join(GinkgoT().TempDir(), "edited.yaml")
	Expect(os.WriteFile(file, []byte(manifest(edited)), 0o600)).To(Succeed())
	command := n.command(ctx, "edit", "deployment", name)
	command.Env = append(os.Environ(), "KUBE_EDITOR=cp "+file)
	_, err := n.run(command)
	Expect(err).NotTo(HaveOccurred())
}

// waitForRollout waits as a user does, until the Deployment has finished its rollout.
func (n *namespace) waitForRollout(ctx context.Context, name string) {
	GinkgoHelper()
	n.kubectl(ctx, "rollout", "status", "deployment/"+name, "--timeout=60s")
}

// waitUntilReady waits as a user does, until the sets are Ready.
func (n *namespace) waitUntilReady(ctx context.Context, sets ...string) {
	GinkgoHelper()
	for _, set := range sets {
		n.kubectl(ctx, "wait", "--for=condition=Ready", "scs/"+set, "--timeout=60s")
	}
}

func (n *namespace) deployment(ctx context.Context, name string) *appsv1.Deployment {
	GinkgoHelper()
	deployment := &appsv1.Deployment{}
	Expect(k8s.Get(ctx, n.key(name), deployment)).To(Succeed())
	return deployment
}

func (n *namespace) key(name string) client.ObjectKey {
	return client.ObjectKey{Namespace: n.name, Name: name}
}

// template returns the containers of a Deployment's template with their images, init containers first.
func (n *namespace) template(ctx context.Context, name string) ([]string, error) {
	deployment := &appsv1.Deployment{}
	err := k8s.Get(ctx, n.key(name), deployment)
	return containers(&deployment.Spec.Template.Spec), err
}

func containers(spec *corev1.PodSpec) []string {
	var result []string
	for _, container := range slices.Concat(spec.InitContainers, spec.Containers) {
		result = append(result, container.Name+"="+container.Image)
	}
	return result
}

// pods returns, for each pod of a Deployment that is not terminating, its containers as template does, or that it is not ready.
func (n *namespace) pods(ctx context.Context, deployment string) ([]string, error) {
	var pods corev1.PodList
	if err := k8s.List(ctx, &pods, client.InNamespace(n.name), client.MatchingLabels{"app": deployment}); err != nil {
		return nil, err
	}
	var result []string
	for i := range pods.Items {
		switch pod := &pods.Items[i]; {
		case !pod.DeletionTimestamp.IsZero():
		case !isReady(pod):
			result = append(result, "not ready")
		default:
			result = append(result, strings.Join(containers(&pod.Spec), " "))
		}
	}
	return result, nil
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(condition corev1.PodCondition) bool {
		return condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue
	})
}

// replicaSets counts the ReplicaSets of a Deployment, those without pods included.
func (n *namespace) replicaSets(ctx context.Context, deployment string) (int, error) {
	var list appsv1.ReplicaSetList
	err := k8s.List(ctx, &list, client.InNamespace(n.name), client.MatchingLabels{"app": deployment})
	return len(list.Items), err
}

// condition returns status and reason of a set's condition.
func (n *namespace) condition(ctx context.Context, set, conditionType string) (string, error) {
	object := &v1alpha1.SidecarSet{}
	if err := k8s.Get(ctx, n.key(set), object); err != nil {
		return "", err
	}
	condition := meta.FindStatusCondition(object.Status.Conditions, conditionType)
	if condition == nil || condition.ObservedGeneration != object.Generation {
		return "unknown", nil
	}
	return string(condition.Status) + "/" + condition.Reason, nil
}

// problems returns those of a set as "name: reason: message".
func (n *namespace) problems(ctx context.Context, set string) ([]string, error) {
	object := &v1alpha1.SidecarSet{}
	err := k8s.Get(ctx, n.key(set), object)
	var result []string
	for _, problem := range object.Status.Problems {
		result = append(result, fmt.Sprintf("%s: %s: %s", problem.Name, problem.Reason, problem.Message))
	}
	return result, err
}

// sets returns the names of the SidecarSets that exist.
func (n *namespace) sets(ctx context.Context) ([]string, error) {
	var list v1alpha1.SidecarSetList
	err := k8s.List(ctx, &list, client.InNamespace(n.name))
	var names []string
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names, err
}

// spec returns the spec of a Deployment as the API server sends it.
func (n *namespace) spec(ctx context.Context, deployment string) string {
	GinkgoHelper()
	answer := n.kubectl(ctx, "get", "--raw", fmt.Sprintf("/apis/apps/v1/namespaces/%s/deployments/%s", n.name, deployment))
	var object struct{ Spec json.RawMessage }
	Expect(json.Unmarshal([]byte(answer), &object)).To(Succeed())
	return string(object.Spec)
}

// traces returns what there is of ours on a Deployment: its marks, and the entries of its managed fields.
func (n *namespace) traces(ctx context.Context, name string) ([]string, error) {
	deployment := &appsv1.Deployment{}
	if err := k8s.Get(ctx, n.key(name), deployment); err != nil {
		return nil, err
	}
	var traces []string
	template := &deployment.Spec.Template
	for where, keys := range map[string]map[string]string{
		"annotation": deployment.Annotations, "annotation of pods": template.Annotations, "label of pods": template.Labels,
	} {
		for key := range keys {
			if strings.HasPrefix(key, "sidecarset.io/") && key != v1alpha1.ExcludeAnnotation { // which is the user's
				traces = append(traces, where+" "+key)
			}
		}
	}
	for _, entry := range deployment.ManagedFields {
		if entry.Manager == v1alpha1.FieldManager {
			traces = append(traces, "managed fields of "+string(entry.Operation))
		}
	}
	return traces, nil
}

// describe writes what helps to understand why a spec failed.
func (n *namespace) describe(ctx context.Context) {
	for _, args := range [][]string{
		{"get", "sidecarsets,deployments,replicasets,pods,controllerrevisions", "-o", "wide"},
		{"get", "sidecarsets,deployments", "-o", "yaml", "--show-managed-fields"},
	} {
		out, err := n.run(n.command(ctx, args...))
		GinkgoWriter.Println(out, err)
	}
	log := operatorLog(n.name)
	GinkgoWriter.Println(strings.Join(log[max(0, len(log)-60):], "\n"))
	GinkgoWriter.Println(operator.LastLines())
}
