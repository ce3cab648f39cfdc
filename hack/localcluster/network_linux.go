// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// network is a network namespace that only this process and those it starts in there can reach. It goes with the last of them.
type network struct{ namespace *os.File }

func newNetwork() (*network, error) {
	n := &network{}
	err := onThreadOfItsOwn(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		var err error
		n.namespace, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("making a network namespace: %w", err)
	}
	return n, nil
}

// path names the namespace to other processes, while this one lives.
func (n *network) path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.namespace.Fd())
}

func (n *network) close() error { return n.namespace.Close() }

// listen listens in the namespace. The listener works from anywhere: a socket stays where it was made.
func (n *network) listen(ctx context.Context, address string) (listener net.Listener, err error) {
	err = n.inside(func() error {
		listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		return err
	})
	return listener, err
}

// dial connects to an IP address in the namespace; names are not resolved there.
func (n *network) dial(ctx context.Context, protocol, address string) (connection net.Conn, err error) {
	err = n.inside(func() error {
		connection, err = (&net.Dialer{}).DialContext(ctx, protocol, address)
		return err
	})
	return connection, err
}

func (n *network) inside(f func() error) error {
	return onThreadOfItsOwn(func() error {
		if err := unix.Setns(int(n.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering the node's network: %w", err)
		}
		return f()
	})
}

// onThreadOfItsOwn runs f on a thread that is never used again: it ends with the goroutine that is locked to it, and takes along what f made
// of its namespaces.
func onThreadOfItsOwn(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}
