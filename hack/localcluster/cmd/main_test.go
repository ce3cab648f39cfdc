// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

const timeout = 30 * time.Second

// However the command ends, nothing that it started or wrote is there afterwards.
func TestCommandLeavesNothing(t *testing.T) {
	command := buildCommand(t)
	for name, end := range map[string]func(shell *exec.Cmd, pid int) error{
		"Ctrl-C":          func(_ *exec.Cmd, pid int) error { return syscall.Kill(pid, syscall.SIGINT) },
		"SIGKILL":         func(_ *exec.Cmd, pid int) error { return syscall.Kill(pid, syscall.SIGKILL) },
		"death of parent": func(shell *exec.Cmd, _ int) error { return shell.Process.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			shell, pid, dir := startInShell(t, command)
			g.Expect(runningFrom(g, dir)).NotTo(BeEmpty())
			g.Expect(end(shell, pid)).To(Succeed())
			g.Eventually(func() []string { return runningFrom(g, dir) }, timeout).Should(BeEmpty())
			g.Eventually(dir, timeout).ShouldNot(BeADirectory())
		})
	}
}

func TestCommandEndsWhileStarting(t *testing.T) {
	g := NewWithT(t)
	tmp := t.TempDir()
	starting := exec.Command(buildCommand(t))
	starting.Env = append(os.Environ(), "TMPDIR="+tmp)
	g.Expect(starting.Start()).To(Succeed())
	t.Cleanup(func() { _ = starting.Process.Kill() })
	g.Eventually(func() []string { return runningFrom(g, tmp) }, timeout, "10ms").Should(ContainElement(ContainSubstring("etcd")))
	g.Expect(starting.Process.Signal(os.Interrupt)).To(Succeed())
	g.Expect(starting.Wait()).NotTo(Succeed())
	g.Expect(runningFrom(g, tmp)).To(BeEmpty())
	g.Expect(os.ReadDir(tmp)).To(BeEmpty())
}

func buildCommand(t *testing.T) string {
	t.Helper()
	command := filepath.Join(t.TempDir(), "localcluster")
	if out, err := exec.Command("go", "build", "-o", command, ".").CombinedOutput(); err != nil {
		t.Fatalf("building the command: %s\n%s", err, out)
	}
	return command
}

// startInShell returns when the cluster is up: the shell that started the command, the command's pid, the cluster's directory.
func startInShell(t *testing.T, command string) (shell *exec.Cmd, pid int, dir string) {
	t.Helper()
	g := NewWithT(t)
	shell = exec.Command("/bin/sh", "-c", `"$0" & echo $!; wait`, command)
	stdout, err := shell.StdoutPipe()
	g.Expect(err).NotTo(HaveOccurred())
	shell.Stderr = os.Stderr
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	g.Expect(shell.Start()).To(Succeed())
	t.Cleanup(func() { _ = syscall.Kill(-shell.Process.Pid, syscall.SIGKILL) })
	pid, kubeconfig := readAnnouncement(g, stdout)
	go func() { _ = shell.Wait() }()
	return shell, pid, filepath.Dir(kubeconfig)
}

func readAnnouncement(g Gomega, stdout io.Reader) (pid int, kubeconfig string) {
	lines := bufio.NewScanner(stdout)
	g.Expect(lines.Scan()).To(BeTrue())
	pid, err := strconv.Atoi(lines.Text())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(lines.Scan()).To(BeTrue(), "the command ended before its cluster was up")
	kubeconfig, found := strings.CutPrefix(lines.Text(), "export KUBECONFIG=")
	g.Expect(found).To(BeTrue(), lines.Text())
	return pid, kubeconfig
}

func runningFrom(g Gomega, dir string) []string {
	out, err := exec.Command("ps", "-A", "-o", "args=").Output()
	g.Expect(err).NotTo(HaveOccurred())
	return slices.DeleteFunc(strings.Split(string(out), "\n"), func(args string) bool { return !strings.Contains(args, dir) })
}
