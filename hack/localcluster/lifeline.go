// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

//go:embed assets/watchdog.sh
var watchdogScript string

// lifeline ties processes and a directory to the life of this process; the package comment says how.
type lifeline struct {
	dir      string
	pipe     *os.File
	watchdog *exec.Cmd
}

func newLifeline() (*lifeline, error) {
	dir, err := os.MkdirTemp("", "sidecarset-cluster-")
	if err != nil {
		return nil, fmt.Errorf("making the cluster's directory: %w", err)
	}
	l := &lifeline{dir: dir}
	if err := l.layOut(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := l.startWatchdog(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return l, nil
}

func (l *lifeline) layOut() error {
	for _, dir := range []string{"bin", "logs", "pki"} {
		if err := os.Mkdir(l.path(dir), 0o700); err != nil {
			return err
		}
	}
	return os.WriteFile(l.path("pids"), nil, 0o600)
}

func (l *lifeline) path(elem ...string) string {
	return filepath.Join(append([]string{l.dir}, elem...)...)
}

func (l *lifeline) startWatchdog() error {
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("making the lifeline: %w", err)
	}
	defer read.Close()
	l.pipe = write
	l.watchdog = exec.Command("/bin/sh", "-c", watchdogScript, "watchdog", l.dir)
	l.watchdog.Stdin = read
	// Out of reach of the terminal's Ctrl-C, which goes to the whole foreground group.
	l.watchdog.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := l.watchdog.Start(); err != nil {
		return errors.Join(fmt.Errorf("starting the watchdog: %w", err), write.Close())
	}
	return nil
}

// wrap returns a command that runs program under the lifeline. The pid it records is the program's, because of exec.
func (l *lifeline) wrap(name, program string) (string, error) {
	program, err := filepath.Abs(program)
	if err != nil {
		return "", err
	}
	wrapper := l.path("bin", name)
	script := fmt.Sprintf("#!/bin/sh\necho $$ >>%q || exit\nexec %q \"$@\"\n", l.path("pids"), program)
	// A child forked while the file is open for writing would keep it open, and the kernel refuses to execute it then.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(wrapper, []byte(script), 0o700); err != nil {
		return "", fmt.Errorf("writing the wrapper of %s: %w", name, err)
	}
	return wrapper, nil
}

// cut ends everything that hangs on the lifeline and returns when it is gone.
func (l *lifeline) cut() error {
	if err := l.pipe.Close(); err != nil {
		return fmt.Errorf("cutting the lifeline: %w", err)
	}
	waitErr := l.watchdog.Wait()
	if _, err := os.Stat(l.dir); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("the watchdog left %s behind", l.dir), waitErr)
	}
	return nil
}
