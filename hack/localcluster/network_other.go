// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package localcluster

import (
	"context"
	"errors"
	"net"
)

var errNoNetwork = errors.New("a real node needs Linux")

type network struct{}

func newNetwork() (*network, error) { return nil, errNoNetwork }

func (*network) path() string { return "" }

func (*network) close() error { return nil }

func (*network) listen(context.Context, string) (net.Listener, error) { return nil, errNoNetwork }

func (*network) dial(context.Context, string, string) (net.Conn, error) { return nil, errNoNetwork }
