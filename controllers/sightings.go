// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// sightings remembers since when containers can not be started, which their status does not tell. Losing it costs a few seconds more of patience.
type sightings struct {
	mutex      sync.Mutex
	byWorkload map[types.NamespacedName]map[sighting]time.Time
}

// sighting is a container in a pod, with an image: another image is another case.
type sighting struct {
	pod              types.UID
	container, image string
}

func newSightings() *sightings {
	return &sightings{byWorkload: map[types.NamespacedName]map[sighting]time.Time{}}
}

// date tells the containers of a workload's pods since when they are failing, which is the given time for those that were not seen to fail before, and
// forgets those that are not.
func (s *sightings) date(workload types.NamespacedName, pods []rollout.Pod, first time.Time) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	before, after := s.byWorkload[workload], map[sighting]time.Time{}
	for i := range pods {
		for name, container := range pods[i].Containers {
			if container.Failing == nil {
				continue
			}
			seen := sighting{pods[i].UID, name, container.Image}
			since, known := before[seen]
			if !known {
				since = first
			}
			after[seen] = since
			container.FailingSince = since
			pods[i].Containers[name] = container
		}
	}
	if s.byWorkload[workload] = after; len(after) == 0 {
		delete(s.byWorkload, workload)
	}
}

func (s *sightings) forget(workload types.NamespacedName) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	delete(s.byWorkload, workload)
}
