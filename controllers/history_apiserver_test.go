// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	applyconfigurations "k8s.io/client-go/applyconfigurations"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// historyNamespace is the only namespace of a history.
const historyNamespace = "shop"

// kind is a kind of object of a history.
type kind string

const (
	deploymentKind kind = "Deployment"
	replicaSetKind kind = "ReplicaSet"
	podKind        kind = "Pod"
	budgetKind     kind = "PodDisruptionBudget"
	setKind        kind = "SidecarSet"
	revisionKind   kind = "ControllerRevision"
)

var allKinds = []kind{deploymentKind, replicaSetKind, podKind, budgetKind, setKind, revisionKind}

func kindOf(object any) kind {
	switch object.(type) {
	case *appsv1.Deployment, *appsv1.DeploymentList:
		return deploymentKind
	case *appsv1.ReplicaSet, *appsv1.ReplicaSetList:
		return replicaSetKind
	case *corev1.Pod, *corev1.PodList:
		return podKind
	case *policyv1.PodDisruptionBudget, *policyv1.PodDisruptionBudgetList:
		return budgetKind
	case *v1alpha1.SidecarSet, *v1alpha1.SidecarSetList:
		return setKind
	case *appsv1.ControllerRevision, *appsv1.ControllerRevisionList:
		return revisionKind
	}
	panic(fmt.Sprintf("no history has a %T", object))
}

// change is what a watch tells: before is nil of an object that was created, after of one that was deleted.
type change struct {
	before, after client.Object
	at            time.Time
}

// apiServer does what an API server does for the objects of a history: versions, generations, conflicts, finalizers, server-side apply with
// managed fields (by the library of the real one), JSON patches and merge patches with their guards. The objects in it are never changed, only
// replaced. controller-runtime's fake client would lack the guards on uid, generations, dry runs, status codes of failed tests and the clock.
type apiServer struct {
	now     time.Time
	version int
	objects map[kind]map[string]client.Object
	// changes are all that ever were, by kind, for caches to follow at their own pace.
	changes map[kind][]change
	// respecified is when a spec changed last.
	respecified map[types.UID]time.Time
	// policy is what the operator may not do at the moment.
	policy policy
	fields *managedfields.FieldManager
}

// policy is one of admission: objects of a kind may not get an image, and a strict one is against those that have it as well.
type policy struct {
	kind   kind
	image  string
	strict bool
}

// admits judges a write; before is nil of an object that is created.
func (p policy) admits(before, after client.Object) error {
	has := func(object client.Object) bool {
		return slices.ContainsFunc(longRunning(&corev1.Pod{Spec: podSpecOf(object)}), func(container *corev1.Container) bool { return container.Image == p.image })
	}
	if kindOf(after) != p.kind || !has(after) || (before != nil && has(before) && !p.strict) {
		return nil
	}
	return apierrors.NewForbidden(resourceOf(p.kind), after.GetName(), fmt.Errorf("a policy is against image %s", p.image))
}

// podSpecOf is the spec of a pod, or of those that an object makes.
func podSpecOf(object client.Object) corev1.PodSpec {
	switch object := object.(type) {
	case *appsv1.Deployment:
		return object.Spec.Template.Spec
	case *appsv1.ReplicaSet:
		return object.Spec.Template.Spec
	case *corev1.Pod:
		return object.Spec
	}
	return corev1.PodSpec{}
}

// newFieldManager returns what keeps the managed fields of Deployments in a real API server.
func newFieldManager() (*managedfields.FieldManager, error) {
	converter := applyconfigurations.NewTypeConverter(clientgoscheme.Scheme)
	gvk := appsv1.SchemeGroupVersion.WithKind("Deployment")
	return managedfields.NewDefaultFieldManager(converter, clientgoscheme.Scheme, noDefaults{}, clientgoscheme.Scheme, gvk, gvk.GroupVersion(), "", nil)
}

type noDefaults struct{}

func (noDefaults) Default(runtime.Object) {}

func newAPIServer(fields *managedfields.FieldManager) *apiServer {
	server := &apiServer{
		// Long ago, so that times that are not from this clock show.
		now:     time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC),
		objects: map[kind]map[string]client.Object{}, changes: map[kind][]change{}, respecified: map[types.UID]time.Time{}, fields: fields,
	}
	for _, kind := range allKinds {
		server.objects[kind] = map[string]client.Object{}
	}
	return server
}

func (s *apiServer) time() metav1.Time { return metav1.NewTime(s.now.Truncate(time.Second)) }

// sorted returns objects of a kind by name.
func sorted[T client.Object](objects map[string]client.Object) []T {
	result := make([]T, 0, len(objects))
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		if object, ok := objects[name].(T); ok {
			result = append(result, object)
		}
	}
	return result
}

func (s *apiServer) deployments() []*appsv1.Deployment {
	return sorted[*appsv1.Deployment](s.objects[deploymentKind])
}

func (s *apiServer) deployment(name string) *appsv1.Deployment {
	deployment, _ := s.objects[deploymentKind][name].(*appsv1.Deployment)
	return deployment
}

func (s *apiServer) pods() []*corev1.Pod { return sorted[*corev1.Pod](s.objects[podKind]) }

func (s *apiServer) sets() []*v1alpha1.SidecarSet {
	return sorted[*v1alpha1.SidecarSet](s.objects[setKind])
}

func resourceOf(kind kind) schema.GroupResource {
	return schema.GroupResource{Group: "apps", Resource: strings.ToLower(string(kind)) + "s"}
}

func (s *apiServer) live(object client.Object) (client.Object, error) {
	live, ok := s.objects[kindOf(object)][object.GetName()]
	if !ok {
		return nil, apierrors.NewNotFound(resourceOf(kindOf(object)), object.GetName())
	}
	return live, nil
}

func copyOf[T client.Object](object T) T {
	copied, _ := object.DeepCopyObject().(T)
	return copied
}

// create adds an object.
func (s *apiServer) create(object client.Object, manager string) error {
	kind := kindOf(object)
	if _, exists := s.objects[kind][object.GetName()]; exists {
		return apierrors.NewAlreadyExists(resourceOf(kind), object.GetName())
	}
	created := copyOf(object)
	created.SetNamespace(historyNamespace)
	created.SetUID(types.UID(fmt.Sprintf("uid-%d", s.version+1)))
	created.SetCreationTimestamp(s.time())
	created.SetGeneration(1)
	if kind == deploymentKind {
		created.GetObjectKind().SetGroupVersionKind(appsv1.SchemeGroupVersion.WithKind("Deployment"))
		empty := &appsv1.Deployment{}
		empty.SetGroupVersionKind(created.GetObjectKind().GroupVersionKind())
		if err := s.track(empty, created, manager); err != nil {
			return err
		}
	}
	s.store(nil, created)
	reflect.ValueOf(object).Elem().Set(reflect.ValueOf(copyOf(created)).Elem())
	return nil
}

// update replaces an object. A version that is not the live one is a conflict, none is not. status says which part is written.
func (s *apiServer) update(object client.Object, manager string, status bool) (client.Object, error) {
	before, err := s.live(object)
	if err != nil {
		return nil, err
	}
	conflict := func(what string) error {
		return apierrors.NewConflict(resourceOf(kindOf(object)), object.GetName(), errors.New("the "+what+" is another one"))
	}
	if object.GetUID() != before.GetUID() {
		return nil, conflict("uid")
	}
	if version := object.GetResourceVersion(); version != "" && version != before.GetResourceVersion() {
		return nil, conflict("version")
	}
	after := copyOf(object)
	after.SetResourceVersion(before.GetResourceVersion())
	after.SetGeneration(before.GetGeneration())
	after.SetCreationTimestamp(before.GetCreationTimestamp())
	after.SetDeletionTimestamp(before.GetDeletionTimestamp())
	separateStatus(before, after, status)
	if manager == v1alpha1.FieldManager {
		if err := s.policy.admits(before, after); err != nil {
			return nil, err
		}
	}
	switch {
	case kindOf(object) != deploymentKind:
	case status:
		after.SetManagedFields(before.GetManagedFields())
	default:
		if err := s.track(before, after, manager); err != nil {
			return nil, err
		}
	}
	return s.replace(before, after), nil
}

// separateStatus lets a write of the status change nothing else, and any other write not the status.
func separateStatus(before, after client.Object, status bool) {
	was, is := reflect.ValueOf(before).Elem(), reflect.ValueOf(after).Elem()
	if !is.FieldByName("Status").IsValid() {
		return
	}
	if status {
		is.FieldByName("Spec").Set(was.FieldByName("Spec"))
		return
	}
	is.FieldByName("Status").Set(was.FieldByName("Status"))
}

// track keeps the managed fields of an update.
func (s *apiServer) track(before, after client.Object, manager string) error {
	if _, err := s.fields.Update(before, after, manager); err != nil {
		return fmt.Errorf("tracking the fields of an update: %w", err)
	}
	s.retime(after)
	return nil
}

// retime gives new entries of the managed fields the time of this clock.
func (s *apiServer) retime(object client.Object) {
	entries := object.GetManagedFields()
	for i := range entries {
		if entries[i].Time != nil && entries[i].Time.Sub(s.now) > 100000*time.Hour {
			entries[i].Time = new(s.time())
		}
	}
	object.SetManagedFields(entries)
}

// replace stores what became of an object, if anything did.
func (s *apiServer) replace(before, after client.Object) client.Object {
	if isSame(before, after) {
		return before
	}
	if !equality.Semantic.DeepEqual(specOf(before), specOf(after)) {
		after.SetGeneration(before.GetGeneration() + 1)
		s.respecified[after.GetUID()] = s.now
	}
	if !after.GetDeletionTimestamp().IsZero() && len(after.GetFinalizers()) == 0 && kindOf(after) == setKind {
		s.remove(before)
		return after
	}
	s.store(before, after)
	return after
}

func (s *apiServer) store(before, after client.Object) {
	s.version++
	after.SetResourceVersion(strconv.Itoa(s.version))
	s.objects[kindOf(after)][after.GetName()] = after
	s.changes[kindOf(after)] = append(s.changes[kindOf(after)], change{before, after, s.now})
}

// isSame is true of objects that differ in nothing but the times of their managed fields: no write happens then.
func isSame(before, after client.Object) bool {
	if len(before.GetManagedFields()) == 0 && len(after.GetManagedFields()) == 0 {
		return equality.Semantic.DeepEqual(before, after)
	}
	timeless := func(object client.Object) client.Object {
		result := copyOf(object)
		entries := result.GetManagedFields()
		for i := range entries {
			entries[i].Time = nil
		}
		result.SetManagedFields(entries)
		return result
	}
	return equality.Semantic.DeepEqual(timeless(before), timeless(after))
}

func specOf(object client.Object) any {
	switch object := object.(type) {
	case *appsv1.Deployment:
		return object.Spec
	case *appsv1.ReplicaSet:
		return object.Spec
	case *corev1.Pod:
		return object.Spec
	case *v1alpha1.SidecarSet:
		return object.Spec
	case *policyv1.PodDisruptionBudget:
		return object.Spec
	}
	return nil
}

// delete removes an object, or begins its deletion when something still holds it: finalizers, or the kubelet.
func (s *apiServer) delete(object client.Object, preconditions *metav1.Preconditions) error {
	live, err := s.live(object)
	if err != nil {
		return err
	}
	if p := preconditions; p != nil && (p.UID != nil && *p.UID != live.GetUID() || p.ResourceVersion != nil && *p.ResourceVersion != live.GetResourceVersion()) {
		return apierrors.NewConflict(resourceOf(kindOf(object)), object.GetName(), errors.New("a precondition fails"))
	}
	if len(live.GetFinalizers()) == 0 && kindOf(object) != podKind {
		s.remove(live)
		return nil
	}
	if live.GetDeletionTimestamp().IsZero() {
		after := copyOf(live)
		after.SetDeletionTimestamp(new(s.time()))
		s.store(live, after)
	}
	return nil
}

func (s *apiServer) remove(live client.Object) {
	delete(s.objects[kindOf(live)], live.GetName())
	s.changes[kindOf(live)] = append(s.changes[kindOf(live)], change{live, nil, s.now})
}

// apply is a server-side apply of a Deployment that is never forced.
func (s *apiServer) apply(config *unstructured.Unstructured, manager string, dryRun bool) (before, after *appsv1.Deployment, err error) {
	before = s.deployment(config.GetName())
	conflict := apierrors.NewConflict(resourceOf(deploymentKind), config.GetName(), errors.New("it is another one"))
	if before == nil {
		return nil, nil, conflict
	}
	applied, err := s.fields.Apply(before, config, manager, false)
	if err != nil {
		return nil, nil, err
	}
	after, ok := applied.(*appsv1.Deployment)
	if !ok {
		return nil, nil, fmt.Errorf("applying made a %T", applied)
	}
	if config.GetUID() != before.UID || config.GetResourceVersion() != before.ResourceVersion {
		return nil, nil, conflict
	}
	for _, container := range slices.Concat(after.Spec.Template.Spec.InitContainers, after.Spec.Template.Spec.Containers) {
		if container.Image == "" {
			return nil, nil, apierrors.NewInvalid(schema.GroupKind{Group: "apps", Kind: "Deployment"}, after.Name, nil)
		}
	}
	if err := s.policy.admits(before, after); err != nil {
		return nil, nil, err
	}
	after.SetGroupVersionKind(before.GroupVersionKind())
	s.retime(after)
	if dryRun {
		return before, after, nil
	}
	after, _ = s.replace(before, after).(*appsv1.Deployment)
	return before, after, nil
}

// patch is a JSON patch or a merge patch, of a subresource or, if that is empty, of the rest.
func (s *apiServer) patch(object client.Object, patchType types.PatchType, data []byte, manager, subresource string) (before, after client.Object, err error) {
	if before, err = s.live(object); err != nil {
		return nil, nil, err
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(before)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the live object: %w", err)
	}
	if patchType == types.MergePatchType {
		content, err = mergePatched(content, data)
	} else {
		content, err = jsonPatched(content, data)
	}
	if err != nil {
		return nil, nil, err
	}
	patched := reflect.New(reflect.TypeOf(before).Elem())
	after, _ = reflect.TypeAssert[client.Object](patched)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content, after); err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	if kindOf(after) == podKind && !isSame(before, after) {
		s.stamp(after, manager, subresource)
	}
	after, err = s.update(after, manager, subresource == "status")
	return before, after, err
}

// stamp notes in a pod's managed fields who wrote to it, and when. Of which fields, nobody asks.
func (s *apiServer) stamp(pod client.Object, manager, subresource string) {
	entries := slices.DeleteFunc(pod.GetManagedFields(), func(entry metav1.ManagedFieldsEntry) bool {
		return entry.Manager == manager && entry.Subresource == subresource
	})
	pod.SetManagedFields(append(entries, metav1.ManagedFieldsEntry{Manager: manager, Subresource: subresource, Time: new(s.time())}))
}

// failedTest is what an API server answers when a test of a JSON patch fails (apiserver/pkg/endpoints/handlers/patch.go).
func failedTest(path string) error {
	return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", "testing value "+path+" failed", 0, false)
}
