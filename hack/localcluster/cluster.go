// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// Options say what a cluster is made of.
type Options struct {
	// BinDir has the binaries that `make kubernetes` builds. Default: bin/k8s of the repository around the working directory.
	BinDir string
	// CRDPaths are files or directories of CustomResourceDefinitions, installed before Start returns.
	CRDPaths []string
	// Nodes is the number of simulated nodes, practically without limits for pods. Default: 1.
	Nodes int
	// RealNode has one node that runs containers, in place of the simulated ones. It needs what CheckRequirements says.
	RealNode bool
	// Audit has the API server write down every write request, for Cluster.Writes.
	Audit bool
	// Log gets a line per step. Default: nothing is logged.
	Log io.Writer
}

// Cluster is a running control plane with ready nodes.
type Cluster struct {
	// Config is the administrator's.
	Config *rest.Config
	// Kubeconfig is the file that says the same as Config.
	Kubeconfig string
	// Dir has all files of the cluster, logs/ among them. It goes with the cluster.
	Dir string
	// ControllerManager can be stopped and started again: nothing rolls out meanwhile.
	ControllerManager *Process
	// Node is the real one, if Options asked for it.
	Node *Node

	env      *envtest.Environment
	lifeline *lifeline
	client   client.Client
	out      io.Writer
	started  time.Time
}

// Start returns when the cluster works: its API is served, ServiceAccounts are made, pods are scheduled, nodes are ready.
// If it cannot, nothing is left of it. The context is for starting only; the caller must Stop the cluster.
func Start(ctx context.Context, options Options) (*Cluster, error) {
	options, err := withDefaults(options)
	if err != nil {
		return nil, err
	}
	lifeline, err := newLifeline()
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		Dir:        lifeline.dir,
		Kubeconfig: lifeline.path("kubeconfig"),
		lifeline:   lifeline,
		out:        options.Log,
		started:    time.Now(),
	}
	if err := c.start(ctx, options); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the local cluster: %w", err), c.Stop())
	}
	return c, nil
}

// Stop ends all of the cluster's processes, those of Run included, and removes its files.
func (c *Cluster) Stop() error {
	err := c.lifeline.cut()
	if c.Node != nil {
		err = errors.Join(err, c.Node.close())
	}
	return err
}

// Pids of all programs that were started in the cluster, those that have ended included.
func (c *Cluster) Pids() ([]int, error) {
	content, err := os.ReadFile(c.lifeline.path("pids"))
	if err != nil {
		return nil, fmt.Errorf("reading who was started: %w", err)
	}
	var pids []int
	for field := range strings.FieldsSeq(string(content)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("reading who was started: %w", err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

func withDefaults(options Options) (Options, error) {
	if options.Nodes == 0 {
		options.Nodes = 1
	}
	if options.Log == nil {
		options.Log = io.Discard
	}
	var err error
	if options.BinDir == "" {
		if options.BinDir, err = findBinDir(); err != nil {
			return options, err
		}
	}
	if options.BinDir, err = filepath.Abs(options.BinDir); err != nil { // a program in another mount namespace has another directory
		return options, err
	}
	if options.RealNode {
		options.Nodes = 1
		if err := CheckRequirements(); err != nil {
			return options, err
		}
	}
	return options, checkBinaries(options)
}

func (c *Cluster) start(ctx context.Context, options Options) error {
	if err := c.startControlPlane(ctx, options); err != nil {
		return err
	}
	c.progress("etcd and kube-apiserver are ready")
	var err error
	if c.client, err = client.New(c.Config, client.Options{}); err != nil {
		return err
	}
	if err := c.startNodes(ctx, options); err != nil {
		return err
	}
	if err := c.waitForServiceAccount(ctx); err != nil {
		return err
	}
	if err := c.waitForNodes(ctx, options.Nodes); err != nil {
		return err
	}
	c.progress("%d node(s) ready", options.Nodes)
	return nil
}

// startNodes starts the nodes, and the components with them. Simulated nodes have to be there before kwok is.
func (c *Cluster) startNodes(ctx context.Context, options Options) error {
	if options.RealNode {
		return errors.Join(c.startComponents(ctx, options), c.startNode(ctx, options.BinDir))
	}
	if err := c.createNodes(ctx, options.Nodes); err != nil {
		return err
	}
	return c.startComponents(ctx, options)
}

// waitForServiceAccount returns when pods can be made in the default namespace, which proves the controller manager.
func (c *Cluster) waitForServiceAccount(ctx context.Context) error {
	key := client.ObjectKey{Namespace: metav1.NamespaceDefault, Name: "default"}
	return waitFor(ctx, "the default ServiceAccount", func(ctx context.Context) (bool, error) {
		err := c.client.Get(ctx, key, &corev1.ServiceAccount{})
		return err == nil, client.IgnoreNotFound(err)
	})
}

// waitForNodes returns when pods can be scheduled, which takes kwok or the kubelet (Ready) and the controller manager (no taint).
func (c *Cluster) waitForNodes(ctx context.Context, count int) error {
	return waitFor(ctx, "the nodes", func(ctx context.Context) (bool, error) {
		var nodes corev1.NodeList
		if err := c.client.List(ctx, &nodes); err != nil {
			return false, err
		}
		isWaiting := func(node corev1.Node) bool { return !isReady(node) || len(node.Spec.Taints) > 0 }
		return len(nodes.Items) == count && !slices.ContainsFunc(nodes.Items, isWaiting), nil
	})
}

func isReady(node corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(condition corev1.NodeCondition) bool {
		return condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue
	})
}

func waitFor(ctx context.Context, what string, condition wait.ConditionWithContextFunc) error {
	if err := wait.PollUntilContextTimeout(ctx, pollInterval, startTimeout, true, condition); err != nil {
		return fmt.Errorf("waiting for %s: %w", what, err)
	}
	return nil
}

func (c *Cluster) progress(format string, args ...any) {
	fmt.Fprintf(c.out, "%5.1fs  %s\n", time.Since(c.started).Seconds(), fmt.Sprintf(format, args...))
}

func (c *Cluster) certDir() string            { return c.lifeline.path("pki") }
func (c *Cluster) caFile() string             { return c.lifeline.path("pki", "ca.crt") }
func (c *Cluster) logFile(name string) string { return c.lifeline.path("logs", name+".log") }
