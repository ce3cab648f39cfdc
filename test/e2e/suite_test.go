// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

// Package e2e tests the operator as its users meet it: its binary runs beside a control plane with the real controller manager, with no
// more than the permissions of config/rbac; people work with kubectl. A spec looks at what is in the cluster afterwards, and into the API
// server's audit log for who wrote what.
package e2e

import (
	"flag"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/hack/localcluster"
)

const (
	binDir = "../../bin/k8s"
	// timeout is for what takes a few seconds on an idle machine.
	timeout  = time.Minute
	interval = 100 * time.Millisecond
	// settled is for how long nothing may happen before a spec believes that nothing more will: longer than the operator waits for
	// neighbours of an order slip.
	settled = 3 * time.Second
)

// realNode says where pods run: on a real node, or on simulated ones. Each spec is for one of the two.
var realNode = flag.Bool("real-node", false, "run the specs that look at real containers, and only those; takes Linux and root")

// onRealNode marks the specs that look at real containers.
var onRealNode = Label("RealNode")

var (
	cluster  *localcluster.Cluster
	operator *localcluster.Process
	// operatorBinary is the file that it was built to.
	operatorBinary string
	k8s            client.Client
	// shop is the namespace of the running spec, and of nobody else.
	shop *namespace
)

func TestEndToEnd(t *testing.T) {
	RegisterFailHandler(Fail)
	klog.LogToStderr(false)
	klog.SetOutput(GinkgoWriter) // what operators say that run in this process
	SetDefaultEventuallyTimeout(timeout)
	SetDefaultEventuallyPollingInterval(interval)
	SetDefaultConsistentlyDuration(settled)
	SetDefaultConsistentlyPollingInterval(interval)
	EnforceDefaultTimeoutsWhenUsingContexts()
	suite, reporter := GinkgoConfiguration()
	where := "!" + onRealNode[0]
	if *realNode {
		where = onRealNode[0]
	}
	suite.LabelFilter = where
	RunSpecs(t, "End to end", suite, reporter)
}

var _ = BeforeSuite(func(ctx SpecContext) {
	binary := startBuild()
	expectNothingLeft()
	var err error
	cluster, err = localcluster.Start(ctx, localcluster.Options{BinDir: binDir, RealNode: *realNode, Audit: true, Log: GinkgoWriter})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() error { return cluster.Stop() })

	scheme := clientgoscheme.Scheme
	Expect(v1alpha1.AddToScheme(scheme)).To(Succeed())
	config := *cluster.Config
	config.QPS = -1 // the specs' own reads are to wait for nothing
	k8s, err = client.New(&config, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())

	install(ctx)
	operatorBinary = binary()
	operator, err = cluster.Run(ctx, localcluster.Program{
		Name: "sidecarset",
		Path: operatorBinary,
		Args: []string{"--kubeconfig=" + operatorKubeconfig(ctx), "--metrics-bind-address=0", "--health-probe-bind-address=0"},
	})
	Expect(err).NotTo(HaveOccurred())
})

var _ = BeforeEach(func(ctx SpecContext) {
	shop = newNamespace(ctx)
})

// What helps to understand a failure is gone with the cluster.
var _ = JustAfterEach(func(ctx SpecContext) {
	if CurrentSpecReport().Failed() {
		shop.describe(ctx)
	}
})

// install installs what a cluster needs before the operator can run in it, as a user does.
func install(ctx SpecContext) {
	GinkgoHelper()
	admin := &namespace{name: operatorNamespace}
	admin.kubectl(ctx, "apply", "-f", filepath.Join("..", "..", "config", "manager", "namespace.yaml"))
	admin.kubectl(ctx, "apply", "-k", filepath.Join("..", "..", "config", "rbac"))
	admin.kubectl(ctx, "apply", "-k", filepath.Join("..", "..", "config", "crd"))
	for _, args := range localcluster.WaitForCRDs() {
		admin.kubectl(ctx, args...)
	}
}
