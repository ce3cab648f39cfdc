// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"

	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

const (
	quotaBackendBytes = "4294967296" // etcd's default of 2 GiB is small for a benchmark without compaction
	auditLogMegabytes = "4096"       // so that it is never rotated: who reads it begins at its beginning
)

// startControlPlane starts etcd and the API server and installs the CRDs.
func (c *Cluster) startControlPlane(ctx context.Context, options Options) error {
	c.env = &envtest.Environment{
		UseExistingCluster:       new(false), // whatever the environment variable of that name says
		CRDDirectoryPaths:        options.CRDPaths,
		ErrorIfCRDPathMissing:    true,
		ControlPlaneStartTimeout: startTimeout,
	}
	etcdLog, serverLog, err := c.createLogs()
	if err != nil {
		return err
	}
	defer etcdLog.Close()
	defer serverLog.Close()
	if err := errors.Join(c.configureEtcd(options, etcdLog), c.configureAPIServer(options, serverLog)); err != nil {
		return err
	}
	// envtest cannot be cancelled. Once the lifeline is cut its processes are gone and it cannot start them again.
	started := make(chan error, 1)
	go func() {
		_, err := c.env.Start()
		started <- err
	}()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case err := <-started:
		if err != nil {
			return fmt.Errorf("starting etcd and kube-apiserver: %w\netcd:\n%s\nkube-apiserver:\n%s", err, lastLines(etcdLog.Name()), lastLines(serverLog.Name()))
		}
	}
	c.Config = c.env.Config
	return errors.Join(os.WriteFile(c.Kubeconfig, c.env.KubeConfig, 0o600), os.WriteFile(c.caFile(), c.Config.CAData, 0o600))
}

func (c *Cluster) createLogs() (etcd, server *os.File, err error) {
	etcd, etcdErr := os.Create(c.logFile("etcd"))
	server, serverErr := os.Create(c.logFile("kube-apiserver"))
	return etcd, server, errors.Join(etcdErr, serverErr)
}

func (c *Cluster) configureEtcd(options Options, log *os.File) error {
	path, err := c.lifeline.wrap("etcd", filepath.Join(options.BinDir, "etcd"))
	if err != nil {
		return err
	}
	port, err := FreePort()
	if err != nil {
		return err
	}
	etcd := &envtest.Etcd{
		Path:    path,
		DataDir: c.lifeline.path("etcd"),
		URL:     &url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", port)},
		Out:     log,
		Err:     log,
	}
	etcd.Configure().Set("quota-backend-bytes", quotaBackendBytes)
	c.env.ControlPlane.Etcd = etcd
	return nil
}

func (c *Cluster) configureAPIServer(options Options, log *os.File) error {
	path, err := c.lifeline.wrap("kube-apiserver", filepath.Join(options.BinDir, "kube-apiserver"))
	if err != nil {
		return err
	}
	port, err := FreePort()
	if err != nil {
		return err
	}
	server := &envtest.APIServer{
		Path:          path,
		CertDir:       c.certDir(),
		SecureServing: envtest.SecureServing{ListenAddr: envtest.ListenAddr{Address: "127.0.0.1", Port: port}},
		Out:           log,
		Err:           log,
	}
	server.Configure().
		Disable("disable-admission-plugins").            // envtest has no controller manager that makes ServiceAccounts; we do
		Set("service-cluster-ip-range", "10.96.0.0/16"). // room for a Service per workload of a benchmark
		Set("max-requests-inflight", "2000").
		Set("max-mutating-requests-inflight", "1000")
	c.env.ControlPlane.APIServer = server
	if options.Audit {
		server.Configure().Set("audit-policy-file", c.lifeline.path("audit-policy.yaml")).Set("audit-log-path", c.auditLog()).
			Set("audit-log-maxsize", auditLogMegabytes)
	}
	if options.RealNode {
		server.Configure().
			Set("egress-selector-config-file", c.lifeline.path("egress.yaml")).
			Set("kubelet-preferred-address-types", "InternalIP") // nobody resolves a node's name
	}
	return errors.Join(
		os.WriteFile(c.lifeline.path("audit-policy.yaml"), auditPolicy, 0o600),
		os.WriteFile(c.lifeline.path("egress.yaml"), []byte(c.expand(egressConfig)), 0o600),
	)
}

// kubeconfigFor provisions an administrator under a component's own name, so that audit logs tell who did what.
func (c *Cluster) kubeconfigFor(component string) (string, error) {
	user, err := c.env.AddUser(envtest.User{Name: "system:" + component, Groups: []string{"system:masters"}}, nil)
	if err != nil {
		return "", fmt.Errorf("provisioning %s: %w", component, err)
	}
	content, err := user.KubeConfig()
	if err != nil {
		return "", fmt.Errorf("provisioning %s: %w", component, err)
	}
	file := c.lifeline.path(component + ".kubeconfig")
	return file, os.WriteFile(file, content, 0o600)
}
