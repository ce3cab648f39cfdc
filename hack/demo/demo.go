// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/hack/localcluster"
)

const (
	example        = "config/samples/classic.yaml"
	operatorBinary = "bin/sidecarset"
)

// demo is what the chapters of the story share.
type demo struct {
	out     io.Writer
	started time.Time
	cluster *localcluster.Cluster
	client  client.Client

	application manifest
	set         manifest
	// template is the application's, as the API server gave it back before any SidecarSet was there.
	template []byte
}

// tell runs the story. If the operator ends, so does the story.
func (d *demo) tell(ctx context.Context) error {
	if err := d.prepare(); err != nil {
		return err
	}
	operator, err := d.startOperator(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-operator.Done():
			cancel(errors.New("the operator ended"))
		case <-ctx.Done():
		}
	}()
	for _, chapter := range []func(context.Context) error{d.deployApplication, d.addSidecar, d.updateSidecar, d.removeSidecar} {
		if err := chapter(ctx); err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return fmt.Errorf("%w\nThe end of the operator's log:\n%s", err, operator.LastLines())
		}
	}
	return nil
}

func (d *demo) prepare() error {
	scheme := clientgoscheme.Scheme
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return err
	}
	var err error
	if d.client, err = client.New(d.cluster.Config, client.Options{Scheme: scheme}); err != nil {
		return err
	}
	file, err := os.ReadFile(example)
	if err != nil {
		return fmt.Errorf("reading the example (the demo must run in the repository's root): %w", err)
	}
	if d.application, d.set, err = splitExample(file); err != nil {
		return fmt.Errorf("reading %s: %w", example, err)
	}
	return nil
}

func (d *demo) startOperator(ctx context.Context) (*localcluster.Process, error) {
	d.heading("The operator: its API, then its process")
	if err := d.kubectl(ctx, "apply", "-k", "config/crd"); err != nil {
		return nil, err
	}
	for _, args := range localcluster.WaitForCRDs() {
		if err := d.kubectl(ctx, args...); err != nil {
			return nil, err
		}
	}
	port, err := localcluster.FreePort()
	if err != nil {
		return nil, err
	}
	probes := net.JoinHostPort("127.0.0.1", port)
	d.print("$ %s --kubeconfig=%s --metrics-bind-address=0 --health-probe-bind-address=%s", operatorBinary, d.cluster.Kubeconfig, probes)
	return d.cluster.Run(ctx, localcluster.Program{
		Name:    "sidecarset",
		Path:    operatorBinary,
		Args:    []string{"--kubeconfig=" + d.cluster.Kubeconfig, "--metrics-bind-address=0", "--health-probe-bind-address=" + probes},
		Healthz: "http://" + probes + "/readyz",
	})
}

// stay keeps everything up, after a failure too, until the user or the death of what started the demo ends it.
func (d *demo) stay(ctx context.Context, failure error) {
	if failure != nil {
		d.print("\nThe demo failed: %v", failure)
	}
	d.heading("All of it stays up until Ctrl-C. In another terminal:")
	d.print("export KUBECONFIG=%s PATH=%s:$PATH", d.cluster.Kubeconfig, absolute(binDir))
	d.print("kubectl apply -f %s", example)
	d.print("kubectl get sidecarsets --watch")
	d.print("tail -f %s", d.cluster.Dir+"/logs/sidecarset.log")
	<-ctx.Done()
}

func (d *demo) heading(format string, args ...any) {
	d.print("\n=== %s (%.0f s)", fmt.Sprintf(format, args...), time.Since(d.started).Seconds())
}

func (d *demo) print(format string, args ...any) {
	fmt.Fprintf(d.out, format+"\n", args...)
}
