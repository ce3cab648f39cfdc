// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

// The operator: it brings Deployments to what SidecarSets declare. See controllers/doc.go for how.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/config"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers"
	"github.com/sidecarset/sidecarset/controllers/garbage"
)

// leaderElectionID names the Lease that replicas of the operator compete for.
const leaderElectionID = "sidecarset.apps.sidecarset.io"

// options are the operator's flags.
type options struct {
	metricsAddress      string
	metricsSecure       bool
	probeAddress        string
	leaderElect         bool
	namespaces          []string
	operatorNamespace   string
	concurrentWorkloads int
	qps                 float64
	burst               int
	zap                 zap.Options
}

func main() {
	if err := run(ctrl.SetupSignalHandler(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "sidecarset: %v\n", err)
		os.Exit(1)
	}
}

// run starts the operator and returns when ctx is done or the manager failed.
func run(ctx context.Context, arguments []string, help io.Writer) error {
	options, err := parse(arguments, help)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	logger := zap.New(zap.UseFlagOptions(&options.zap))
	ctrl.SetLogger(logger)
	klog.SetLogger(logger)

	restConfig, err := config.GetConfig()
	if err != nil {
		return fmt.Errorf("finding the cluster (set --kubeconfig or KUBECONFIG, or run in a pod): %w", err)
	}
	options.configure(restConfig)
	mgr, err := newManager(restConfig, options)
	if err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" { // which is a pace of the user's.
		debug.SetGCPercent(garbage.Percent)
		if err := mgr.Add(garbage.Pacer{}); err != nil {
			return fmt.Errorf("adding the pace of the garbage collector: %w", err)
		}
	}
	if err := controllers.Setup(ctx, mgr, controllers.Options{
		OperatorNamespace:   options.operatorNamespace,
		ConcurrentWorkloads: options.concurrentWorkloads,
	}); err != nil {
		return err
	}
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("running the manager: %w", err)
	}
	return nil
}

func newManager(restConfig *rest.Config, options *options) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("registering types: %w", err)
	}
	metrics := metricsserver.Options{BindAddress: options.metricsAddress, SecureServing: options.metricsSecure}
	if options.metricsSecure {
		metrics.FilterProvider = filters.WithAuthenticationAndAuthorization
		metrics.TLSOpts = []func(*tls.Config){func(config *tls.Config) { config.MinVersion = tls.VersionTLS13 }}
	}
	mgr, err := ctrl.NewManager(restConfig, ctrl.Options{
		Scheme:                        scheme,
		Cache:                         controllers.CacheOptions(options.namespaces),
		Metrics:                       metrics,
		HealthProbeBindAddress:        options.probeAddress,
		LeaderElection:                options.leaderElect,
		LeaderElectionID:              leaderElectionID,
		LeaderElectionNamespace:       options.operatorNamespace,
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return nil, fmt.Errorf("creating the manager: %w", err)
	}
	if err := errors.Join(mgr.AddHealthzCheck("ping", healthz.Ping), mgr.AddReadyzCheck("ping", healthz.Ping)); err != nil {
		return nil, fmt.Errorf("adding health checks: %w", err)
	}
	return mgr, nil
}

// parse reads the flags. Its errors are one sentence that says what to write instead.
func parse(arguments []string, help io.Writer) (*options, error) {
	parsed := &options{}
	var namespaces string
	flags := flag.NewFlagSet("sidecarset", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	config.RegisterFlags(flags)
	flags.StringVar(&parsed.metricsAddress, "metrics-bind-address", ":8443", "address that serves metrics; 0 turns them off")
	flags.BoolVar(&parsed.metricsSecure, "metrics-secure", true, "serve metrics by TLS, to authenticated and authorized clients only")
	flags.StringVar(&parsed.probeAddress, "health-probe-bind-address", ":8081", "address that serves /healthz and /readyz; 0 turns them off")
	flags.BoolVar(&parsed.leaderElect, "leader-elect", false, "let one of several replicas work at a time")
	flags.StringVar(&namespaces, "namespaces", "", "comma-separated namespaces to work in; default all")
	flags.StringVar(&parsed.operatorNamespace, "operator-namespace", defaultNamespace(), "namespace that the operator runs in; it is never a target")
	flags.IntVar(&parsed.concurrentWorkloads, "concurrent-workloads", 10, "how many workloads are reconciled, and how many pods are updated, at the same time")
	flags.Float64Var(&parsed.qps, "kube-api-qps", 50, "requests per second to the API server, on average")
	flags.IntVar(&parsed.burst, "kube-api-burst", 100, "requests to the API server at once")
	parsed.zap.BindFlags(flags)

	switch err := flags.Parse(arguments); {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(help)
		fmt.Fprintln(help, "sidecarset brings Deployments to what SidecarSets declare. Flags:")
		flags.PrintDefaults()
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w; --help lists the flags", err)
	case flags.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q: everything is set by flags, --help lists them", flags.Arg(0))
	}
	for namespace := range strings.SplitSeq(namespaces, ",") {
		if namespace = strings.TrimSpace(namespace); namespace != "" {
			parsed.namespaces = append(parsed.namespaces, namespace)
		}
	}
	return parsed, parsed.validate()
}

func (o *options) validate() error {
	switch {
	case o.concurrentWorkloads < 1:
		return fmt.Errorf("--concurrent-workloads=%d lets nothing happen: set it to 1 or more", o.concurrentWorkloads)
	case o.qps <= 0:
		return fmt.Errorf("--kube-api-qps=%v is no rate: set it to more than 0", o.qps)
	case float64(o.burst) < o.qps:
		return fmt.Errorf("--kube-api-burst=%d is below --kube-api-qps=%v: set it to at least that", o.burst, o.qps)
	case slices.Contains(o.namespaces, o.operatorNamespace):
		return fmt.Errorf("--namespaces names the operator's own namespace %q, which is never a target: leave it out", o.operatorNamespace)
	case slices.Contains(o.namespaces, "kube-system"):
		return errors.New(`--namespaces names "kube-system", which is never a target: leave it out`)
	}
	return nil
}

// configure sets how requests are made.
func (o *options) configure(restConfig *rest.Config) {
	restConfig.QPS, restConfig.Burst = float32(o.qps), o.burst
	// As kube-controller-manager and kube-scheduler have it. Since Kubernetes 1.37, each event of a watch that began with a list would be compressed
	// by itself (perFlushGzipWriter in apiserver/pkg/endpoints/handlers/watch.go). Large lists are not compressed either, then.
	restConfig.DisableCompression = true
}

// defaultNamespace is the namespace of the pod that this runs in, if it runs in one.
func defaultNamespace() string {
	if namespace := os.Getenv("POD_NAMESPACE"); namespace != "" {
		return namespace
	}
	if namespace, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace"); err == nil {
		return strings.TrimSpace(string(namespace))
	}
	return "sidecarset-system"
}
