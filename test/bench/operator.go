// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

// unlimited is a rate of requests per second that no API server on one machine answers.
const unlimited = "100000"

// operator is a running process of the operator.
type operator struct {
	process *localcluster.Process
	started time.Time
	metrics string
}

// startOperator starts the operator as it is deployed, except that its own client does not limit it, as nothing limits the bare loop.
func (b *bench) startOperator(ctx context.Context) error {
	addresses := make([]string, 2)
	for i := range addresses {
		port, err := localcluster.FreePort()
		if err != nil {
			return err
		}
		addresses[i] = net.JoinHostPort("127.0.0.1", port)
	}
	started := time.Now()
	process, err := b.cluster.Run(ctx, localcluster.Program{
		Name: "sidecarset",
		Path: b.options.operator,
		Args: []string{
			"--kubeconfig=" + b.operatorKubeconfig, "--operator-namespace=" + operatorNamespace,
			"--metrics-bind-address=" + addresses[0], "--metrics-secure=false", "--health-probe-bind-address=" + addresses[1],
			"--kube-api-qps=" + unlimited, "--kube-api-burst=" + unlimited, "--concurrent-workloads=" + strconv.Itoa(b.concurrency),
		},
		Healthz: "http://" + addresses[1] + "/readyz",
	})
	if err != nil {
		return err
	}
	b.operator = &operator{process: process, started: started, metrics: "http://" + addresses[0] + "/metrics"}
	return nil
}

// startAndCatchUp starts the operator and returns when it has looked at every workload.
func (b *bench) startAndCatchUp(ctx context.Context) error {
	if err := b.startOperator(ctx); err != nil {
		return err
	}
	return b.await(ctx, "looking at every workload", b.hasCaughtUp)
}

func (b *bench) stopOperator() error {
	err := b.operator.process.Stop()
	b.operator = nil
	return err
}

// sumOf sums the values of a metric over all its labels that contain a text.
func (o *operator) sumOf(ctx context.Context, metric, label string) (float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, o.metrics, nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, fmt.Errorf("asking the operator for its metrics: %w", err)
	}
	defer response.Body.Close()
	sum := 0.0
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "} ")
		if !strings.HasPrefix(name, metric+"{") || !strings.Contains(name, label) {
			continue
		}
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("reading %s: %w", name, err)
		}
		sum += number
	}
	return sum, lines.Err()
}

// hasCaughtUp is the condition that the operator has looked at every workload and has none left to look at.
func (b *bench) hasCaughtUp(ctx context.Context) (progress string, done bool, err error) {
	const controller = `controller="deployment"`
	reconciled, err := b.operator.sumOf(ctx, "controller_runtime_reconcile_total", controller)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return "its metrics are not served yet", false, nil
	}
	if err != nil {
		return "", false, err
	}
	waiting, err := b.operator.sumOf(ctx, "workqueue_depth", controller)
	if err != nil {
		return "", false, err
	}
	active, err := b.operator.sumOf(ctx, "controller_runtime_active_workers", controller)
	done = int(reconciled) >= b.workloads && waiting+active == 0
	return fmt.Sprintf("%.0f of %d workloads looked at", reconciled, b.workloads), done, err
}
