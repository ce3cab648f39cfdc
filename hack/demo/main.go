// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

// Command demo tells the whole story of a SidecarSet on a local cluster: an application that knows nothing of sidecars gets
// one, the sidecar is updated, and taken out again. What a user would type is run, and shown, as kubectl commands.
// It fails unless everything ends as promised, so that it is a test as well.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

// timeout is for the whole story: a minute on an idle machine.
const timeout = 5 * time.Minute

func main() {
	keep := flag.Bool("keep", false, "leave the cluster, the operator and the application up until Ctrl-C")
	flag.Parse()

	ctx, cancel := localcluster.WithParent(context.Background())
	defer cancel()
	if err := run(ctx, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "\nThe demo failed:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, keep bool) (err error) {
	d := &demo{out: os.Stdout, started: time.Now()}
	story, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("it was not done after %s", timeout))
	defer cancel()

	d.heading("A cluster on this machine: etcd, API server, controller manager, scheduler; its nodes and containers are simulated")
	d.cluster, err = localcluster.Start(story, localcluster.Options{Log: d.out})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.cluster.Stop()) }()

	if err = d.tell(story); err == nil {
		d.heading("Success: the sidecar came, was updated and went, and the application's template is what its users applied")
	}
	if keep {
		d.stay(ctx, err)
	}
	return err
}
