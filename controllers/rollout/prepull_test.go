// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

func on(node string, pod Pod) Pod { pod.Node = node; return pod }

// ahead is an update whose images are pulled first.
func ahead(pods ...Pod) PodUpdate {
	update := makeUpdate(pods...)
	update.Sets[0].PrePull = true
	return update
}

// pulling is a pull of the current image that began a second ago.
func pulling(node string) Pull {
	return Pull{Name: "pull-" + node, Node: node, Images: map[string]PullImage{"agent": {Image: current}}, CreatedAt: noon.Add(-time.Second)}
}

func pulled(node string) Pull { pull := pulling(node); pull.Pulled = true; return pull }

func failing(node string) Pull {
	pull := pulling(node)
	pull.Failures = map[string]string{"agent": "no such image"}
	return pull
}

func rejected(node string, ago time.Duration) Pull {
	pull := pulling(node)
	pull.CreatedAt, pull.Rejected = noon.Add(-ago), "OutOfpods: too many"
	return pull
}

// told is what a step does, as text.
func told(step PodStep) string {
	var parts []string
	if updates := names(step); updates != "" {
		parts = append(parts, "update "+updates)
	}
	for _, part := range []struct {
		verb  string
		pulls []Pull
	}{{"delete", step.PrePull.Delete}, {"create", step.PrePull.Create}, {"keep", step.PrePull.Kept}} {
		var nodes []string
		for _, pull := range part.pulls {
			nodes = append(nodes, pull.Node)
		}
		if len(nodes) > 0 {
			parts = append(parts, part.verb+" "+strings.Join(nodes, " "))
		}
	}
	return strings.Join(parts, ", ")
}

func TestPrePull(t *testing.T) {
	two := func(pulls ...Pull) PodUpdate {
		update := ahead(on("n1", makePod("a", old)), on("n2", makePod("b", old)))
		update.Pulls = pulls
		return update
	}
	change := func(update PodUpdate, change func(*PodUpdate)) PodUpdate { change(&update); return update }
	tooMany := ahead()
	for i := range 7 {
		tooMany.Pods = append(tooMany.Pods, on(fmt.Sprint("n", i), makePod(fmt.Sprint("a", i), old)))
	}
	tooMany.Desired = 7
	otherImage := pulled("n1")
	otherImage.Images = map[string]PullImage{"agent": {Image: "set-3"}}
	terminating := pulled("n1")
	terminating.Terminating = true
	for _, test := range []struct {
		name    string
		update  PodUpdate
		want    string
		problem string
	}{
		{name: "nothing is updated before its image is there", update: two(), want: "create n1 n2"},
		{name: "a pull that is under way is waited for", update: two(pulling("n1"), pulling("n2")), want: "keep n1 n2"},
		{name: "the pod goes whose image is there, not the first one", update: two(pulling("n1"), pulled("n2")), want: "update b, keep n1 n2"},
		{name: "the images stay while the budget does not let the pods go", update: change(two(pulled("n1"), pulled("n2")), func(u *PodUpdate) { u.DisruptionBudgets = allows(0, 2, 2) }), want: "keep n1 n2"},
		{name: "what is not needed any more goes", update: change(two(pulled("n1"), pulled("n2")), func(u *PodUpdate) { u.Pods[0] = on("n1", makePod("a", current)) }), want: "update b, delete n1, keep n2"},
		{name: "a node that is gone is none to pull on", update: two(pulled("n1"), pulled("n2"), pulling("n3")), want: "update a, delete n3, keep n1 n2"},
		{name: "a few nodes at a time", update: tooMany, want: "create n0 n1 n2 n3 n4"},
		{name: "a few nodes at a time, those that have them included", update: change(tooMany, func(u *PodUpdate) { u.Pulls = []Pull{pulled("n0"), pulling("n1"), pulling("n2"), failing("n3")} }), want: "update a0, create n4, keep n0 n1 n2 n3", problem: "node n3 can not pull"},
		{name: "another image is no use", update: two(otherImage, pulling("n2")), want: "delete n1, create n1, keep n2"},
		{name: "one that somebody deletes is no use", update: two(terminating, pulling("n2")), want: "delete n1, create n1, keep n2"},
		{name: "two on a node are one too many", update: two(pulling("n1"), pulling("n1"), pulling("n2")), want: "delete n1, keep n1 n2"},
		{name: "a pod without a node has nothing to lose", update: ahead(makePod("a", old)), want: "update a"},
		{name: "nor has a sidecar that can not be started", update: change(two(pulled("n2")), func(u *PodUpdate) {
			u.Pods[0].Containers["agent"] = Container{Image: old, Failing: &Waiting{}}
			u.Pods[0].ReadySince = time.Time{}
		}), want: "update a, keep n2"},
		{name: "an unavailable pod of another cause has", update: change(two(), func(u *PodUpdate) { u.Pods[1] = notReady(u.Pods[1]) }), want: "create n2 n1"},
		{name: "a pod that a partition keeps needs nothing", update: change(two(), func(u *PodUpdate) { u.Sets[0].Partition = new(intstr.FromInt32(1)) }), want: "create n1"},
		{name: "new resources need nothing", update: change(two(), func(u *PodUpdate) { u.Sets[0].Sidecars[0].Image = old }), want: "update a"},
		{name: "it is switched off in the middle", update: change(two(pulling("n1"), pulled("n2")), func(u *PodUpdate) { u.Sets[0].PrePull = false }), want: "update a, delete n1 n2"},
		{name: "it is paused in the middle", update: change(two(pulling("n1"), pulled("n2")), func(u *PodUpdate) { u.Sets = nil }), want: "delete n1 n2"},
		{
			name: "an image that can not be pulled stops its node alone", update: two(failing("n1"), pulled("n2")), want: "update b, keep n1 n2",
			problem: `node n1 can not pull image "set-2" of container "agent" ahead, so the pods there keep the sidecar that they have; correct the image or its pull secrets: no such image`,
		},
		{name: "on several nodes", update: two(failing("n2"), failing("n1")), want: "keep n1 n2", problem: "node n1 (and 1 more) can not pull"},
		{
			name: "a node that does not take it is told of", update: two(rejected("n1", time.Second), pulling("n2")), want: "keep n1 n2",
			problem: "node n1 has not pulled the new images ahead, so the pods there are not updated: OutOfpods: too many",
		},
		{name: "and is tried again", update: two(rejected("n1", pullRetry), pulling("n2")), want: "delete n1, create n1, keep n2"},
		{
			name: "a pull that takes long is told of", update: change(two(pulling("n1"), pulling("n2")), func(u *PodUpdate) { u.Pulls[0].CreatedAt = noon.Add(-pullPatience) }), want: "keep n1 n2",
			problem: "nothing is heard of it for more than 5m0s; look at pod pull-n1",
		},
		{name: "and is begun anew in the end", update: change(two(pulling("n1"), pulling("n2")), func(u *PodUpdate) { u.Pulls[0].CreatedAt = noon.Add(-PullDeadline) }), want: "delete n1, create n1, keep n2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			step := NextPods(test.update)
			if got := told(step); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
			problem := ""
			for i := range test.update.Sets {
				if told := step.PrePull.Problem(&test.update.Sets[i]); told != nil {
					problem = told.Message
				}
			}
			if !strings.Contains(problem, test.problem) || (test.problem == "") != (problem == "") {
				t.Errorf("problem %q, want %q", problem, test.problem)
			}
		})
	}
}

// Two sets that are updated together share the pods that pull.
// After a restart of the operator, a workload may have to wait for its turn to go on.
func TestAPullIsKeptForAWorkloadsTurn(t *testing.T) {
	update := ahead(on("n1", makePod("a", old)), on("n2", makePod("b", current)))
	update.Pulls = []Pull{pulling("n1")}
	update.Sets[0].AwaitsTurn = true
	if step := NextPods(update); told(step) != "" {
		t.Error(told(step))
	}
	update.Sets[0].Partition = new(intstr.FromInt32(1))
	if step := NextPods(update); told(step) != "delete n1" {
		t.Errorf("when its partition keeps the pod: %s", told(step))
	}
}

func TestPrePullOfSeveralSets(t *testing.T) {
	pod := on("n1", makePod("a", old))
	pod.Revisions["mesh"] = "mesh-1"
	pod.Containers["proxy"] = Container{Image: "mesh-1"}
	update := ahead(pod)
	update.Sets = append(update.Sets, SetUpdate{Key: "mesh", Revision: "mesh-2", Sidecars: []corev1.Container{{Name: "proxy", Image: "mesh-2"}}, PrePull: true})
	step := NextPods(update)
	want := map[string]PullImage{"agent": {Image: current}, "proxy": {Image: "mesh-2"}}
	if diff := cmp.Diff(want, step.PrePull.Create[0].Images); diff != "" {
		t.Errorf("images (-want +got):\n%s", diff)
	}

	pull := failing("n1")
	pull.Images = want
	update.Pulls = []Pull{pull}
	step = NextPods(update)
	if problem := step.PrePull.Problem(&update.Sets[0]); problem == nil || problem.Reason != v1alpha1.ReasonImagePullFailed {
		t.Errorf("the set whose image can not be pulled has %v", problem)
	}
	if problem := step.PrePull.Problem(&update.Sets[1]); problem != nil {
		t.Errorf("the other set has %v", problem)
	}
}

func TestPullOf(t *testing.T) {
	waiting := func(reason, message string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
	status := func(imageID string, state corev1.ContainerState) corev1.PodStatus {
		return corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{Name: "agent", ImageID: imageID, State: state}}}
	}
	ended := func(status corev1.PodStatus, reason, message string) corev1.PodStatus {
		status.Phase, status.Reason, status.Message = corev1.PodFailed, reason, message
		return status
	}
	exited := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 128}}
	const backedOff = `Back-off pulling image "agent:2": ErrImagePull: rpc error: not found`
	for name, test := range map[string]struct {
		status corev1.PodStatus
		want   string
	}{
		"a kubelet has not seen it":       {corev1.PodStatus{Phase: corev1.PodPending}, "waits"},
		"it is being pulled":              {status("", waiting("ContainerCreating", "")), "waits"},
		"it was pulled, and did not run":  {ended(status("sha256:1", exited), "", ""), "pulled"},
		"it was pulled, and is not made":  {status("", waiting("CreateContainerError", "no such file")), "pulled"},
		"it is not there":                 {status("", waiting("ErrImagePull", "rpc error: not found")), "fails: rpc error: not found"},
		"in the same words when it waits": {status("", waiting("ImagePullBackOff", backedOff)), "fails: rpc error: not found"},
		"without words":                   {status("", waiting("InvalidImageName", "")), "fails: InvalidImageName"},
		"the node is full":                {ended(corev1.PodStatus{}, "OutOfpods", "too many"), "rejected: OutOfpods: too many"},
		"it took too long":                {ended(status("", waiting("ContainerCreating", "")), "DeadlineExceeded", ""), "rejected: DeadlineExceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			pull := PullOf(&corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.ContainersAnnotation: "agent"}},
				// A mesh has put its proxy into it, which runs and never ends.
				Spec:   corev1.PodSpec{Containers: []corev1.Container{{Name: "agent", Image: "agent:2"}, {Name: "istio-proxy"}}},
				Status: test.status,
			})
			got := "waits"
			switch {
			case pull.Pulled:
				got = "pulled"
			case pull.Rejected != "":
				got = "rejected: " + pull.Rejected
			case pull.Failures["agent"] != "":
				got = "fails: " + pull.Failures["agent"]
			}
			if got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
			if diff := cmp.Diff(map[string]PullImage{"agent": {Image: "agent:2"}}, pull.Images); diff != "" {
				t.Errorf("images (-want +got):\n%s", diff)
			}
		})
	}
}

// simulation is a cluster in which images are pulled and pods updated.
type simulation struct {
	update PodUpdate
	// missing are the nodes on which the image can not be pulled.
	missing []string
}

// act carries a step out, and lets kubelets do all that they can.
func (s *simulation) act(step PodStep) {
	for i := range step.Updates {
		index := slices.IndexFunc(s.update.Pods, func(pod Pod) bool { return pod.Name == step.Updates[i].Pod.Name })
		s.update.Pods[index] = on(step.Updates[i].Pod.Node, makePod(step.Updates[i].Pod.Name, current))
	}
	s.update.Pulls = slices.DeleteFunc(s.update.Pulls, func(pull Pull) bool {
		return slices.ContainsFunc(step.PrePull.Delete, func(deleted Pull) bool { return deleted.Name == pull.Name })
	})
	for i := range s.update.Pulls {
		if pull := &s.update.Pulls[i]; slices.Contains(s.missing, pull.Node) {
			*pull = failing(pull.Node)
		} else {
			*pull = pulled(pull.Node)
		}
	}
	for _, pull := range step.PrePull.Create {
		s.update.Pulls = append(s.update.Pulls, pulling(pull.Node))
	}
}

func TestAWorkloadIsPulledForAndUpdated(t *testing.T) {
	update := ahead()
	for i := range 9 {
		update.Pods = append(update.Pods, on(fmt.Sprint("n", i%7), makePod(fmt.Sprint("web-", i), old)))
	}
	update.Desired, update.Sets[0].MaxUnavailable = 9, new(intstr.FromInt32(2))
	cluster := simulation{update: update, missing: []string{"n2"}}
	var log []string
	for {
		step := NextPods(cluster.update)
		line := told(step)
		if problem := step.PrePull.Problem(&cluster.update.Sets[0]); problem != nil {
			line += " (" + problem.Reason + ")"
		}
		if len(log) > 0 && log[len(log)-1] == line {
			break
		}
		log = append(log, line)
		cluster.act(step)
	}
	want := []string{
		"create n0 n1 n2 n3 n4",
		"keep n0 n1 n2 n3 n4",
		"update web-0 web-1, keep n0 n1 n2 n3 n4 (ImagePullFailed)",
		"update web-3 web-4, keep n0 n1 n2 n3 n4 (ImagePullFailed)",
		"update web-7 web-8, delete n3 n4, create n5 n6, keep n0 n1 n2 (ImagePullFailed)",
		"delete n0 n1, keep n2 n5 n6 (ImagePullFailed)",
		"update web-5 web-6, keep n2 n5 n6 (ImagePullFailed)",
		"delete n5 n6, keep n2 (ImagePullFailed)",
		"keep n2 (ImagePullFailed)",
	}
	if diff := cmp.Diff(want, log); diff != "" {
		t.Errorf("the log (-want +got):\n%s", diff)
	}
}

// In any fleet: no container is killed before its image is there, a few pulls at a time, each node once, and none is left in the end.
func TestPrePullInRandomFleets(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a fleet has to come again
	for range 500 {
		update := ahead()
		for i := range 1 + random.IntN(20) {
			update.Pods = append(update.Pods, on(fmt.Sprint("n", random.IntN(8)), created(makePod(fmt.Sprint("web-", i), old), time.Duration(random.IntN(100))*time.Second)))
		}
		update.Desired = int32(len(update.Pods))
		update.Sets[0].MaxUnavailable = new(intstr.FromInt32(int32(1 + random.IntN(4))))
		cluster := simulation{update: update}
		created := map[string]int{}
		for steps := 0; ; steps++ {
			step := NextPods(cluster.update)
			for i := range step.Updates {
				node := step.Updates[i].Pod.Node
				if !slices.ContainsFunc(cluster.update.Pulls, func(pull Pull) bool { return pull.Node == node && pull.Pulled }) {
					t.Fatalf("%s is updated on %s, which does not have the image", step.Updates[i].Pod.Name, node)
				}
			}
			for _, pull := range step.PrePull.Create {
				created[pull.Node]++
			}
			if step.Done && len(cluster.update.Pulls) == 0 {
				break
			}
			cluster.act(step)
			if len(cluster.update.Pulls) > maxPulls || steps > 200 {
				t.Fatalf("%d pulls after %d steps", len(cluster.update.Pulls), steps)
			}
		}
		for node, times := range created {
			if times != 1 {
				t.Fatalf("pulled %d times on %s", times, node)
			}
		}
	}
}

func TestAPullIsUnderWayUntilSomethingIsWrong(t *testing.T) {
	late := pulling("n1")
	late.CreatedAt = noon.Add(-pullPatience)
	for name, test := range map[string]struct {
		pulls []Pull
		want  bool
	}{
		"it is to begin":           {nil, true},
		"it is pulling":            {[]Pull{pulling("n1")}, true},
		"the image is there":       {[]Pull{pulled("n1")}, false},
		"it takes long":            {[]Pull{late}, false},
		"the image can not be had": {[]Pull{failing("n1")}, false},
		"the node does not want":   {[]Pull{rejected("n1", time.Second)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			update := ahead(on("n1", makePod("a", old)))
			update.Pulls = test.pulls
			if step := NextPods(update).PrePull; step.IsUnderWay() != test.want {
				t.Errorf("%+v is under way: %t", step, !test.want)
			}
		})
	}
}
