// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// findBinDir returns bin/k8s of the module around the working directory: tests run in the directory of their package.
func findBinDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "bin", "k8s"), nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod above the working directory: name the directory of the Kubernetes binaries")
		}
		dir = filepath.Dir(dir)
	}
}

func checkBinaries(options Options) error {
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		if err := checkBinary(options.BinDir, name, "kubernetes"); err != nil {
			return err
		}
	}
	if !options.RealNode {
		return checkBinary(options.BinDir, "kwok", "kubernetes")
	}
	for _, name := range []string{"kubelet", "containerd", "containerd-shim-runc-v2"} {
		if err := checkBinary(options.BinDir, name, "node"); err != nil {
			return err
		}
	}
	return nil
}

func checkBinary(binDir, name, target string) error {
	if _, err := os.Stat(filepath.Join(binDir, name)); err != nil {
		return fmt.Errorf("%s not found: run `make %s` first", filepath.Join(binDir, name), target)
	}
	return nil
}
