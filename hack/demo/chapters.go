// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

const (
	oldImage = "busybox:1.36"
	newImage = "busybox:1.37"
)

// stepTimeout is for what a user would wait for: a rollout, or the removal of a sidecar.
const stepTimeout = time.Minute

func (d *demo) deployApplication(ctx context.Context) error {
	d.heading("An application, as its users deploy it: one container, five replicas")
	if err := d.apply(ctx, d.application); err != nil {
		return err
	}
	if err := d.waitForRollout(ctx); err != nil {
		return err
	}
	var err error
	d.template, err = d.currentTemplate(ctx)
	return err
}

func (d *demo) addSidecar(ctx context.Context) error {
	d.heading("A SidecarSet: its container, its volume and a mount for the application come into the Deployment")
	if err := d.apply(ctx, d.set); err != nil {
		return err
	}
	if err := d.watchUntilReady(ctx); err != nil {
		return err
	}
	if err := d.kubectl(ctx, "get", "sidecarsets", "-n", d.set.key.Namespace, "-o", "wide"); err != nil {
		return err
	}
	if err := d.showPods(ctx); err != nil {
		return err
	}
	return d.showOwners(ctx)
}

func (d *demo) showOwners(ctx context.Context) error {
	d.print("\nWho owns what in the Deployment, as the API server keeps account of it:")
	deployment := &appsv1.Deployment{}
	if err := d.client.Get(ctx, d.application.key, deployment); err != nil {
		return err
	}
	owners, err := describeOwners(deployment.ManagedFields)
	if err != nil {
		return err
	}
	for _, owner := range owners {
		d.print("  %s", owner.manager)
		for _, item := range owner.owns {
			d.print("    %s", item)
		}
	}
	return nil
}

func (d *demo) updateSidecar(ctx context.Context) error {
	d.heading("Another version of the sidecar: %s becomes %s, in the running pods", oldImage, newImage)
	before, err := d.observeRunning(ctx)
	if err != nil {
		return err
	}
	if !bytes.Contains(d.set.text, []byte(oldImage)) {
		return fmt.Errorf("%s has no image %s to update", example, oldImage)
	}
	d.set.text = bytes.ReplaceAll(d.set.text, []byte(oldImage), []byte(newImage))
	if err := d.apply(ctx, d.set); err != nil {
		return err
	}
	if err := d.watchUntilReady(ctx); err != nil {
		return err
	}
	after, err := d.observeRunning(ctx)
	if err != nil {
		return err
	}
	return d.compareRunning(before, after)
}

func (d *demo) removeSidecar(ctx context.Context) error {
	d.heading("Without the SidecarSet: the Deployment is its users' own again")
	if err := d.kubectl(ctx, "delete", "-f", d.file(d.set), "--timeout="+stepTimeout.String()); err != nil {
		return err
	}
	if err := d.waitForRollout(ctx); err != nil {
		return err
	}
	if err := d.showPods(ctx); err != nil {
		return err
	}
	return d.checkNothingLeft(ctx)
}

// checkNothingLeft compares the Deployment with what it was before there was a SidecarSet.
func (d *demo) checkNothingLeft(ctx context.Context) error {
	template, err := d.currentTemplate(ctx)
	if err != nil {
		return err
	}
	if !bytes.Equal(template, d.template) {
		return fmt.Errorf("the application's template is not what its users applied.\nbefore: %s\nafter:  %s", d.template, template)
	}
	d.print("The template is byte for byte what it was before: %d bytes.", len(template))
	deployment := &appsv1.Deployment{}
	if err := d.client.Get(ctx, d.application.key, deployment); err != nil {
		return err
	}
	isOurs := func(entry metav1.ManagedFieldsEntry) bool { return entry.Manager == v1alpha1.FieldManager }
	if slices.ContainsFunc(deployment.ManagedFields, isOurs) {
		return fmt.Errorf("%s still owns fields of the Deployment", v1alpha1.FieldManager)
	}
	d.print("%s owns no field of the Deployment any more.", v1alpha1.FieldManager)
	return nil
}

// currentTemplate returns the Deployment's template as the API server writes it.
func (d *demo) currentTemplate(ctx context.Context) ([]byte, error) {
	path := fmt.Sprintf("/apis/apps/v1/namespaces/%s/deployments/%s", d.application.key.Namespace, d.application.key.Name)
	out, err := d.kubectlOutput(ctx, "get", "--raw", path)
	if err != nil {
		return nil, err
	}
	var deployment struct {
		Spec struct {
			Template json.RawMessage `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(out, &deployment); err != nil {
		return nil, fmt.Errorf("reading the Deployment: %w", err)
	}
	return deployment.Spec.Template, nil
}

func (d *demo) waitForRollout(ctx context.Context) error {
	return d.kubectl(ctx, "rollout", "status", "deployment/"+d.application.key.Name, "-n", d.application.key.Namespace, "--timeout="+stepTimeout.String())
}

// watchUntilReady shows the set's progress until every pod has today's sidecars, running.
func (d *demo) watchUntilReady(ctx context.Context) error {
	stopWatching, err := d.kubectlInBackground(ctx, "get", "sidecarsets", "-n", d.set.key.Namespace, "--watch")
	if err != nil {
		return err
	}
	defer stopWatching()
	set := &v1alpha1.SidecarSet{}
	err = wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, stepTimeout, true, func(ctx context.Context) (bool, error) {
		err := d.client.Get(ctx, d.set.key, set)
		return err == nil && isComplete(set), client.IgnoreNotFound(err)
	})
	if err != nil {
		return fmt.Errorf("waiting for %s to be ready: %w; its status: %+v", d.set.key.Name, err, set.Status)
	}
	return nil
}

func isComplete(set *v1alpha1.SidecarSet) bool {
	ready := meta.FindStatusCondition(set.Status.Conditions, v1alpha1.ConditionReady)
	return ready != nil && ready.Status == metav1.ConditionTrue && ready.ObservedGeneration == set.Generation &&
		set.Status.Pods > 0 && set.Status.UpdatedReadyPods == set.Status.Pods
}

func (d *demo) showPods(ctx context.Context) error {
	return d.kubectl(ctx, "get", "pods", "-n", d.application.key.Namespace, "-o",
		"custom-columns=POD:.metadata.name,CONTAINERS:.spec.containers[*].name,IMAGES:.spec.containers[*].image,"+
			"READY:.status.containerStatuses[*].ready,RESTARTS:.status.containerStatuses[*].restartCount")
}
