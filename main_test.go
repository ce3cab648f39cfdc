// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
)

func TestParseRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		arguments []string
		want      string
	}{
		"an unknown flag": {
			[]string{"--concurrency=3"},
			"flag provided but not defined: -concurrency; --help lists the flags",
		},
		"a flag without its value": {
			[]string{"--namespaces"},
			"flag needs an argument: -namespaces; --help lists the flags",
		},
		"a number that is none": {
			[]string{"--kube-api-burst=many"},
			`invalid value "many" for flag -kube-api-burst: parse error; --help lists the flags`,
		},
		"a boolean that is none": {
			[]string{"--leader-elect=perhaps"},
			`invalid boolean value "perhaps" for -leader-elect: parse error; --help lists the flags`,
		},
		"a log level that is none": {
			[]string{"--zap-log-level=loud"},
			`invalid value "loud" for flag -zap-log-level: invalid log level "loud"; --help lists the flags`,
		},
		"an argument": {
			[]string{"--leader-elect", "start"},
			`unexpected argument "start": everything is set by flags, --help lists them`,
		},
		"nothing at the same time": {
			[]string{"--concurrent-workloads=0"},
			"--concurrent-workloads=0 lets nothing happen: set it to 1 or more",
		},
		"a rate of nothing": {
			[]string{"--kube-api-qps=0"},
			"--kube-api-qps=0 is no rate: set it to more than 0",
		},
		"a burst below the rate": {
			[]string{"--kube-api-qps=200"},
			"--kube-api-burst=100 is below --kube-api-qps=200: set it to at least that",
		},
		"the operator's own namespace": {
			[]string{"--namespaces=shop,sidecarset-system"},
			`--namespaces names the operator's own namespace "sidecarset-system", which is never a target: leave it out`,
		},
		"the operator's own namespace, wherever it runs": {
			[]string{"--namespaces= ops ", "--operator-namespace=ops"},
			`--namespaces names the operator's own namespace "ops", which is never a target: leave it out`,
		},
		"the system's namespace": {
			[]string{"--namespaces=kube-system"},
			`--namespaces names "kube-system", which is never a target: leave it out`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("POD_NAMESPACE", "")
			_, err := parse(test.arguments, io.Discard)
			if err == nil || err.Error() != test.want {
				t.Errorf("said %v, not %s", err, test.want)
			}
		})
	}
}

func TestParseDefaults(t *testing.T) {
	t.Setenv("POD_NAMESPACE", "")
	parsed, err := parse(nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if parsed.metricsAddress != ":8443" || !parsed.metricsSecure || parsed.probeAddress != ":8081" {
		t.Errorf("it serves metrics at %q (secure: %v), probes at %q", parsed.metricsAddress, parsed.metricsSecure, parsed.probeAddress)
	}
	if parsed.leaderElect || len(parsed.namespaces) > 0 || parsed.operatorNamespace != "sidecarset-system" {
		t.Errorf("it elects: %v, works in %q, runs in %q", parsed.leaderElect, parsed.namespaces, parsed.operatorNamespace)
	}
	if parsed.concurrentWorkloads < 1 || parsed.qps <= 0 || parsed.burst < 1 {
		t.Errorf("%d workloads, %v requests per second, %d at once", parsed.concurrentWorkloads, parsed.qps, parsed.burst)
	}
}

func TestParseReads(t *testing.T) {
	t.Setenv("POD_NAMESPACE", "ops")
	parsed, err := parse(strings.Fields("--metrics-bind-address=0 --metrics-secure=false --health-probe-bind-address=:9 --leader-elect "+
		"--namespaces=shop,,cart, --concurrent-workloads=3 --kube-api-qps=2.5 --kube-api-burst=5 --zap-log-level=debug"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if parsed.metricsAddress != "0" || parsed.metricsSecure || parsed.probeAddress != ":9" || !parsed.leaderElect {
		t.Errorf("read %+v", parsed)
	}
	if !slices.Equal(parsed.namespaces, []string{"shop", "cart"}) || parsed.operatorNamespace != "ops" {
		t.Errorf("it works in %q, runs in %q", parsed.namespaces, parsed.operatorNamespace)
	}
	if parsed.concurrentWorkloads != 3 || parsed.qps != 2.5 || parsed.burst != 5 {
		t.Errorf("%d workloads, %v requests per second, %d at once", parsed.concurrentWorkloads, parsed.qps, parsed.burst)
	}
}

func TestConfigure(t *testing.T) {
	config := &rest.Config{}
	(&options{qps: 2.5, burst: 5}).configure(config)
	if config.QPS != 2.5 || config.Burst != 5 {
		t.Errorf("%v requests per second, %d at once", config.QPS, config.Burst)
	}
	if !config.DisableCompression {
		t.Error("each event of a watch is compressed")
	}
}

func TestHelpListsTheFlagsAndIsNoError(t *testing.T) {
	var help bytes.Buffer
	if err := run(t.Context(), []string{"--help"}, &help); err != nil {
		t.Errorf("said %v", err)
	}
	for _, flag := range []string{
		"kubeconfig", "metrics-bind-address", "metrics-secure", "health-probe-bind-address", "leader-elect", "namespaces",
		"operator-namespace", "concurrent-workloads", "kube-api-qps", "kube-api-burst", "zap-log-level",
	} {
		if !strings.Contains(help.String(), "\n  -"+flag) {
			t.Errorf("--%s is not in the help", flag)
		}
	}
}

func TestRunSaysWhereItLooksForTheCluster(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "kubeconfig")
	err := run(t.Context(), []string{"--kubeconfig=" + missing}, io.Discard)
	want := "finding the cluster (set --kubeconfig or KUBECONFIG, or run in a pod): stat " + missing + ": no such file or directory"
	if err == nil || err.Error() != want {
		t.Errorf("said %v, not %s", err, want)
	}
}
