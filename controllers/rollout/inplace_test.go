// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var noon = time.Unix(10000, 0)

// makePod is a pod that has been ready for a minute, with sidecar "agent" at an image that goes by the name of its revision.
func makePod(name, revision string) Pod {
	since := noon.Add(-time.Minute)
	return Pod{
		Name: name, CreatedAt: noon.Add(-time.Hour), Revisions: map[string]string{"set": revision}, ReadySince: since, Observed: true,
		Containers: map[string]Container{
			"agent": {List: "containers", Index: 1, Image: revision, ID: name + "/agent/0", RunningSince: since, AvailableSince: since},
			"web":   {List: "containers", ID: name + "/web/0", RunningSince: since, AvailableSince: since},
		},
	}
}

func notReady(pod Pod) Pod { pod.ReadySince = time.Time{}; return pod }

func created(pod Pod, ago time.Duration) Pod { pod.CreatedAt = noon.Add(-ago); return pod }

func makeUpdate(pods ...Pod) PodUpdate {
	return PodUpdate{
		Desired: int32(len(pods)), Pods: pods, Now: noon,
		Sets: []SetUpdate{{Key: "set", Revision: current, Sidecars: []corev1.Container{{Name: "agent", Image: current}}}},
	}
}

func names(step PodStep) string {
	var names []string
	for i := range step.Updates {
		names = append(names, step.Updates[i].Pod.Name)
	}
	return strings.Join(names, " ")
}

// updated was updated in place, and its containers have restarted.
func updated(pod Pod) Pod {
	pod.Update = &InPlaceUpdate{Containers: map[string]StartedContainer{"agent": {ID: "before"}}}
	return pod
}

// resized has resources in pod i that an update left which came to nothing.
func (u *PodUpdate) resized(i int) {
	pod := &u.Pods[i]
	agent := pod.Containers["agent"]
	agent.Resources = cpu("20m")
	pod.Containers["agent"], pod.Resized = agent, []string{"set"}
	u.Sets[0].Sidecars[0].Resources = cpu("10m")
}

func cpu(quantity string) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(quantity)}}
}

func allows(allowed, healthy, expected int32) []DisruptionBudget {
	return []DisruptionBudget{{Allowed: allowed, Healthy: healthy, Expected: expected}}
}

func TestNextPods(t *testing.T) {
	percent := func(text string) *intstr.IntOrString { value := intstr.FromString(text); return &value }
	number := func(n int) *intstr.IntOrString { value := intstr.FromInt(n); return &value }
	three := func() PodUpdate { return makeUpdate(makePod("a", old), makePod("b", old), makePod("c", old)) }
	for _, test := range []struct {
		name   string
		update PodUpdate
		change func(*PodUpdate)
		want   string
		state  string // "done", "vacant", "partitioned", "disruption budget"

		recheck time.Duration
	}{
		{name: "one at a time", update: three(), want: "a"},
		{name: "the youngest first", update: makeUpdate(makePod("a", old), created(makePod("b", old), time.Minute)), want: "b"},
		{name: "unavailable ones first, at no cost", update: makeUpdate(makePod("a", old), notReady(makePod("b", old)), notReady(makePod("c", old))), want: "b c"},
		{name: "an unavailable pod of any cause takes the budget", update: makeUpdate(makePod("a", old), notReady(makePod("b", current))), want: ""},
		{name: "a pod that does not exist takes the budget", update: three(), change: func(u *PodUpdate) { u.Desired = 4 }, want: ""},
		{name: "two", update: three(), change: func(u *PodUpdate) { u.Sets[0].MaxUnavailable = number(2) }, want: "a b"},
		{name: "a percentage is rounded down", update: three(), change: func(u *PodUpdate) { u.Sets[0].MaxUnavailable = percent("99%") }, want: "a b"},
		{name: "a percentage is at least one", update: three(), change: func(u *PodUpdate) { u.Sets[0].MaxUnavailable = percent("10%") }, want: "a"},
		{name: "all", update: three(), change: func(u *PodUpdate) { u.Sets[0].MaxUnavailable = percent("100%") }, want: "a b c"},
		{name: "a partition keeps its number", update: three(), change: func(u *PodUpdate) { u.Sets[0].MaxUnavailable, u.Sets[0].Partition = number(3), number(1) }, want: "a b"},
		{name: "a partition is rounded up", update: three(), change: func(u *PodUpdate) { u.Sets[0].MaxUnavailable, u.Sets[0].Partition = number(3), percent("50%") }, want: "a"},
		{name: "a partition that is reached", update: makeUpdate(makePod("a", old), makePod("b", current)), change: func(u *PodUpdate) { u.Sets[0].Partition = number(1) }, want: "", state: "partitioned"},
		{name: "a partition that was raised takes nothing back", update: makeUpdate(makePod("a", current), makePod("b", current)), change: func(u *PodUpdate) { u.Sets[0].Partition = number(2) }, want: "", state: "partitioned"},
		{name: "all are done", update: makeUpdate(makePod("a", current), makePod("b", current)), state: "done"},
		{name: "a mark without the image is not enough", update: makeUpdate(makePod("a", old)), change: func(u *PodUpdate) { u.Pods[0].Revisions["set"] = current }, want: "a"},
		{name: "a mark without the resources is not enough", update: makeUpdate(makePod("a", current)), change: func(u *PodUpdate) { u.resized(0) }, want: "a"},
		{name: "nor does a partition, or a budget, keep the resources of what a pod has from it", update: makeUpdate(makePod("a", current), makePod("b", old)), change: func(u *PodUpdate) {
			u.resized(0)
			u.Sets[0].Partition, u.DisruptionBudgets = number(1), allows(0, 2, 2)
		}, want: "a"},
		{name: "unless the sidecar restarts for them", update: makeUpdate(makePod("a", current), makePod("b", current)), change: func(u *PodUpdate) {
			u.resized(0)
			u.Sets[0].Sidecars[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceCPU, RestartPolicy: corev1.RestartContainer}}
			u.DisruptionBudgets = allows(0, 2, 2)
		}, state: "disruption budget"},
		{name: "a pod without the resources keeps its place in the partition", update: makeUpdate(makePod("a", current), makePod("b", old), created(makePod("c", old), time.Minute)), change: func(u *PodUpdate) {
			u.resized(0)
			u.Sets[0].Partition = number(2)
		}, want: "a"},
		{name: "resources that an update left and somebody put right", update: makeUpdate(makePod("a", current)), change: func(u *PodUpdate) {
			u.resized(0)
			u.Sets[0].Sidecars[0].Resources = u.Pods[0].Containers["agent"].Resources
		}, state: "done"},

		{name: "a sidecar that is not available is not done", update: makeUpdate(makePod("a", current)), change: func(u *PodUpdate) {
			u.Pods[0].Containers["agent"] = Container{Image: current}
		}},
		{name: "a missing pod is not done", update: makeUpdate(makePod("a", current)), change: func(u *PodUpdate) { u.Desired = 2 }},
		{name: "no pod is there", update: makeUpdate(), change: func(u *PodUpdate) { u.Desired = 2 }, state: "vacant"},
		{name: "no pod is there, and a partition", update: makeUpdate(), change: func(u *PodUpdate) { u.Desired, u.Sets[0].Partition = 2, number(1) }, state: "partitioned"},
		{name: "no pod is to be there", update: makeUpdate(), state: "done"},
		{name: "no pod is to be there, and a partition", update: makeUpdate(), change: func(u *PodUpdate) { u.Sets[0].Partition = percent("50%") }, state: "partitioned"},
		{name: "no pod is to be there any more", update: makeUpdate(makePod("a", old)), change: func(u *PodUpdate) { u.Desired = 0 }, state: "vacant"},
		{name: "no pod is to be there any more, and a partition", update: makeUpdate(makePod("a", old)), change: func(u *PodUpdate) {
			u.Desired, u.Sets[0].Partition = 0, number(1)
		}, state: "partitioned"},
		{name: "a pod whose last update the kubelet has not seen is not updated again", update: makeUpdate(makePod("a", old), notReady(makePod("b", old))), change: func(u *PodUpdate) {
			u.Pods[1].Update, u.Pods[1].Observed = &InPlaceUpdate{}, false
			u.Sets[0].MaxUnavailable = number(2)
		}, want: "a"},
		{name: "of pods that a rollout keeps, those that are unavailable", update: makeUpdate(makePod("a", old), notReady(makePod("b", old)), notReady(makePod("c", old))), change: func(u *PodUpdate) {
			u.RollingOut, u.Pods[2].Replaced, u.Sets[0].MaxUnavailable = true, true, number(3)
		}, want: "b"},
		{name: "nothing is built on a pod that may be gone", update: makeUpdate(makePod("a", old), makePod("b", old), replaced(makePod("c", old)), restarting(makePod("d", current))), change: func(u *PodUpdate) {
			u.Desired = 3
		}},
		{name: "nor does a disruption budget know that it is", update: makeUpdate(makePod("a", old), makePod("b", old), replaced(makePod("c", old)), restarting(makePod("d", current))), change: func(u *PodUpdate) {
			u.Desired, u.Sets[0].MaxUnavailable, u.DisruptionBudgets = 3, number(3), allows(1, 3, 3)
		}, state: "disruption budget"},
		{name: "a disruption budget allows one", update: three(), change: func(u *PodUpdate) {
			u.Sets[0].MaxUnavailable, u.DisruptionBudgets = number(3), allows(1, 3, 3)
		}, want: "a"},
		{name: "a disruption budget allows none", update: three(), change: func(u *PodUpdate) { u.DisruptionBudgets = allows(0, 3, 3) }, want: "", state: "disruption budget"},
		{name: "the strictest disruption budget counts", update: three(), change: func(u *PodUpdate) {
			u.DisruptionBudgets = append(allows(2, 3, 3), allows(0, 3, 3)...)
		}, want: "", state: "disruption budget"},
		{name: "a disruption budget does not know of what restarts", update: makeUpdate(restarting(makePod("a", current)), makePod("b", old), makePod("c", old)), change: func(u *PodUpdate) {
			u.Sets[0].MaxUnavailable, u.DisruptionBudgets = number(3), allows(1, 3, 3)
		}, want: "", state: "disruption budget"},
		{name: "a disruption budget does not know of what failed", update: makeUpdate(notReady(makePod("a", current)), makePod("b", old), makePod("c", old)), change: func(u *PodUpdate) {
			u.Sets[0].MaxUnavailable, u.DisruptionBudgets = number(3), allows(1, 3, 3)
		}, want: "", state: "disruption budget"},
		{name: "a disruption budget knows of what failed", update: makeUpdate(notReady(updated(makePod("a", current))), makePod("b", old), makePod("c", old)), change: func(u *PodUpdate) {
			u.Sets[0].MaxUnavailable, u.DisruptionBudgets = number(3), allows(1, 2, 3)
		}, want: "b"},
		{name: "a disruption budget of several workloads may not know of what we updated", update: makeUpdate(notReady(updated(makePod("a", current))), makePod("b", old)), change: func(u *PodUpdate) {
			u.Sets[0].MaxUnavailable, u.DisruptionBudgets = number(2), allows(1, 4, 5)
		}, want: "", state: "disruption budget"},
		{name: "a disruption budget of several workloads counts a pod that a rollout is about to delete", update: three(), change: func(u *PodUpdate) {
			u.Sets[0].MaxUnavailable, u.DisruptionBudgets = number(3), allows(2, 6, 5)
		}, want: "a"},
		{name: "a pod that is ready and not yet available costs a disruption", update: makeUpdate(makePod("a", old)), change: func(u *PodUpdate) {
			u.MinReadySeconds, u.DisruptionBudgets = 100, allows(0, 1, 1)
		}, want: "", state: "disruption budget", recheck: 40 * time.Second},
		{name: "a revision that is new proves itself in one pod first", update: makeUpdate(sinceUpdate(4*time.Second), makePod("b", old)), change: unproven, recheck: time.Second},
		{name: "one that has proven itself", update: makeUpdate(sinceUpdate(5*time.Second), makePod("b", old)), change: unproven, want: "b"},
		{name: "one that has proven itself does not have to again", update: makeUpdate(sinceUpdate(time.Second), makePod("b", current), makePod("c", old)), change: unproven, want: "c"},
		{name: "a revision from before does not have to", update: makeUpdate(sinceUpdate(time.Second), makePod("b", old)), want: "b"},
		{name: "the last pod is done when the revision has proven itself", update: makeUpdate(sinceUpdate(4 * time.Second)), change: unproven, recheck: time.Second},
		{name: "a partition is reached when the revision has proven itself", update: makeUpdate(sinceUpdate(4*time.Second), makePod("b", old)), change: func(u *PodUpdate) {
			unproven(u)
			u.Sets[0].Partition = number(1)
		}, recheck: time.Second},
		{name: "before its turn, no more pods go", update: makeUpdate(makePod("a", old), makePod("b", current)), change: func(u *PodUpdate) {
			u.Sets[0].AwaitsTurn = true
		}, state: "awaiting its turn"},
		{name: "nor one that is unavailable", update: makeUpdate(notReady(makePod("a", old)), makePod("b", current)), change: func(u *PodUpdate) {
			u.Sets[0].AwaitsTurn = true
		}, state: "awaiting its turn"},
		{name: "what went before its turn is done first", update: makeUpdate(sinceUpdate(4*time.Second), makePod("b", old)), change: func(u *PodUpdate) {
			unproven(u)
			u.Sets[0].AwaitsTurn = true
		}, recheck: time.Second},
		{name: "with all at once, nothing is waited for", update: makeUpdate(sinceUpdate(time.Second), makePod("b", old), makePod("c", old)), change: func(u *PodUpdate) {
			unproven(u)
			u.Sets[0].MaxUnavailable = percent("100%")
		}, want: "b c", recheck: 4 * time.Second},
		{name: "one pod after the other is ready for minReadySeconds", update: makeUpdate(sinceUpdate(9*time.Second), makePod("b", old)), change: func(u *PodUpdate) {
			u.Sets[0].MinReadySeconds = 10
		}, recheck: time.Second},
		{name: "a disruption budget is no cause to leave a broken pod alone", update: makeUpdate(makePod("a", current), notReady(makePod("b", old))), change: func(u *PodUpdate) {
			u.DisruptionBudgets = allows(0, 1, 2)
		}, want: "b"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.change != nil {
				test.change(&test.update)
			}
			step := NextPods(test.update)
			if got := names(step); got != test.want {
				t.Errorf("updates %q, want %q", got, test.want)
			}
			state := ""
			switch {
			case step.Done:
				state = "done"
			case step.Vacant:
				state = "vacant"
			case step.Resting["set"] == Partitioned:
				state = "partitioned"
			case step.Resting["set"] == AwaitingTurn:
				state = "awaiting its turn"
			case step.BlockedByDisruptionBudget:
				state = "disruption budget"
			}
			if state != test.state {
				t.Errorf("state %q, want %q", state, test.state)
			}
			if step.Recheck != test.recheck {
				t.Errorf("looks again after %v, want %v", step.Recheck, test.recheck)
			}
			if again := NextPods(test.update); names(again) != names(step) {
				t.Errorf("the same snapshot leads to %q the second time", names(again))
			}
		})
	}
}

// sinceUpdate was updated to the current revision, and its sidecar has been available for some time.
func sinceUpdate(ago time.Duration) Pod {
	pod := updated(makePod("a", current))
	pod.Update.Revisions = map[string]string{"set": current}
	agent := pod.Containers["agent"]
	agent.RunningSince, agent.AvailableSince = noon.Add(-ago), noon.Add(-ago)
	pod.Containers["agent"] = agent
	return pod
}

func unproven(update *PodUpdate) { update.Sets[0].Unproven = true }

func replaced(pod Pod) Pod { pod.Replaced = true; return pod }

// restarting was patched, and looks as it did before: the kubelet has not acted yet.
func restarting(pod Pod) Pod {
	pod.Update = &InPlaceUpdate{StartedAt: noon.Add(-time.Minute), Containers: map[string]StartedContainer{"agent": {ID: pod.Containers["agent"].ID}}}
	return pod
}

func updatedAt(pod Pod, ago time.Duration) Pod { pod.Update.StartedAt = noon.Add(-ago); return pod }

// stopped was patched when its sidecar did not run; it has been started since then.
func stopped(pod Pod, ago time.Duration) Pod {
	pod.Update = &InPlaceUpdate{StartedAt: noon.Add(-ago), Containers: map[string]StartedContainer{"agent": {ID: "before", Stopped: true}}}
	return pod
}

// unstarted can not be started with a revision that has been corrected.
func unstarted(pod Pod) Pod {
	container := pod.Containers["agent"]
	container.Failing, container.FailingSince, container.RunningSince, container.AvailableSince = &Waiting{Reason: "ErrImagePull"}, noon.Add(-time.Minute), time.Time{}, time.Time{}
	pod.Containers["agent"] = container
	return notReady(pod)
}

// What a partition keeps is the old revision, and not one that failed. Pods that work stay as they are.
func TestPodsThatFailedGoBackToWhatAPartitionKeeps(t *testing.T) {
	const broken = "set-1.5"
	kept := SetUpdate{Key: "set", Revision: old, OfFailed: true, Sidecars: []corev1.Container{{Name: "agent", Image: old, Resources: cpu("10m")}}}
	partition := intstr.FromInt32(2)
	resized := makePod("c", old)
	resized.Resized = []string{"set"}
	resized.Containers["agent"] = Container{Image: old, Resources: cpu("20m"), RunningSince: noon.Add(-time.Hour), AvailableSince: noon.Add(-time.Hour)}
	for name, test := range map[string]struct {
		pods    []Pod
		set     func(*SetUpdate)
		want    map[string]string
		recheck time.Duration
	}{
		"one gets the correction, the others go back": {
			pods: []Pod{makePod("a", old), unstarted(makePod("b", broken)), unstarted(makePod("c", broken))},
			want: map[string]string{"b": current, "c": old},
		},
		"one that an update left with other resources than those of what is kept": {
			pods: []Pod{makePod("a", old), makePod("b", current), resized},
			want: map[string]string{"c": old},
		},
		"one that works stays": {
			pods: []Pod{makePod("a", old), makePod("b", current), makePod("c", broken)},
			want: map[string]string{},
		},
		"one that fails with what is kept stays": {
			pods: []Pod{unstarted(makePod("a", old)), makePod("b", current), makePod("c", old)},
			want: map[string]string{},
		},
		"of what is withheld as a whole": {
			pods: []Pod{makePod("a", old), unstarted(makePod("b", broken)), makePod("c", broken)},
			set:  func(set *SetUpdate) { *set = kept },
			want: map[string]string{"b": old},
		},
		"not before it is certain": {
			pods: []Pod{makePod("a", old), makePod("b", current), func() Pod {
				pod := unstarted(makePod("c", broken))
				container := pod.Containers["agent"]
				container.FailingSince = noon.Add(-time.Second)
				pod.Containers["agent"] = container
				return pod
			}()},
			want:    map[string]string{},
			recheck: 2 * time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			update := makeUpdate(test.pods...)
			set := &update.Sets[0]
			set.Partition, set.Kept = &partition, &kept
			if test.set != nil {
				test.set(set)
			}
			step := NextPods(update)
			got := map[string]string{}
			for i := range step.Updates {
				got[step.Updates[i].Pod.Name] = step.Updates[i].Revisions()["set"]
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("updates (-want +got):\n%s", diff)
			}
			if step.Recheck != test.recheck {
				t.Errorf("looks again after %v, want %v", step.Recheck, test.recheck)
			}
		})
	}
}

// A pod that went back holds its place until its sidecars are available again, like one that was updated.
func TestAPodThatWentBackHoldsItsPlace(t *testing.T) {
	back := makePod("c", old)
	back.Update = &InPlaceUpdate{Revisions: map[string]string{"set": old}, StartedAt: noon.Add(-time.Second)}
	container := back.Containers["agent"]
	container.AvailableSince = noon.Add(-time.Second)
	back.Containers["agent"] = container
	update := makeUpdate(makePod("a", old), makePod("b", current), back, makePod("d", old))
	set, partition := &update.Sets[0], intstr.FromInt32(2)
	set.Partition, set.MinReadySeconds = &partition, 60
	set.Kept = &SetUpdate{Key: "set", Revision: old, OfFailed: true, MinReadySeconds: 60, Sidecars: []corev1.Container{{Name: "agent", Image: old}}}
	if step := NextPods(update); len(step.Updates) > 0 || step.Recheck != 59*time.Second {
		t.Errorf("updates %q, looks again after %v", names(step), step.Recheck)
	}
}

// A refusal of what a pod goes back to is to be told from one of what another set brings.
func TestAPodGoesBackAlone(t *testing.T) {
	update := makeUpdate(makePod("a", old), unstarted(makePod("b", "set-1.5")))
	set, partition := &update.Sets[0], intstr.FromInt32(2)
	set.Partition, set.Kept = &partition, &SetUpdate{Key: "set", Revision: old, OfFailed: true, Sidecars: []corev1.Container{{Name: "agent", Image: old}}}
	update.Sets = append(update.Sets, SetUpdate{Key: "other", Revision: current, MaxUnavailable: set.MaxUnavailable})
	step := NextPods(update)
	if names(step) != "b" || len(step.Updates[0].Sets) != 1 || step.Updates[0].Sets[0].Revision != old {
		t.Errorf("%+v", step.Updates)
	}
}

// A set is not at rest because a partition keeps another one.
func TestSetsSettleOneByOne(t *testing.T) {
	pod := makePod("a", old)
	pod.Revisions["other"], pod.Containers["other"] = current, Container{List: "containers", Index: 2, Image: current, ID: "a/other/1", RunningSince: noon}
	update := makeUpdate(pod)
	partition := intstr.FromInt32(1)
	update.Sets[0].Partition = &partition
	update.Sets = append(update.Sets, SetUpdate{Key: "other", Revision: current, Sidecars: []corev1.Container{{Name: "other", Image: current}}})
	step := NextPods(update)
	if step.Resting["set"] != Partitioned || step.Resting["other"] != "" {
		t.Errorf("at rest: %v", step.Resting)
	}
	update.Sets[1].Revision, update.DisruptionBudgets = "set-3", allows(0, 1, 1)
	if step := NextPods(update); !step.BlockedByDisruptionBudget || step.Resting["set"] != Partitioned || step.Resting["other"] != "" {
		t.Errorf("with another set that waits for a budget, at rest: %v", step.Resting)
	}
	update.Sets[0].AwaitsTurn = true
	if step := NextPods(update); step.Resting["set"] != Partitioned {
		t.Errorf("when its turn would change nothing, at rest: %v", step.Resting)
	}
	update.Sets[0].Partition = nil
	if step := NextPods(update); step.Resting["set"] != AwaitingTurn || step.Done {
		t.Errorf("before its turn, at rest: %v", step.Resting)
	}
	kept := update
	kept.Desired, kept.Sets = 3, []SetUpdate{{Key: "set", Revision: old, AwaitsTurn: true}, update.Sets[1]}
	kept.Sets[1].Partition = new(intstr.FromInt32(3))
	if step := NextPods(kept); step.Resting["set"] != Partitioned || step.Resting["other"] != Partitioned {
		t.Errorf("when its pods have it, and another set is kept, at rest: %v", step.Resting)
	}
	update.Sets[1].Revision = current
	if !update.Sets[0].IsBehind(update.Pods, noon) || update.Sets[1].IsBehind(update.Pods, noon) {
		t.Error("only the set that is kept has a pod to bring its revision to")
	}
}

func TestIsRestarting(t *testing.T) {
	agent := func(container Container) func(*Pod) { return func(p *Pod) { p.Containers["agent"] = container } }
	for name, test := range map[string]struct {
		pod            Pod
		change         func(*Pod)
		restarting     bool
		updatable      bool
		untilRestarted time.Duration
		untilUpdatable time.Duration
	}{
		"never updated":                    {pod: makePod("a", current), updatable: true},
		"as it was patched":                {pod: restarting(makePod("a", current)), restarting: true},
		"the kubelet has not seen it":      {pod: restarting(makePod("a", current)), change: func(p *Pod) { p.Observed = false }, restarting: true},
		"not seen, with another container": {pod: updated(makePod("a", current)), change: func(p *Pod) { p.Observed = false }, restarting: true},
		"the container is gone":            {pod: updated(makePod("a", current)), change: agent(Container{}), restarting: true, updatable: true},
		"another container runs":           {pod: updated(makePod("a", current)), updatable: true},
		"nothing was to restart":           {pod: restarting(makePod("a", current)), change: func(p *Pod) { p.Update.Containers = nil }, updatable: true},
		"it can not be started":            {pod: restarting(makePod("a", current)), change: agent(Container{ID: "a/agent/0", Failing: &Waiting{}}), restarting: true, updatable: true},
		"it may have been started before":  {pod: stopped(makePod("a", current), 2*time.Second), restarting: true, untilRestarted: 3 * time.Second, untilUpdatable: 3 * time.Second},
		"it was stopped a while ago":       {pod: updatedAt(restarting(makePod("a", current)), 20*time.Second), change: agent(Container{ID: "a/agent/0", Image: current}), restarting: true, untilUpdatable: 40 * time.Second},
		"it is not started again":          {pod: updatedAt(restarting(makePod("a", current)), time.Minute), change: agent(Container{ID: "a/agent/0", Image: current}), restarting: true, updatable: true},
		"it was started afterwards":        {pod: stopped(makePod("a", current), time.Minute), updatable: true},
	} {
		t.Run(name, func(t *testing.T) {
			if test.change != nil {
				test.change(&test.pod)
			}
			if got := test.pod.isRestarting(noon); got != test.restarting {
				t.Errorf("restarting: %v", got)
			}
			if wait, got := test.pod.untilUpdatable(noon); got != test.updatable || max(0, wait) != test.untilUpdatable {
				t.Errorf("can be updated: %v, or after %v", got, wait)
			}
			if update := makeUpdate(test.pod); NextPods(update).Recheck != test.untilRestarted {
				t.Errorf("looks after it again after %v", NextPods(update).Recheck)
			}
			test.pod.Revisions = map[string]string{"set": old}
			if update := makeUpdate(test.pod); NextPods(update).Recheck != test.untilUpdatable {
				t.Errorf("updates it after %v", NextPods(update).Recheck)
			}
		})
	}
}

func TestWhatNobodyDeclaresIsLeftInAPod(t *testing.T) {
	list := func(quantities string) corev1.ResourceList {
		var result corev1.ResourceList
		for pair := range strings.FieldsSeq(quantities) {
			name, quantity, _ := strings.Cut(pair, "=")
			if result == nil {
				result = corev1.ResourceList{}
			}
			result[corev1.ResourceName(name)] = resource.MustParse(quantity)
		}
		return result
	}
	of := func(requests, limits string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Requests: list(requests), Limits: list(limits)}
	}
	none := of("", "")
	for name, test := range map[string]struct {
		live, declared, wanted corev1.ResourceRequirements
		resize                 *corev1.ResourceRequirements
	}{
		"what an autoscaler requested":               {of("cpu=1", ""), none, none, nil},
		"beside what is declared":                    {of("cpu=1 memory=1Gi", ""), of("cpu=1", ""), of("cpu=1", ""), nil},
		"beside what changes":                        {of("cpu=1 memory=1Gi", ""), of("cpu=1", ""), of("cpu=2", ""), new(of("cpu=2 memory=1Gi", ""))},
		"what a revision brought that failed":        {of("cpu=1 memory=1Gi", "memory=1Gi"), of("cpu=1", ""), of("cpu=1", ""), nil},
		"but what was declared goes":                 {of("cpu=1 memory=1Gi", "memory=1Gi"), of("cpu=1", "memory=1Gi"), of("cpu=1", ""), new(of("cpu=1", ""))},
		"and what is declared and differs is set so": {of("cpu=2", ""), of("cpu=1", ""), of("cpu=1", ""), new(of("cpu=1", ""))},
	} {
		t.Run(name, func(t *testing.T) {
			pod := makePod("a", old)
			container := pod.Containers["agent"]
			container.Resources = test.live
			pod.Containers["agent"] = container
			patch := PodPatch{Pod: pod, Sets: []SetUpdate{{
				Key: "set", Sidecars: []corev1.Container{{Name: "agent", Resources: test.wanted}}, Declared: map[string]corev1.ResourceRequirements{"agent": test.declared},
			}}}
			want := map[string]corev1.ResourceRequirements{}
			if test.resize != nil {
				want["agent"] = *test.resize
			}
			if diff := cmp.Diff(want, patch.Resources(), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("resources (-want +got):\n%s", diff)
			}
			if patch.Resizes("set") != (test.resize != nil) || patch.Resizes("other") {
				t.Error("it says that another set resizes the pod")
			}
		})
	}
}

func TestPodPatch(t *testing.T) {
	limits := func(cpu string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": resource.MustParse(cpu)}}
	}
	patch := PodPatch{Pod: makePod("a", old), Sets: []SetUpdate{
		{Key: "set", Revision: current, Sidecars: []corev1.Container{{Name: "agent", Image: current, Resources: limits("1")}}},
		{Key: "other", Revision: "other-1", Sidecars: []corev1.Container{{Name: "web"}}},
	}}
	if diff := cmp.Diff(map[string]string{"agent": current}, patch.Images()); diff != "" {
		t.Errorf("images (-want +got):\n%s", diff)
	}
	want := corev1.ResourceRequirements{Limits: limits("1").Limits, Requests: limits("1").Limits}
	if diff := cmp.Diff(map[string]corev1.ResourceRequirements{"agent": want}, patch.Resources()); diff != "" {
		t.Errorf("resources (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"set": current, "other": "other-1"}, patch.Revisions()); diff != "" {
		t.Errorf("revisions (-want +got):\n%s", diff)
	}
	record := patch.Record(noon)
	if diff := cmp.Diff(map[string]StartedContainer{"agent": {ID: "a/agent/0"}}, record.Containers); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
}

// A record says what a container was like, and keeps what has still to restart of an earlier update.
func TestRecord(t *testing.T) {
	dead := restarting(makePod("a", current))
	dead.Containers["agent"] = Container{ID: "a/agent/0", Image: current, Failing: &Waiting{}}
	agent := SetUpdate{Key: "set", Revision: "set-3", Sidecars: []corev1.Container{{Name: "agent", Image: "set-3"}}}
	web := SetUpdate{Key: "other", Revision: "other-2", Sidecars: []corev1.Container{{Name: "web", Image: "web-2"}}}
	for name, test := range map[string]struct {
		patch PodPatch
		want  map[string]StartedContainer
	}{
		"one that runs":                   {PodPatch{Pod: makePod("a", old), Sets: []SetUpdate{agent}}, map[string]StartedContainer{"agent": {ID: "a/agent/0"}}},
		"one that can not be started":     {PodPatch{Pod: dead, Sets: []SetUpdate{agent}}, map[string]StartedContainer{"agent": {ID: "a/agent/0", Stopped: true}}},
		"one that has still to restart":   {PodPatch{Pod: dead, Sets: []SetUpdate{web}}, map[string]StartedContainer{"agent": {ID: "a/agent/0"}, "web": {ID: "a/web/0"}}},
		"one that restarted meanwhile":    {PodPatch{Pod: updated(makePod("a", current)), Sets: []SetUpdate{web}}, map[string]StartedContainer{"web": {ID: "a/web/0"}}},
		"one that was just being started": {PodPatch{Pod: stopped(makePod("a", current), time.Minute), Sets: []SetUpdate{web}}, map[string]StartedContainer{"web": {ID: "a/web/0"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, test.patch.Record(noon).Containers); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A pod has resources of nobody knows which revisions. What is known of a set that is updated is known; of the others it is not.
func TestRecordOfWhatAResizeLeft(t *testing.T) {
	pod := makePod("a", old)
	pod.Resized = []string{"other", "set"}
	patch := PodPatch{Pod: pod, Sets: []SetUpdate{{Key: "set", Revision: current}}}
	if diff := cmp.Diff([]string{"other"}, patch.Record(noon).Resized); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestUntilHopeless(t *testing.T) {
	since := func(ago time.Duration) Container { return Container{RunningSince: noon.Add(-ago)} }
	for name, test := range map[string]struct {
		name      string
		container Container
		wait      time.Duration
		hopeless  bool
	}{
		"all is well":                           {"agent", makePod("b", old).Containers["agent"], 0, false},
		"a sidecar can not be started":          {"agent", Container{Failing: &Waiting{}}, 0, true},
		"a sidecar is being started":            {"agent", Container{}, 0, false},
		"a sidecar is getting ready":            {"agent", since(10 * time.Second), 20 * time.Second, false},
		"a sidecar does not get ready":          {"agent", since(30 * time.Second), 0, true},
		"the application can not be started":    {"web", Container{Failing: &Waiting{}}, 0, false},
		"the application does not become ready": {"web", since(time.Hour), 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			pod := makePod("b", old)
			pod.Containers[test.name] = test.container
			update := makeUpdate(makePod("a", old), pod)
			if wait, hopeless := update.UntilHopeless(); wait != test.wait || hopeless != test.hopeless {
				t.Errorf("hopeless: %v, or after %v", hopeless, wait)
			}
		})
	}
}

func TestRounding(t *testing.T) {
	for _, test := range []struct {
		value                     string
		pods                      int32
		maxUnavailable, partition int32
	}{
		{"1", 1, 1, 1},
		{"1", 2, 1, 1},
		{"1", 3, 1, 1},
		{"2", 1, 2, 1},
		{"50%", 1, 1, 1},
		{"50%", 2, 1, 1},
		{"50%", 3, 1, 2},
		{"50%", 10, 5, 5},
		{"10%", 1, 1, 1},
		{"10%", 2, 1, 1},
		{"10%", 3, 1, 1},
		{"10%", 19, 1, 2},
		{"100%", 3, 3, 3},
		{"0%", 3, 1, 0},
		{"0", 3, 1, 0},
	} {
		t.Run(fmt.Sprintf("%s of %d", test.value, test.pods), func(t *testing.T) {
			value := intstr.Parse(test.value)
			if got := MaxUnavailable(&value, test.pods); got != test.maxUnavailable {
				t.Errorf("maxUnavailable %d, want %d", got, test.maxUnavailable)
			}
			if got := Partition(&value, test.pods); got != test.partition {
				t.Errorf("partition %d, want %d", got, test.partition)
			}
		})
	}
	if MaxUnavailable(nil, 3) != 1 || Partition(nil, 3) != 0 {
		t.Error("the defaults are not 1 and 0")
	}
}
