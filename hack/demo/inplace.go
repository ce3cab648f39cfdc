// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// runningContainer is a container of a pod, by what tells whether it was restarted.
type runningContainer struct {
	id       string
	image    string
	restarts int32
}

// running are the containers of the application's pods, as "pod/container", and the names of its ReplicaSets.
type running struct {
	containers  map[string]runningContainer
	replicaSets []string
}

func (d *demo) observeRunning(ctx context.Context) (running, error) {
	result := running{containers: map[string]runningContainer{}}
	var pods corev1.PodList
	if err := d.client.List(ctx, &pods, client.InNamespace(d.application.key.Namespace)); err != nil {
		return running{}, err
	}
	for i := range pods.Items {
		if !pods.Items[i].DeletionTimestamp.IsZero() {
			continue
		}
		for _, status := range pods.Items[i].Status.ContainerStatuses {
			result.containers[pods.Items[i].Name+"/"+status.Name] = runningContainer{id: status.ContainerID, image: status.Image, restarts: status.RestartCount}
		}
	}
	var replicaSets appsv1.ReplicaSetList
	if err := d.client.List(ctx, &replicaSets, client.InNamespace(d.application.key.Namespace)); err != nil {
		return running{}, err
	}
	for i := range replicaSets.Items {
		result.replicaSets = append(result.replicaSets, replicaSets.Items[i].Name)
	}
	slices.Sort(result.replicaSets)
	return result, nil
}

// compareRunning shows the containers before and after an update side by side, and fails when anything but the sidecars was restarted.
func (d *demo) compareRunning(before, after running) error {
	d.print("\nBefore and after, side by side:")
	table := tabwriter.NewWriter(d.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "POD/CONTAINER\tIMAGE\tCONTAINER ID\tRESTARTS\t")
	for _, name := range slices.Sorted(maps.Keys(after.containers)) {
		old, existed := before.containers[name]
		current := after.containers[name]
		if !existed {
			return fmt.Errorf("%s is in a new pod: the update was not made in place", name)
		}
		isSidecar := old.image == oldImage
		if restarted := current.id != old.id; restarted != isSidecar {
			return fmt.Errorf("%s (%s) was restarted: %v", name, current.image, restarted)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t\n", name, change(old.image, current.image), change(short(old.id), short(current.id)),
			change(fmt.Sprint(old.restarts), fmt.Sprint(current.restarts)))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(before.containers) != len(after.containers) || !slices.Equal(before.replicaSets, after.replicaSets) {
		return fmt.Errorf("pods or ReplicaSets are not the same as before: %v, %v", before.replicaSets, after.replicaSets)
	}
	d.print("The pods and the ReplicaSets are the same ones. No container of the application was restarted.")
	return nil
}

func change(before, after string) string {
	if before == after {
		return after
	}
	return before + " -> " + after
}

// short is the beginning of a container's ID, without the name of the runtime.
func short(id string) string {
	if _, bare, found := strings.Cut(id, "://"); found {
		id = bare
	}
	return id[:min(len(id), 8)]
}
