// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

const (
	operatorNamespace = "sidecarset-system"
	serviceAccount    = "sidecarset-controller-manager"
	operatorUser      = "system:serviceaccount:" + operatorNamespace + ":" + serviceAccount
)

// startBuild builds the operator from the source that is tested; whatever lies in bin/ may be older. The returned function waits for it.
func startBuild() (binary func() string) {
	file := filepath.Join(GinkgoT().TempDir(), "sidecarset")
	build := exec.Command("go", "build", "-o", file, "../..")
	var output strings.Builder
	build.Stdout, build.Stderr = &output, &output
	Expect(build.Start()).To(Succeed())
	return func() string {
		GinkgoHelper()
		Expect(build.Wait()).To(Succeed(), output.String)
		return file
	}
}

// operatorKubeconfig returns a kubeconfig of the operator's ServiceAccount.
func operatorKubeconfig(ctx context.Context) string {
	GinkgoHelper()
	system := &namespace{name: operatorNamespace}
	token := strings.TrimSpace(system.kubectl(ctx, "create", "token", serviceAccount, "--duration=24h"))
	config, err := clientcmd.LoadFromFile(cluster.Kubeconfig)
	Expect(err).NotTo(HaveOccurred())
	for name := range config.AuthInfos {
		config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token}
	}
	Expect(clientcmd.WriteToFile(*config, operatorKubeconfigFile())).To(Succeed())
	return operatorKubeconfigFile()
}

func operatorKubeconfigFile() string { return filepath.Join(cluster.Dir, "operator.kubeconfig") }

// takeOperatorAway ends the operator, and has it back after the spec.
func takeOperatorAway(end func(*localcluster.Process) error) {
	GinkgoHelper()
	Expect(end(operator)).To(Succeed())
	DeferCleanup(startOperator)
}

// startOperator starts the operator if it is away.
func startOperator(ctx SpecContext) {
	GinkgoHelper()
	select {
	case <-operator.Done():
		Expect(operator.Start(ctx)).To(Succeed())
	default:
	}
}

// restartOperator ends the operator, starts it again, and returns when it has been seen at work in another namespace.
func restartOperator(ctx SpecContext, end func(*localcluster.Process) error) {
	GinkgoHelper()
	takeOperatorAway(end)
	startOperator(ctx)
	neighbour := newNamespace(ctx)
	neighbour.apply(ctx, web("web").Obj(), logAgent().Obj())
	Eventually(ctx, neighbour.template).WithArguments("web").Should(HaveExactElements("web=nginx:1", "log-agent=busybox:1"))
	neighbour.waitUntilReady(ctx, "log-agent")
}

// operatorMemory returns lines of the kernel's account of the operator's memory: VmRSS is what it has, VmHWM the most that it had.
func operatorMemory() string {
	GinkgoHelper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", operator.Pid()))
	Expect(err).NotTo(HaveOccurred())
	lines := regexp.MustCompile(`(?m)^(VmRSS|VmHWM):\s+(\d+ kB)$`).FindAllStringSubmatch(string(status), -1)
	var memory []string
	for _, line := range lines {
		memory = append(memory, line[1]+" "+line[2])
	}
	return strings.Join(memory, ", ")
}

// operatorLog returns the lines of the operator's log that mention a text.
func operatorLog(text string) []string {
	log, err := os.ReadFile(operator.LogFile)
	Expect(err).NotTo(HaveOccurred())
	return slices.DeleteFunc(strings.Split(string(log), "\n"), func(line string) bool { return !strings.Contains(line, text) })
}

// writeLog is a place in the audit log.
type writeLog struct{ from int }

// writesFromNow returns the place in the audit log where the writes from now on will stand.
func writesFromNow() writeLog {
	GinkgoHelper()
	writes, err := cluster.Writes()
	Expect(err).NotTo(HaveOccurred())
	return writeLog{from: len(writes)}
}

// byOperator are the operator's writes in a namespace, counted by verb and resource, refused ones included.
func (l writeLog) byOperator(namespace string) (map[string]int, error) {
	return l.count(namespace, func(write *localcluster.Write) bool { return !write.IsDryRun() })
}

// dryRuns are what the operator tried in a namespace, counted like its writes.
func (l writeLog) dryRuns(namespace string) (map[string]int, error) {
	return l.count(namespace, (*localcluster.Write).IsDryRun)
}

func (l writeLog) count(namespace string, counts func(*localcluster.Write) bool) (map[string]int, error) {
	writes, err := cluster.Writes()
	if err != nil {
		return nil, err
	}
	result := map[string]int{}
	for _, write := range writes[l.from:] {
		if write.User.Name == operatorUser && write.Object.Namespace == namespace && counts(&write) {
			result[what(write)]++
		}
	}
	return result, nil
}

// outsideSpecs are the operator's writes to anything that is in no spec's namespace: it has no business there.
func (l writeLog) outsideSpecs() (map[string]int, error) {
	writes, err := cluster.Writes()
	if err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for _, write := range writes[l.from:] {
		if write.User.Name == operatorUser && !strings.HasPrefix(write.Object.Namespace, namespacePrefix) {
			counts[what(write)+" in "+write.Object.Namespace]++
		}
	}
	return counts, nil
}

// what a write was: "patch deployments", "patch sidecarsets/status", "patch deployments (409)".
func what(write localcluster.Write) string {
	text := write.Verb + " " + write.Object.Resource
	if write.Object.Subresource != "" {
		text += "/" + write.Object.Subresource
	}
	if write.Response.Code >= http.StatusBadRequest {
		text += fmt.Sprintf(" (%d)", write.Response.Code)
	}
	return text
}

// table prints counts, one per line.
func table(counts map[string]int) string {
	var lines strings.Builder
	for _, key := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&lines, "%8d  %s\n", counts[key], key)
	}
	return lines.String()
}
