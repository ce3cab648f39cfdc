// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("A real node", onRealNode, func() {
	It("leaves nothing when whoever started it is killed", func(ctx SpecContext) {
		command := filepath.Join(GinkgoT().TempDir(), "localcluster")
		output, err := exec.CommandContext(ctx, "go", "build", "-o", command, "../../hack/localcluster/cmd").CombinedOutput()
		Expect(err).NotTo(HaveOccurred(), string(output))
		before := traces()

		starter := exec.CommandContext(ctx, command, "-real-node", "-bin-dir", binDir)
		starter.Stderr = GinkgoWriter
		stdout, err := starter.StdoutPipe()
		Expect(err).NotTo(HaveOccurred())
		Expect(starter.Start()).To(Succeed())
		DeferCleanup(func() { _ = starter.Process.Kill() })
		announcement, err := bufio.NewReader(stdout).ReadString('\n')
		Expect(err).NotTo(HaveOccurred())
		kubeconfig := strings.TrimPrefix(strings.TrimSpace(announcement), "export KUBECONFIG=")
		for _, args := range [][]string{
			{"run", "pod", "--image=pause:1"}, // the image that every node has
			{"wait", "pod/pod", "--for=condition=Ready", "--timeout=60s"},
		} {
			args = append(args, "--kubeconfig", kubeconfig)
			Expect(exec.CommandContext(ctx, filepath.Join(binDir, "kubectl"), args...).CombinedOutput()).NotTo(BeEmpty())
		}
		dir := filepath.Dir(kubeconfig)
		Expect(tracesOf(dir)).To(ContainElements(ContainSubstring("kubelet"), ContainSubstring("containerd-shim"), HavePrefix("/sys/fs/cgroup/")))

		Expect(starter.Process.Kill()).To(Succeed())
		Eventually(func() []string { return tracesOf(dir) }).Should(BeEmpty())
		Expect(traces()).To(Equal(before))
	})
})

// expectNothingLeft expects after the suite that its cluster has left nothing.
func expectNothingLeft() {
	before := traces()
	DeferCleanup(func() {
		Eventually(func() []string { return tracesOf(cluster.Dir) }).Should(BeEmpty()) // the kernel may still be at the last of its processes
		Expect(traces()).To(Equal(before))
	})
}

// tracesOf is what exists of the cluster with this directory: files, processes, cgroups, mounts.
func tracesOf(dir string) (found []string) {
	name := filepath.Base(dir)
	found = existing(dir, "/sys/fs/cgroup/"+name, "/sys/fs/cgroup/*/"+name)
	for _, process := range existing("/proc/[0-9]*") {
		command, _ := os.ReadFile(process + "/cmdline") // it may have ended
		cgroups, _ := os.ReadFile(process + "/cgroup")
		if strings.Contains(string(command), name) || strings.Contains(string(cgroups), "/"+name) {
			found = append(found, "process "+strings.ReplaceAll(string(command), "\x00", " "))
		}
	}
	return append(found, mounts(name)...)
}

// traces is what there is on this machine where a container runtime or a kubelet leaves things that do not name their cluster.
func traces() (found []string) {
	found = existing(
		"/run/containerd", "/run/netns", "/run/nri", "/var/lib/containerd", "/var/lib/kubelet", "/var/lib/cni", "/var/log/pods",
		"/var/log/containers", "/opt/containerd", "/opt/cni", "/etc/cni", "/etc/containerd", "/usr/libexec/kubernetes",
	)
	for _, setting := range []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward"} {
		value, _ := os.ReadFile("/proc/sys/" + setting)
		found = append(found, setting+"="+strings.TrimSpace(string(value)))
	}
	interfaces, _ := net.Interfaces()
	for _, device := range interfaces {
		found = append(found, "interface "+device.Name)
	}
	return append(found, mounts("/run/", "/var/lib/", "/var/log", "/proc/sys")...)
}

func existing(patterns ...string) (paths []string) {
	for _, pattern := range patterns {
		matches, err := filepath.Glob(pattern)
		Expect(err).NotTo(HaveOccurred())
		paths = append(paths, matches...)
	}
	return paths
}

// mounts are the mount points that hold one of these texts.
func mounts(texts ...string) (found []string) {
	table, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(table)) {
		if slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(line, text) }) {
			found = append(found, "mount "+line)
		}
	}
	return found
}
