// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const binDir = "bin/k8s"

// kubectl runs a command that a user would type, and shows it and what it says.
func (d *demo) kubectl(ctx context.Context, args ...string) error {
	command := d.showCommand(ctx, args)
	command.Stdout, command.Stderr = d.out, d.out
	if err := command.Run(); err != nil {
		return fmt.Errorf("kubectl %s: %w", args[0], err)
	}
	return nil
}

// kubectlInBackground shows a command and what it says until the returned function is called.
func (d *demo) kubectlInBackground(ctx context.Context, args ...string) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	command := d.showCommand(ctx, args)
	command.Stdout, command.Stderr = d.out, d.out
	if err := command.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("kubectl %s: %w", args[0], err)
	}
	return func() {
		cancel()
		_ = command.Wait() // it ends because it is killed
	}, nil
}

// kubectlOutput runs a command of which the user need not know.
func (d *demo) kubectlOutput(ctx context.Context, args ...string) ([]byte, error) {
	command := d.command(ctx, args)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out, nil
}

func (d *demo) showCommand(ctx context.Context, args []string) *exec.Cmd {
	d.print("$ kubectl %s", strings.Join(args, " "))
	return d.command(ctx, args)
}

func (d *demo) command(ctx context.Context, args []string) *exec.Cmd {
	command := exec.CommandContext(ctx, filepath.Join(binDir, "kubectl"), args...)
	command.Env = append(os.Environ(), "KUBECONFIG="+d.cluster.Kubeconfig)
	return command
}

// apply writes a manifest to a file, as a user has it, and applies it.
func (d *demo) apply(ctx context.Context, m manifest) error {
	if err := os.WriteFile(d.file(m), m.text, 0o600); err != nil {
		return err
	}
	return d.kubectl(ctx, "apply", "-f", d.file(m))
}

func (d *demo) file(m manifest) string {
	return filepath.Join(d.cluster.Dir, m.name)
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
