// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path"
	"runtime"
	"strings"
	"sync"
	"time"
)

const (
	// TagFile is in each image and holds the name that it was made with.
	TagFile = "/etc/image-tag"

	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar"
)

// Image is a container image of busybox, whose shell knows all applets, with a TagFile of its own.
type Image struct {
	// Name as a pod writes it, with a tag: "agent:1".
	Name string
	// Command is what its containers run. Default: nothing, until they are asked to end.
	Command []string
	// PullTime is how long the registry takes to send what this image has and others have not.
	PullTime time.Duration
}

// Images is the registry of a real node, whichever registry a pod's image names. What it does not have can not be pulled.
type Images struct {
	base []byte // the layer that all images begin with

	mu      sync.RWMutex
	tags    map[string]string // digests of manifests, by name with tag
	content map[string]content
}

// content is what the registry sends for a digest.
type content struct {
	mediaType string
	data      []byte
	after     time.Duration
}

func newImages() (*Images, error) {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	base, err := archive([]tar.Header{
		{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777},
		{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(program))},
		{Name: "bin/cat", Typeflag: tar.TypeSymlink, Linkname: "busybox"},
		{Name: "bin/sh", Typeflag: tar.TypeSymlink, Linkname: "busybox"}, // which finds all other applets by itself
	}, program)
	if err != nil {
		return nil, err
	}
	images := &Images{base: base, tags: map[string]string{}, content: map[string]content{}}
	_, err = images.Add(Image{Name: "pause:1"})
	return images, err
}

// Add puts an image into the registry and returns its digest. An image of that name is replaced; nodes that have it keep it.
func (i *Images) Add(image Image) (digest string, err error) {
	name := []byte(image.Name)
	layer, err := archive([]tar.Header{{Name: strings.TrimPrefix(TagFile, "/"), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(name))}}, name)
	if err != nil {
		return "", err
	}
	command := image.Command
	if len(command) == 0 {
		command = []string{"sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	layers := []descriptor{i.put(content{layerType, i.base, 0}), i.put(content{layerType, layer, image.PullTime})}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"Cmd": command, "Env": []string{"PATH=/bin"}},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{layers[0].Digest, layers[1].Digest}},
	})
	if err != nil {
		return "", err
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2,
		"mediaType":     manifestType,
		"config":        i.put(content{configType, config, 0}),
		"layers":        layers,
	})
	if err != nil {
		return "", err
	}
	digest = i.put(content{manifestType, manifest, 0}).Digest
	i.tags[image.Name] = digest
	return digest, nil
}

// Tag gives an image one more name.
func (i *Images) Tag(name, another string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	digest, found := i.tags[name]
	if !found {
		return fmt.Errorf("there is no image %s", name)
	}
	i.tags[another] = digest
	return nil
}

// descriptor is how OCI images refer to content.
type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int    `json:"size"`
}

func (i *Images) put(item content) descriptor {
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(item.data))
	i.content[digest] = item
	return descriptor{item.mediaType, digest, len(item.data)}
}

// ServeHTTP answers pulls: GET and HEAD of /v2/<name>/manifests/<tag or digest> and /v2/<name>/blobs/<digest>.
func (i *Images) ServeHTTP(response http.ResponseWriter, request *http.Request) {
	item, digest, found := i.find(request.URL.Path)
	if !found {
		http.NotFound(response, request)
		return
	}
	response.Header().Set("Content-Type", item.mediaType)
	response.Header().Set("Docker-Content-Digest", digest)
	if request.Method == http.MethodGet {
		pause(request.Context(), item.after)
	}
	http.ServeContent(response, request, "", time.Time{}, bytes.NewReader(item.data))
}

func (i *Images) find(url string) (item content, digest string, found bool) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	rest, reference := path.Split(url)
	digest = reference
	if name, isManifest := strings.CutSuffix(rest, "/manifests/"); isManifest && !strings.HasPrefix(reference, "sha256:") {
		name = strings.TrimPrefix(strings.TrimPrefix(name, "/v2/"), "library/")
		digest = i.tags[name+":"+reference]
	}
	item, found = i.content[digest]
	return item, digest, found
}

func pause(ctx context.Context, duration time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(duration):
	}
}

// archive makes a layer. The only regular file holds data.
func archive(headers []tar.Header, data []byte) ([]byte, error) {
	var layer bytes.Buffer
	writer := tar.NewWriter(&layer)
	for i := range headers {
		if err := writer.WriteHeader(&headers[i]); err != nil {
			return nil, fmt.Errorf("making an image: %w", err)
		}
		if headers[i].Typeflag == tar.TypeReg {
			if _, err := writer.Write(data); err != nil {
				return nil, fmt.Errorf("making an image: %w", err)
			}
		}
	}
	if err := writer.Close(); err != nil {
		return nil, fmt.Errorf("making an image: %w", err)
	}
	return layer.Bytes(), nil
}
