// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

var (
	//go:embed assets/cgroups.sh
	cgroupsScript string
	//go:embed assets/machine.sh
	machineScript string
	//go:embed assets/containerd.toml
	containerdConfig string
	//go:embed assets/registry.toml
	registryConfig string
	//go:embed assets/cni.json
	cniConfig string
	//go:embed assets/egress.yaml
	egressConfig string
	//go:embed assets/kubelet.yaml
	kubeletConfig string
)

// All addresses are in the node's own network.
const (
	nodeAddress     = "10.250.0.1"
	registryAddress = "127.0.0.1:5000"
	metricsAddress  = "127.0.0.1:1338"
	kubeletHealthz  = "http://127.0.0.1:10248/healthz"
)

// Node is a real one: a kubelet over containerd and runc, in namespaces and cgroups of its own. Its pods have addresses of their own.
type Node struct {
	// Images are those that can be pulled.
	Images *Images
	// Kubelet can be stopped and started again: the containers run on meanwhile.
	Kubelet *Process

	network *network
	closers []func() error
}

// Dial connects to an IP address, such as a pod's, from where the node is.
func (n *Node) Dial(ctx context.Context, protocol, address string) (net.Conn, error) {
	return n.network.dial(ctx, protocol, address)
}

// startNode starts a real node; the API server is up.
func (c *Cluster) startNode(ctx context.Context, binDir string) error {
	if err := c.connectNode(ctx); err != nil {
		return fmt.Errorf("connecting the node: %w", err)
	}
	if err := c.configureNode(); err != nil {
		return fmt.Errorf("configuring the node: %w", err)
	}
	containerd, err := c.Run(ctx, Program{
		Name: "containerd",
		Path: "/bin/sh",
		Args: []string{
			"-c", cgroupsScript, "cgroups", c.Dir, "nsenter", "--net=" + c.Node.network.path(), "unshare", "--mount", "--propagation=private",
			"/bin/sh", "-c", machineScript, "machine", nodeAddress,
			filepath.Join(binDir, "containerd"), "--config=" + c.lifeline.path("containerd.toml"),
		},
		Env:     []string{"PATH=" + strings.Join([]string{binDir, filepath.Dir(runc), os.Getenv("PATH")}, ":")}, // for its shim, and runc
		Healthz: "http://" + metricsAddress + "/v1/metrics",
		dial:    c.Node.Dial,
	})
	if err != nil {
		return err
	}
	c.progress("containerd is ready")
	return c.startKubelet(ctx, binDir, containerd)
}

func (c *Cluster) startKubelet(ctx context.Context, binDir string, containerd *Process) error {
	kubeconfig, err := c.kubeconfigFor("kubelet")
	if err != nil {
		return err
	}
	c.Node.Kubelet, err = c.Run(ctx, Program{
		Name: "kubelet",
		Path: "/bin/sh",
		Args: []string{
			"-c", cgroupsScript, "cgroups", c.Dir, "nsenter", "--target=" + strconv.Itoa(containerd.Pid()), "--mount", "--net",
			filepath.Join(binDir, "kubelet"), "--config=" + c.lifeline.path("kubelet.yaml"), "--kubeconfig=" + kubeconfig,
			"--hostname-override=node-0", "--node-ip=" + nodeAddress,
		},
		Healthz: kubeletHealthz,
		dial:    c.Node.Dial,
	})
	if err != nil {
		return err
	}
	c.progress("kubelet is ready")
	return nil
}

// connectNode makes the node's network, and the three ways between it and the rest of the cluster: to the API server under the address that it
// has outside, to the images, and from the API server to the kubelet.
func (c *Cluster) connectNode(ctx context.Context) error {
	images, err := newImages()
	if err != nil {
		return err
	}
	network, err := newNetwork()
	if err != nil {
		return err
	}
	c.Node = &Node{Images: images, network: network, closers: []func() error{network.close}}

	host, err := url.Parse(c.Config.Host)
	if err != nil {
		return err
	}
	toServer, err := network.listen(ctx, host.Host)
	if err != nil {
		return err
	}
	go relay(context.WithoutCancel(ctx), toServer, (&net.Dialer{}).DialContext, host.Host)
	c.Node.closers = append(c.Node.closers, toServer.Close)

	toImages, err := network.listen(ctx, registryAddress)
	if err != nil {
		return err
	}
	c.Node.serve(toImages, images)

	toKubelet, err := (&net.ListenConfig{}).Listen(ctx, "unix", c.lifeline.path("egress.sock"))
	if err != nil {
		return err
	}
	c.Node.serve(toKubelet, tunnel(c.Node.Dial))
	return nil
}

func (n *Node) serve(listener net.Listener, handler http.Handler) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: dialTimeout}
	go func() { _ = server.Serve(listener) }()
	n.closers = append(n.closers, server.Close)
}

// close closes what this process has of the node. The programs have ended.
func (n *Node) close() error {
	var errs []error
	for _, closeOne := range n.closers {
		errs = append(errs, closeOne())
	}
	return errors.Join(errs...)
}

func (c *Cluster) configureNode() error {
	for file, config := range map[string]string{
		"containerd.toml":                containerdConfig,
		"kubelet.yaml":                   kubeletConfig,
		"cni/pods.conflist":              cniConfig,
		"registries/_default/hosts.toml": registryConfig,
	} {
		if err := os.MkdirAll(filepath.Dir(c.lifeline.path(file)), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(c.lifeline.path(file), []byte(c.expand(config)), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// expand replaces ${NAME} in a configuration.
func (c *Cluster) expand(config string) string {
	values := map[string]string{
		"CNI":      cniPlugins,
		"DIR":      c.Dir,
		"METRICS":  metricsAddress,
		"NAME":     filepath.Base(c.Dir),
		"REGISTRY": registryAddress,
	}
	return os.Expand(config, func(name string) string { return values[name] })
}
