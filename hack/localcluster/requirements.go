// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// Where Debian's packages put what a real node needs.
const (
	runc       = "/usr/sbin/runc"
	cniPlugins = "/usr/lib/cni"
	busybox    = "/bin/busybox"
)

// CheckRequirements says in one sentence what a real node needs and this machine has not.
func CheckRequirements() error {
	var packages []string
	if _, err := os.Stat(runc); err != nil {
		packages = append(packages, "runc")
	}
	if _, err := os.Stat(filepath.Join(cniPlugins, "ptp")); err != nil {
		packages = append(packages, "containernetworking-plugins")
	}
	if !isStatic(busybox) {
		packages = append(packages, "busybox-static")
	}
	var needs []string
	if runtime.GOOS != "linux" {
		needs = append(needs, "Linux")
	}
	if os.Geteuid() != 0 {
		needs = append(needs, "root")
	}
	if len(packages) > 0 {
		needs = append(needs, fmt.Sprintf("what `apt-get install --no-install-recommends %s` installs", strings.Join(packages, " ")))
	}
	if len(needs) == 0 {
		return nil
	}
	return fmt.Errorf("a real node needs %s", strings.Join(needs, " and "))
}

// isStatic is true of a program that runs where there are no libraries.
func isStatic(program string) bool {
	file, err := elf.Open(program)
	if err != nil {
		return false
	}
	defer file.Close()
	for _, part := range file.Progs {
		if part.Type == elf.PT_INTERP {
			return false
		}
	}
	return true
}
