// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/discovery"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/hack/localcluster"
)

const (
	operatorNamespace = "sidecarset-system"
	serviceAccount    = "sidecarset-controller-manager"
	operatorUser      = "system:serviceaccount:" + operatorNamespace + ":" + serviceAccount
	// bareLoopAgent tells the bare loop from the operator: both are the same user.
	bareLoopAgent = "bare-loop"
	namespace     = "fleet"
)

const (
	// patience is for one step of a scenario.
	patience = 15 * time.Minute
	// quiet is for how long nobody writes before a step counts as over: longer than the operator and the simulated kubelet wait for anything.
	quiet        = 2500 * time.Millisecond
	pollInterval = 250 * time.Millisecond
	// restInterval is the rest before what is compared with each other.
	restInterval = 10 * time.Second
	// progressInterval is how often a step that takes long says how far it is.
	progressInterval = 5 * time.Second
)

// bench is a cluster on which something is measured.
type bench struct {
	options
	out     io.Writer
	started time.Time
	cluster *localcluster.Cluster
	// client makes the users' requests, bare those of the bare loop.
	client, bare client.Client
	// server makes those that are about no object.
	server   rest.Interface
	requests *localcluster.WriteReader
	// operatorKubeconfig is a file that lets in the operator's ServiceAccount.
	operatorKubeconfig string
	// operator is nil while none runs.
	operator *operator
}

// newBench starts a cluster and installs what the operator needs, as a user does. The caller stops the cluster.
func newBench(ctx context.Context, o options, out io.Writer) (*bench, error) {
	ctrllog.SetLogger(klog.Background())
	b := &bench{options: o, out: out, started: time.Now()}
	return b, b.start(ctx)
}

// renew goes on with another cluster. No operator may run.
func (b *bench) renew(ctx context.Context) error {
	before := b.cluster
	if err := b.start(ctx); err != nil {
		return err
	}
	return before.Stop()
}

// start starts a cluster. When it fails, the bench has the one that it had.
func (b *bench) start(ctx context.Context) error {
	cluster, err := localcluster.Start(ctx, localcluster.Options{Audit: true})
	if err != nil {
		return err
	}
	before := b.cluster
	b.cluster = cluster
	if err := b.prepare(ctx); err != nil {
		b.cluster = before
		return errors.Join(err, cluster.Stop())
	}
	return nil
}

func (b *bench) prepare(ctx context.Context) error {
	for _, args := range append([][]string{
		{"create", "namespace", namespace},
		{"apply", "-f", inRepository("config/manager/namespace.yaml")},
		{"apply", "-k", inRepository("config/rbac")},
		{"apply", "-k", inRepository("config/crd")},
	}, localcluster.WaitForCRDs()...) {
		if _, err := b.kubectl(ctx, args...); err != nil {
			return err
		}
	}
	if err := v1alpha1.AddToScheme(clientgoscheme.Scheme); err != nil {
		return err
	}
	if err := b.writeOperatorKubeconfig(ctx); err != nil {
		return err
	}
	bareConfig, err := clientcmd.BuildConfigFromFlags("", b.operatorKubeconfig)
	if err != nil {
		return err
	}
	if b.client, err = unlimitedClient(b.cluster.Config, "bench"); err != nil {
		return err
	}
	if b.bare, err = unlimitedClient(bareConfig, bareLoopAgent); err != nil {
		return err
	}
	server, err := discovery.NewDiscoveryClientForConfig(b.cluster.Config)
	if err != nil {
		return err
	}
	b.server = server.RESTClient()
	b.requests = b.cluster.WriteReader()
	b.say("the cluster is ready")
	return nil
}

func unlimitedClient(config *rest.Config, userAgent string) (client.Client, error) {
	config = rest.CopyConfig(config)
	config.QPS, config.UserAgent = -1, userAgent
	return client.New(config, client.Options{})
}

// writeOperatorKubeconfig lets the operator in with no more than its ServiceAccount's permissions.
func (b *bench) writeOperatorKubeconfig(ctx context.Context) error {
	token, err := b.kubectl(ctx, "create", "token", serviceAccount, "--namespace", operatorNamespace, "--duration=24h")
	if err != nil {
		return err
	}
	config, err := clientcmd.LoadFromFile(b.cluster.Kubeconfig)
	if err != nil {
		return err
	}
	for name := range config.AuthInfos {
		config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: strings.TrimSpace(token)}
	}
	b.operatorKubeconfig = filepath.Join(b.cluster.Dir, "operator.kubeconfig")
	return clientcmd.WriteToFile(*config, b.operatorKubeconfig)
}

func (b *bench) kubectl(ctx context.Context, args ...string) (string, error) {
	flags := []string{"--kubeconfig", b.cluster.Kubeconfig, "--cache-dir", filepath.Join(b.cluster.Dir, "kubectl")}
	command := exec.CommandContext(ctx, inRepository("bin/k8s/kubectl"), append(flags, args...)...)
	var stderr strings.Builder
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out), nil
}

// inRepository is a path from where this runs: the repository's root, or for its tests, their package.
func inRepository(path string) string {
	if _, err := os.Stat("go.mod"); err != nil {
		return filepath.Join("..", "..", path)
	}
	return path
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.out, "%6.1fs  %s\n", time.Since(b.started).Seconds(), fmt.Sprintf(format, args...))
}

// explain adds what the operator said last to an error: its log goes with the cluster.
func (b *bench) explain(err error) error {
	if b.operator == nil {
		return err
	}
	return fmt.Errorf("%w\nThe end of the operator's log:\n%s", err, b.operator.process.LastLines())
}

// condition tells how far a step is, and whether it is there.
type condition func(ctx context.Context) (progress string, done bool, err error)

// await polls until a condition holds, and says now and then how far it is.
func (b *bench) await(ctx context.Context, what string, met condition) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("%s was not done after %s", what, patience))
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	said := time.Now()
	for {
		progress, done, err := met(ctx)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("%w: %s", context.Cause(ctx), progress)
		case err != nil || done:
			return err
		case time.Since(said) > progressInterval:
			said = time.Now()
			b.say("  %s: %s", what, progress)
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}
