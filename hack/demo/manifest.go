// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// manifest is a part of the example that is applied at one time.
type manifest struct {
	name string
	text []byte
	// key is that of its main object: the Deployment, or the set.
	key client.ObjectKey
}

// splitExample parts the SidecarSet from the application, which is everything else.
func splitExample(file []byte) (application, set manifest, err error) {
	application.name, set.name = "application.yaml", "sidecarset.yaml"
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(file)))
	for {
		text, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return application, set, err
		}
		var object metav1.PartialObjectMetadata
		if err := yaml.Unmarshal(text, &object); err != nil {
			return application, set, err
		}
		switch object.Kind {
		case "SidecarSet":
			set.add(text, keyOf(object))
		case "Deployment":
			application.add(text, keyOf(object))
		default:
			application.add(text, application.key)
		}
	}
	if application.key.Name == "" || set.key.Name == "" {
		return application, set, fmt.Errorf("it needs a Deployment and a SidecarSet")
	}
	return application, set, nil
}

func (m *manifest) add(text []byte, key client.ObjectKey) {
	if len(m.text) > 0 {
		m.text = append(m.text, "---\n"...)
	}
	m.text = append(m.text, text...)
	m.key = key
}

func keyOf(object metav1.PartialObjectMetadata) client.ObjectKey {
	key := client.ObjectKeyFromObject(&object)
	if key.Namespace == "" {
		key.Namespace = metav1.NamespaceDefault
	}
	return key
}
