// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	startTimeout = time.Minute
	stopTimeout  = 10 * time.Second
	pollInterval = 50 * time.Millisecond
)

// Program is something to run beside the control plane until the cluster ends.
type Program struct {
	// Name names the process in errors, and its log.
	Name string
	// Path of the executable.
	Path string
	// Args must name a file in the cluster's directory, such as its kubeconfig: by that the watchdog knows its processes.
	Args []string
	// Env is added to this process's environment.
	Env []string
	// Healthz is a URL that answers 200 when the program works. If empty, nothing is waited for.
	Healthz string

	dial dialFunc // how to reach Healthz, if it is elsewhere
}

// Process is a running Program. It can be stopped, killed and started again; it is not safe for concurrent use.
type Process struct {
	Program
	// LogFile has what the program printed, over all its starts.
	LogFile string

	cmd  *exec.Cmd
	done chan struct{}
}

// Run starts a program and waits until it is healthy. The cluster's end is the program's end.
func (c *Cluster) Run(ctx context.Context, program Program) (*Process, error) {
	p, err := c.launch(program)
	if err != nil {
		return nil, err
	}
	return p, p.waitHealthy(ctx)
}

// launch starts a program without waiting for it.
func (c *Cluster) launch(program Program) (*Process, error) {
	p := &Process{Program: program, LogFile: c.logFile(program.Name)}
	var err error
	if p.Path, err = c.lifeline.wrap(program.Name, program.Path); err != nil {
		return nil, err
	}
	return p, p.launch()
}

// Start runs the program anew after Stop or Kill, and waits until it is healthy.
func (p *Process) Start(ctx context.Context) error {
	if err := p.launch(); err != nil {
		return err
	}
	return p.waitHealthy(ctx)
}

func (p *Process) launch() error {
	log, err := os.OpenFile(p.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening the log of %s: %w", p.Name, err)
	}
	defer log.Close()
	cmd := exec.Command(p.Path, p.Args...)
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own: Ctrl-C ends us, and we end it, in that order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", p.Name, err)
	}
	done := make(chan struct{})
	p.cmd, p.done = cmd, done
	go func() {
		defer close(done)
		_ = cmd.Wait() // how it ended stays in cmd.ProcessState
	}()
	return nil
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} {
	return p.done
}

// Pid of the program.
func (p *Process) Pid() int {
	return p.cmd.Process.Pid
}

// Stop asks the process to end and waits for it.
func (p *Process) Stop() error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(stopTimeout):
		return errors.Join(fmt.Errorf("%s did not end within %s of SIGTERM", p.Name, stopTimeout), p.Kill())
	}
}

// Kill ends the process as a crash would, and waits for it.
func (p *Process) Kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

// LastLines returns the end of what the program printed, for errors: the log itself goes with the cluster.
func (p *Process) LastLines() string {
	return lastLines(p.LogFile)
}

func (p *Process) signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signalling %s: %w", p.Name, err)
	}
	return nil
}

func (p *Process) waitHealthy(ctx context.Context) error {
	if p.Healthz == "" {
		return nil
	}
	// The serving certificates are the programs' own, made at their start: nobody could vouch for them.
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DialContext: p.dial}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: stopTimeout}
	err := wait.PollUntilContextTimeout(ctx, pollInterval, startTimeout, true, func(ctx context.Context) (bool, error) {
		select {
		case <-p.done:
			return false, fmt.Errorf("it ended: %s", p.cmd.ProcessState)
		default:
			return answersOK(ctx, client, p.Healthz), nil
		}
	})
	if err != nil {
		return fmt.Errorf("waiting for %s: %w\n%s", p.Name, err, p.LastLines())
	}
	return nil
}

func answersOK(ctx context.Context, client *http.Client, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	return response.StatusCode == http.StatusOK
}

func lastLines(file string) string {
	const lines = 10
	log, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}
