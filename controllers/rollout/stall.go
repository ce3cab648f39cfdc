// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

// Stall is why there are no containers of a pod that ought to be there, and since when. Its zero value is none.
type Stall struct {
	Message string
	Since   time.Time
}

// stallOf reads why no container of a pod can be started: it has no node, or has no sandbox there, for want of a volume or a network, say. The image of
// a container has no part in that: it is pulled into the sandbox.
func stallOf(pod *corev1.Pod) (stall Stall) {
	for i := range pod.Status.Conditions {
		switch condition := &pod.Status.Conditions[i]; {
		case condition.Status != corev1.ConditionFalse:
		case condition.Type == corev1.PodScheduled:
			return Stall{fmt.Sprintf("pod %s has no node: %s", pod.Name, condition.Message), condition.LastTransitionTime.Time}
		case condition.Type == corev1.PodReadyToStartContainers:
			stall = Stall{fmt.Sprintf("node %s can not start pod %s: look at its events", pod.Spec.NodeName, pod.Name), condition.LastTransitionTime.Time}
		}
	}
	return stall
}

// stall is why none of a pod's containers can be started, or none be started anew. A kubelet may have taken up an update and not something that came later.
func (p *Pod) stall() Stall {
	if p.Stalled != (Stall{}) || p.Update == nil || p.Observed {
		return p.Stalled
	}
	for name, before := range p.Update.Containers {
		if p.Containers[name].ID == before.ID {
			message := fmt.Sprintf("node %s has not taken up the update of pod %s", p.Node, p.Name)
			if p.Node == "" { // and no scheduler said why
				message = fmt.Sprintf("pod %s has no node", p.Name)
			}
			return Stall{message, p.Update.StartedAt}
		}
	}
	return Stall{}
}

// problem is that of a workload with such a stall, and recheck is in how long it is one; both are zero without a stall.
func (s Stall) problem(now time.Time) (problem *Problem, recheck time.Duration) {
	if s == (Stall{}) {
		return nil, 0
	}
	if remaining := s.Since.Add(applicationFollows).Sub(now); remaining > 0 {
		return nil, remaining
	}
	return &Problem{v1alpha1.ReasonWorkloadStuck, s.Message + ": the workload goes on when that is over"}, 0
}
