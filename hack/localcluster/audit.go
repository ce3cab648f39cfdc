// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"time"
)

//go:embed assets/audit-policy.yaml
var auditPolicy []byte

// Write is a write request that the API server has answered, dry runs and refused ones included.
type Write struct {
	Verb        string    `json:"verb"`
	Object      ObjectRef `json:"objectRef"`
	User        User      `json:"user"`
	UserAgent   string    `json:"userAgent"`
	RequestURI  string    `json:"requestURI"` // has dryRun and fieldManager
	Response    Response  `json:"responseStatus"`
	ReceivedAt  time.Time `json:"requestReceivedTimestamp"`
	CompletedAt time.Time `json:"stageTimestamp"`
}

// IsDryRun is true of a request that changes nothing, whatever the answer.
func (w *Write) IsDryRun() bool {
	request, err := url.Parse(w.RequestURI)
	return err == nil && request.Query().Get("dryRun") != ""
}

// ObjectRef names what a Write was about.
type ObjectRef struct {
	APIGroup    string `json:"apiGroup"`
	Resource    string `json:"resource"`
	Subresource string `json:"subresource"`
	Namespace   string `json:"namespace"`
	Name        string `json:"name"`
}

// User is who wrote.
type User struct {
	Name string `json:"username"`
}

// Response is how a Write was answered.
type Response struct {
	Code int `json:"code"`
}

// Writes returns, oldest first, all write requests since the cluster's start. It needs Options.Audit.
func (c *Cluster) Writes() ([]Write, error) {
	return c.WriteReader().Next()
}

// WriteReader reads the write requests piece by piece. It needs Options.Audit.
func (c *Cluster) WriteReader() *WriteReader {
	return &WriteReader{file: c.auditLog()}
}

// WriteReader is a place in the list of write requests; at first its beginning.
type WriteReader struct {
	file   string
	offset int64
}

// Next returns, oldest first, the write requests that were answered since its last call.
func (r *WriteReader) Next() ([]Write, error) {
	log, err := r.read()
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	var writes []Write
	// The last line may be half written; it is complete at the next call.
	for line := range bytes.Lines(log[:bytes.LastIndexByte(log, '\n')+1]) {
		var write Write
		if err := json.Unmarshal(line, &write); err != nil {
			return nil, fmt.Errorf("reading the audit log: %w", err)
		}
		writes = append(writes, write)
		r.offset += int64(len(line))
	}
	return writes, nil
}

// read returns the log from the place that was reached on.
func (r *WriteReader) read() ([]byte, error) {
	file, err := os.Open(r.file)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if _, err := file.Seek(r.offset, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(file)
}

func (c *Cluster) auditLog() string {
	return c.lifeline.path("audit.log")
}
