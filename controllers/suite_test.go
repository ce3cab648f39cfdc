// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/yaml"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
)

// These specs reconcile directly, against a real API server: what a call does has been done when it returns. The world of a spec (a
// namespace, the two reconcilers, the writes that they sent) is made by newWorld.

var (
	restConfig *rest.Config
	// k8s is the client of people: it writes under other names than the operator.
	k8s client.Client
)

func TestControllers(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Controllers")
}

var _ = BeforeSuite(func() {
	logf.SetLogger(GinkgoLogr)
	environment := &envtest.Environment{
		CRDDirectoryPaths:     []string{filepath.Join("..", "config", "crd", "bases")},
		ErrorIfCRDPathMissing: true,
	}
	var err error
	restConfig, err = environment.Start()
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(environment.Stop)
	scheme := runtime.NewScheme()
	Expect(clientgoscheme.AddToScheme(scheme)).To(Succeed())
	Expect(v1alpha1.AddToScheme(scheme)).To(Succeed())
	k8s, err = client.New(restConfig, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
})

// podWritesAtATime is how many pods the operator updates at the same time.
const podWritesAtATime = 3

// world is a namespace with an operator that works when it is told to.
type world struct {
	namespace   string
	sets        *sidecarSetReconciler
	deployments *deploymentReconciler
	recorder    *events.FakeRecorder
	// writes are the requests that the operator sent, as "verb resource", and tries those of them that were dry runs.
	writes, tries []string
	// before is called ahead of each write; an error is what the operator gets instead of an answer.
	before func(write string) error
	// ahead is by how much the operator's clock is ahead of the API server's.
	ahead time.Duration
}

func newWorld(ctx context.Context) *world {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "spec-"}}
	Expect(k8s.Create(ctx, namespace)).To(Succeed())
	w := &world{namespace: namespace.Name, recorder: events.NewFakeRecorder(1000), before: func(string) error { return nil }}
	base, err := client.NewWithWatch(restConfig, client.Options{Scheme: k8s.Scheme()})
	Expect(err).NotTo(HaveOccurred())
	operator := interceptor.NewClient(base, w.intercept())
	summaries := newSummaries(func(string, []string) {})
	turns := newTurns(func(types.NamespacedName) {})
	observer := &observer{cache: uncached{operator}, live: operator, summaries: summaries, turns: turns, operatorNamespace: "sidecarset-system"}
	w.sets = &sidecarSetReconciler{observer: observer, writer: &writer{client: operator}, turns: turns, recorder: w.recorder, now: func() time.Time { return time.Now().Add(w.ahead) }}
	w.deployments = &deploymentReconciler{
		observer: observer, writer: &writer{client: operator}, renderer: injection.NewRenderer(), summaries: summaries, refusals: newRefusals(), unseen: newUnseen(),
		sightings: newSightings(), disruptions: newDisruptions(), recorder: w.recorder, podSlots: newPodSlots(podWritesAtATime), renderings: newRenderings(), promotions: newPromotions(promotionsAtATime, func(types.NamespacedName) {}), turns: turns,
		now: func() time.Time { return time.Now().Add(w.ahead) },
	}
	return w
}

// uncached reads like the cache, but from the API server: same selection, same stripping, same indexes.
type uncached struct{ client.Client }

func (u uncached) Get(ctx context.Context, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
	if err := u.Client.Get(ctx, key, object, options...); err != nil {
		return err
	}
	return strip(object)
}

func (u uncached) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	asked := (&client.ListOptions{}).ApplyOptions(options)
	if err := u.Client.List(ctx, list, client.InNamespace(asked.Namespace)); err != nil {
		return err
	}
	keep := func(object client.Object, indexed func(client.Object) []string) bool {
		if err := strip(object); err != nil {
			return false
		}
		if asked.FieldSelector == nil || asked.FieldSelector.Empty() {
			return true
		}
		for _, value := range indexed(object) {
			if asked.FieldSelector.Requirements()[0].Value == value {
				return true
			}
		}
		return false
	}
	switch list := list.(type) {
	case *appsv1.DeploymentList:
		list.Items = filter(list.Items, func(d *appsv1.Deployment) bool { return keep(d, func(client.Object) []string { return setsOf(d) }) })
	case *appsv1.ReplicaSetList:
		list.Items = filter(list.Items, func(rs *appsv1.ReplicaSet) bool { return isInjected(rs) && keep(rs, ownerUID) })
	case *corev1.PodList:
		list.Items = filter(list.Items, func(pod *corev1.Pod) bool { return (isInjected(pod) || isPrePull(pod)) && keep(pod, ownerUID) })
	case *policyv1.PodDisruptionBudgetList:
	case *appsv1.ControllerRevisionList:
		list.Items = filter(list.Items, func(r *appsv1.ControllerRevision) bool { return r.Labels[v1alpha1.SetLabel] != "" && keep(r, ownerUID) })
	}
	return nil
}

func isInjected(object client.Object) bool {
	return object.GetLabels()[v1alpha1.InjectedLabel] == "true"
}

func filter[T any](items []T, keep func(*T) bool) []T {
	var kept []T
	for i := range items {
		if keep(&items[i]) {
			kept = append(kept, items[i])
		}
	}
	return kept
}

func strip(object client.Object) error {
	for gvk, options := range CacheOptions(nil).ByObject {
		if fmt.Sprintf("%T", gvk) == fmt.Sprintf("%T", object) && options.Transform != nil {
			_, err := options.Transform(object)
			return err
		}
	}
	return nil
}

const dryRun = "dry-run"

// intercept counts what is written, and lets specs break it.
func (w *world) intercept() interceptor.Funcs {
	var mutex sync.Mutex // order slips, and pods, may be written several at a time
	write := func(verb string, object client.Object) error {
		mutex.Lock()
		defer mutex.Unlock()
		text := fmt.Sprintf("%s %T", verb, object)
		if verb == dryRun {
			w.tries = append(w.tries, text)
		} else {
			w.writes = append(w.writes, text)
		}
		return w.before(text)
	}
	return interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.CreateOption) error {
			verb := "create"
			if created := (&client.CreateOptions{}).ApplyOptions(options); len(created.DryRun) > 0 {
				verb = dryRun
			}
			if err := write(verb, object); err != nil {
				return err
			}
			return c.Create(ctx, object, options...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.DeleteOption) error {
			if err := write("delete", object); err != nil {
				return err
			}
			return c.Delete(ctx, object, options...)
		},
		Patch: func(ctx context.Context, c client.WithWatch, object client.Object, patch client.Patch, options ...client.PatchOption) error {
			if err := write("patch", object); err != nil {
				return err
			}
			return c.Patch(ctx, object, patch, options...)
		},
		Apply: func(ctx context.Context, c client.WithWatch, config runtime.ApplyConfiguration, options ...client.ApplyOption) error {
			verb := "apply"
			if applied := (&client.ApplyOptions{}).ApplyOptions(options); len(applied.DryRun) > 0 {
				verb = dryRun
			}
			if err := write(verb, &appsv1.Deployment{}); err != nil {
				return err
			}
			return c.Apply(ctx, config, options...)
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, name string, object client.Object, patch client.Patch, options ...client.SubResourcePatchOption) error {
			if err := write("patch "+name, object); err != nil {
				return err
			}
			return c.SubResource(name).Patch(ctx, object, patch, options...)
		},
	}
}

// converge reconciles everything in the world until nothing is written any more. Slips are old enough at once.
func (w *world) converge(ctx context.Context) {
	GinkgoHelper()
	for range 30 {
		before := len(w.writes) + len(w.tries)
		w.ahead = slipObserved
		w.reconcileAll(ctx)
		w.reconcileAll(ctx)
		if len(w.writes)+len(w.tries) == before {
			return
		}
	}
	Fail(fmt.Sprintf("no end of writing: %v, nor of trying: %v", w.writes[max(0, len(w.writes)-10):], w.tries[max(0, len(w.tries)-10):]))
}

func (w *world) reconcileAll(ctx context.Context) {
	GinkgoHelper()
	w.reconcileSets(ctx)
	var deployments appsv1.DeploymentList
	Expect(k8s.List(ctx, &deployments, client.InNamespace(w.namespace))).To(Succeed())
	for _, deployment := range deployments.Items {
		_, err := w.deployments.Reconcile(ctx, requestFor(&deployment))
		Expect(err).NotTo(HaveOccurred())
	}
}

func (w *world) reconcileSets(ctx context.Context) {
	GinkgoHelper()
	for _, set := range w.listSets(ctx) {
		_, err := reconcile.AsReconciler(w.writer(), w.sets).Reconcile(ctx, requestFor(&set))
		Expect(err).NotTo(HaveOccurred())
	}
}

// writer is the operator's client.
func (w *world) writer() client.Client { return w.sets.writer.client }

// line shows the status of a set.
func (w *world) line(ctx context.Context, name string) string {
	GinkgoHelper()
	status := w.set(ctx, name).Status
	text := fmt.Sprintf("%d/%d workloads, %d pods, %d injected, %d updated, %d available;",
		status.UpdatedWorkloads, status.Workloads, status.Pods, status.InjectedPods, status.UpdatedPods, status.UpdatedReadyPods)
	for _, conditionType := range []string{"Ready", "Progressing", "Degraded"} {
		condition := meta.FindStatusCondition(status.Conditions, conditionType)
		Expect(condition).NotTo(BeNil(), conditionType)
		text += fmt.Sprintf(" %s=%s/%s", condition.Type, condition.Status, condition.Reason)
	}
	return text
}

// announced returns the types and reasons of the events that were recorded.
func (w *world) announced() (result []string) {
	for len(w.recorder.Events) > 0 {
		words := strings.Fields(<-w.recorder.Events)
		result = append(result, strings.Join(words[:2], " "))
	}
	return result
}

// requestFor asks for the reconcile of an object.
func requestFor(object client.Object) reconcile.Request {
	return reconcile.Request{NamespacedName: client.ObjectKeyFromObject(object)}
}

func (w *world) revisions(ctx context.Context) []appsv1.ControllerRevision {
	GinkgoHelper()
	var revisions appsv1.ControllerRevisionList
	Expect(k8s.List(ctx, &revisions, client.InNamespace(w.namespace))).To(Succeed())
	slices.SortFunc(revisions.Items, func(a, b appsv1.ControllerRevision) int { return int(a.Revision - b.Revision) })
	return revisions.Items
}

// revisionImages returns the images of the first containers of the revisions, the oldest first.
func (w *world) revisionImages(ctx context.Context) (images []string) {
	GinkgoHelper()
	for _, revision := range w.revisions(ctx) {
		content, err := injection.ParseContent(revision.Data.Raw)
		Expect(err).NotTo(HaveOccurred())
		images = append(images, content.Containers[0].Image)
	}
	return images
}

func (w *world) listSets(ctx context.Context) []v1alpha1.SidecarSet {
	GinkgoHelper()
	var sets v1alpha1.SidecarSetList
	Expect(k8s.List(ctx, &sets, client.InNamespace(w.namespace))).To(Succeed())
	return sets.Items
}

// key is the key of an object in the world.
func (w *world) key(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: w.namespace, Name: name}
}

// parseSpec reads the YAML of a spec. All workloads go at the same time, unless it says how many.
func parseSpec(spec string) v1alpha1.SidecarSetSpec {
	GinkgoHelper()
	result := v1alpha1.SidecarSetSpec{}
	result.UpdateStrategy.MaxConcurrentWorkloads = new(intstr.FromString("100%"))
	Expect(yaml.UnmarshalStrict([]byte(spec), &result)).To(Succeed())
	return result
}

// createSet creates a SidecarSet from the YAML of its spec.
func (w *world) createSet(ctx context.Context, name, spec string) {
	GinkgoHelper()
	set := &v1alpha1.SidecarSet{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}, Spec: parseSpec(spec)}
	Expect(k8s.Create(ctx, set)).To(Succeed())
}

// updateSet replaces the spec of a SidecarSet.
func (w *world) updateSet(ctx context.Context, name, spec string) {
	GinkgoHelper()
	set := w.set(ctx, name)
	set.Spec = parseSpec(spec)
	Expect(k8s.Update(ctx, set)).To(Succeed())
}

func (w *world) set(ctx context.Context, name string) *v1alpha1.SidecarSet {
	GinkgoHelper()
	set := &v1alpha1.SidecarSet{}
	Expect(k8s.Get(ctx, w.key(name), set)).To(Succeed())
	return set
}

func (w *world) deleteSet(ctx context.Context, name string) {
	GinkgoHelper()
	Expect(k8s.Delete(ctx, w.set(ctx, name))).To(Succeed())
}

// userManifest is a Deployment with the label "logging: enabled" and the given pod spec, as its owner writes it.
func (w *world) userManifest(name, podSpec string) *appsv1.Deployment {
	GinkgoHelper()
	deployment := &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name, Labels: map[string]string{"logging": "enabled"}},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}}},
		},
	}
	Expect(yaml.UnmarshalStrict([]byte(podSpec), &deployment.Spec.Template.Spec)).To(Succeed())
	return deployment
}

// createDeployment has the owner create a Deployment, and its controller see it.
func (w *world) createDeployment(ctx context.Context, name, podSpec string) {
	GinkgoHelper()
	Expect(k8s.Create(ctx, w.userManifest(name, podSpec), client.FieldOwner("owner"))).To(Succeed())
}

func (w *world) deployment(ctx context.Context, name string) *appsv1.Deployment {
	GinkgoHelper()
	deployment := &appsv1.Deployment{}
	Expect(k8s.Get(ctx, w.key(name), deployment)).To(Succeed())
	return deployment
}

// editDeployment changes a Deployment as "kubectl edit" does.
func (w *world) editDeployment(ctx context.Context, name, manager string, edit func(*appsv1.Deployment)) {
	GinkgoHelper()
	deployment := w.deployment(ctx, name)
	edit(deployment)
	Expect(k8s.Update(ctx, deployment, client.FieldOwner(manager))).To(Succeed())
}

// applyManifest applies a manifest by server-side apply, as a GitOps tool does.
func applyManifest(ctx context.Context, manifest *appsv1.Deployment) error {
	data, err := json.Marshal(manifest)
	Expect(err).NotTo(HaveOccurred())
	return k8s.Patch(ctx, manifest.DeepCopy(), client.RawPatch(types.ApplyPatchType, withoutEmpty(data)), client.FieldOwner("gitops"))
}

// withoutEmpty leaves out of a manifest what Go encodes and nobody wrote.
func withoutEmpty(manifest []byte) []byte {
	object := map[string]any{}
	Expect(json.Unmarshal(manifest, &object)).To(Succeed())
	delete(object, "status")
	spec, _ := object["spec"].(map[string]any)
	delete(spec, "strategy")
	template, _ := spec["template"].(map[string]any)
	podSpec, _ := template["spec"].(map[string]any)
	for _, list := range []string{"containers", "initContainers"} {
		containers, _ := podSpec[list].([]any)
		for _, container := range containers {
			container, _ := container.(map[string]any)
			delete(container, "resources")
		}
	}
	data, err := json.Marshal(object)
	Expect(err).NotTo(HaveOccurred())
	return data
}

func containerNames(containers []corev1.Container) []string {
	names := make([]string, 0, len(containers))
	for i := range containers {
		names = append(names, containers[i].Name)
	}
	return names
}

// managers are the field managers of an object whose name is ours, with their operations.
func ourManagers(object client.Object) []string {
	var result []string
	for _, entry := range object.GetManagedFields() {
		if entry.Manager == v1alpha1.FieldManager {
			result = append(result, string(entry.Operation))
		}
	}
	return result
}
