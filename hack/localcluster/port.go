// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Below the range from which Linux and macOS take the local ports of outgoing connections: one of the many that a control
// plane makes while it starts could otherwise take the port before its server does.
const (
	firstPort = 20000
	lastPort  = 32000
)

// FreePort returns a port of 127.0.0.1 that nobody listens on.
func FreePort() (string, error) {
	var lastErr error
	for range 100 {
		port := strconv.Itoa(firstPort + rand.IntN(lastPort-firstPort))
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			lastErr = err
			continue
		}
		return port, listener.Close()
	}
	return "", fmt.Errorf("finding a free port: %w", lastErr)
}
