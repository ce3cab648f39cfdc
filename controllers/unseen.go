// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sidecarset/sidecarset/controllers/rollout"
)

// seenWithin is how long at most the cache is waited for to show an update of a pod. It may never show one whose answer was lost.
const seenWithin = 10 * time.Second

// unseen remembers updates of pods until the cache shows them. A decision from a cache that lacks one takes the pod for available, and may make
// another one unavailable besides. Losing it costs nothing: a process that starts lists what is there.
type unseen struct {
	mutex      sync.Mutex
	byWorkload map[types.NamespacedName]map[types.UID]unseenUpdate
}

type unseenUpdate struct {
	record rollout.InPlaceUpdate
	until  time.Time
}

func newUnseen() *unseen {
	return &unseen{byWorkload: map[types.NamespacedName]map[types.UID]unseenUpdate{}}
}

// wait is how long to wait for updates of a workload that its pods, as the cache shows them, do not have; zero when they have all. Those of
// pods that are gone, and those that they have, are forgotten.
func (u *unseen) wait(workload types.NamespacedName, pods []rollout.Pod, now time.Time) time.Duration {
	u.mutex.Lock()
	defer u.mutex.Unlock()
	var wait time.Duration
	lacking := map[types.UID]unseenUpdate{}
	for i := range pods {
		update, ok := u.byWorkload[workload][pods[i].UID]
		if ok && now.Before(update.until) && !update.record.Equal(pods[i].Update) {
			lacking[pods[i].UID] = update
			wait = max(wait, update.until.Sub(now))
		}
	}
	u.byWorkload[workload] = lacking
	if len(lacking) == 0 {
		delete(u.byWorkload, workload)
	}
	return wait
}

// has is true of a pod whose update is remembered: the cache may show half of it.
func (u *unseen) has(workload types.NamespacedName, pod types.UID, now time.Time) bool {
	u.mutex.Lock()
	defer u.mutex.Unlock()
	return now.Before(u.byWorkload[workload][pod].until)
}

func (u *unseen) remember(workload types.NamespacedName, pod types.UID, record rollout.InPlaceUpdate, now time.Time) {
	u.mutex.Lock()
	defer u.mutex.Unlock()
	if u.byWorkload[workload] == nil {
		u.byWorkload[workload] = map[types.UID]unseenUpdate{}
	}
	u.byWorkload[workload][pod] = unseenUpdate{record: record, until: now.Add(seenWithin)}
}

// forget drops the update of a pod that was refused, or all of a workload that is gone.
func (u *unseen) forget(workload types.NamespacedName, pods ...types.UID) {
	u.mutex.Lock()
	defer u.mutex.Unlock()
	for _, pod := range pods {
		delete(u.byWorkload[workload], pod)
	}
	if len(pods) == 0 {
		delete(u.byWorkload, workload)
	}
}
