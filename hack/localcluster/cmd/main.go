// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

// Command localcluster starts a local Kubernetes control plane, prints how to talk to it, and keeps it until Ctrl-C, or until
// the process that started the command is gone.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

func main() {
	ctx, cancel := localcluster.WithParent(context.Background())
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "localcluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	options := localcluster.Options{Log: os.Stderr}
	flag.StringVar(&options.BinDir, "bin-dir", "", "directory of the Kubernetes binaries (default: the repository's bin/k8s)")
	flag.IntVar(&options.Nodes, "nodes", 1, "number of simulated nodes")
	flag.BoolVar(&options.RealNode, "real-node", false, "have one node that runs containers, which takes root, in place of simulated ones")
	flag.BoolVar(&options.Audit, "audit", false, "write every write request to audit.log in the cluster's directory")
	crds := flag.String("crds", "", "comma-separated files or directories of CustomResourceDefinitions to install")
	check := flag.Bool("check", false, "only say what a real node needs and this machine has not")
	flag.Parse()
	if *check {
		return localcluster.CheckRequirements()
	}
	if *crds != "" {
		options.CRDPaths = strings.Split(*crds, ",")
	}

	cluster, err := localcluster.Start(ctx, options)
	if err != nil {
		return err
	}
	fmt.Printf("export KUBECONFIG=%s\n", cluster.Kubeconfig)
	fmt.Fprintln(os.Stderr, "Ctrl-C ends the cluster and removes all its files.")
	<-ctx.Done()
	return cluster.Stop()
}
