// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

const dialTimeout = 10 * time.Second

type dialFunc func(ctx context.Context, protocol, address string) (net.Conn, error)

// relay connects whoever comes to a listener with an address, until the listener is closed.
func relay(ctx context.Context, listener net.Listener, dial dialFunc, address string) {
	for {
		caller, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer caller.Close()
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			if callee, err := dial(ctx, "tcp", address); err == nil { // else the caller sees that the connection ends
				join(caller, callee)
			}
		}()
	}
}

// tunnel serves HTTP CONNECT with connections that dial makes.
func tunnel(dial dialFunc) http.Handler {
	return http.HandlerFunc(func(response http.ResponseWriter, request *http.Request) {
		ctx, cancel := context.WithTimeout(request.Context(), dialTimeout)
		defer cancel()
		callee, err := dial(ctx, "tcp", request.URL.Host)
		if err != nil {
			http.Error(response, err.Error(), http.StatusBadGateway)
			return
		}
		caller, _, err := http.NewResponseController(response).Hijack()
		if err != nil {
			_ = callee.Close()
			return
		}
		defer caller.Close()
		if _, err := fmt.Fprint(caller, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
			_ = callee.Close()
			return
		}
		join(caller, callee)
	})
}

// join copies both ways until one of the two has said all, and closes both.
func join(a, b net.Conn) {
	done := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{a, b}, {b, a}} {
		go func() {
			_, _ = io.Copy(pair[0], pair[1]) // that a connection breaks is for its two ends to see
			done <- struct{}{}
		}()
	}
	<-done
	_, _ = a.Close(), b.Close()
}
