// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/discovery"
)

// conditions say on what, and how, a scenario was measured.
func (b *bench) conditions(s scenario) string {
	command := "make bench BENCH=" + s.name
	if len(b.given) > 0 {
		command += fmt.Sprintf(" BENCH_FLAGS=%q", strings.Join(b.given, " "))
	}
	return fmt.Sprintf("`%s` on %s: %d Deployments × %d pods, %d repeat(s), on %s; Kubernetes %s.\n"+
		"The operator ran with `--concurrent-workloads=%d --kube-api-qps=%s --kube-api-burst=%s`, the set with `maxConcurrentWorkloads: 100%%` and `progressDeadlineSeconds: 3600`.",
		command, b.started.UTC().Format(time.DateOnly), b.workloads, b.pods, b.repeats, machine(), b.kubernetesVersion(),
		b.concurrency, unlimited, unlimited)
}

func (b *bench) kubernetesVersion() string {
	if client, err := discovery.NewDiscoveryClientForConfig(b.cluster.Config); err == nil {
		if version, err := client.ServerVersion(); err == nil {
			return version.GitVersion
		}
	}
	return "of unknown version"
}

// machine is the size of this machine.
func machine() string {
	return fmt.Sprintf("%d processors (%s, %s) and %s of memory", runtime.NumCPU(), runtime.GOOS+"/"+runtime.GOARCH,
		find("/proc/cpuinfo", `(?m)^model name\s*: (.*)$`), memorySize())
}

func memorySize() string {
	kilobytes, err := strconv.ParseFloat(find("/proc/meminfo", `MemTotal:\s+(\d+) kB`), 64)
	if err != nil {
		return "an unknown size"
	}
	return fmt.Sprintf("%.0f GiB", kilobytes/(1<<20))
}

func find(file, pattern string) string {
	content, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	if match := regexp.MustCompile(pattern).FindSubmatch(content); match != nil {
		return string(match[1])
	}
	return "unknown"
}
