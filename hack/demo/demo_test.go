// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestSplitExample(t *testing.T) {
	g := NewWithT(t)
	application, set, err := splitExample([]byte(`# The example.
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
---
apiVersion: apps.sidecarset.io/v1alpha1
kind: SidecarSet
metadata: {name: agent, namespace: shop}
---
apiVersion: v1
kind: Service
metadata: {name: other}
`))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(application.key.String()).To(Equal("default/web"))
	g.Expect(string(application.text)).To(And(ContainSubstring("# The example."), ContainSubstring("\n---\napiVersion: v1\nkind: Service")))
	g.Expect(set.key.String()).To(Equal("shop/agent"))
	g.Expect(string(set.text)).NotTo(ContainSubstring("---"))

	_, _, err = splitExample([]byte("kind: SidecarSet\nmetadata: {name: agent}\n"))
	g.Expect(err).To(MatchError("it needs a Deployment and a SidecarSet"))
}

func TestDescribeOwners(t *testing.T) {
	g := NewWithT(t)
	owners, err := describeOwners([]metav1.ManagedFieldsEntry{
		entry("sidecarset", "", `{"f:spec":{"f:template":{
			"f:metadata":{"f:labels":{"f:injected":{}}},
			"f:spec":{
				"f:containers":{
					"k:{\"name\":\"agent\"}":{".":{},"f:name":{},"f:image":{},"f:command":{}},
					"k:{\"name\":\"web\"}":{"f:volumeMounts":{"k:{\"mountPath\":\"/logs\"}":{".":{},"f:mountPath":{}}}}},
				"f:volumes":{"k:{\"name\":\"logs\"}":{"f:emptyDir":{}}}}}}}`),
		entry("kubectl", "", `{"f:spec":{"f:template":{"f:spec":{"f:initContainers":{"k:{\"name\":\"migrate\"}":{"f:image":{}}}}}}}`),
		entry("sidecarset", "", `{"f:metadata":{"f:annotations":{"f:slip":{}}}}`),
		entry("controller-manager", "status", `{"f:status":{}}`),
	})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(owners).To(Equal([]owner{
		{manager: "kubectl", owns: []string{"init container migrate: image"}},
		{manager: "sidecarset", owns: []string{
			"labels of its pods: injected",
			"container agent: command, image",
			"in container web only the mount at /logs",
			"volume logs",
			"annotations of the Deployment: slip",
		}},
	}))
}

func entry(manager, subresource, owned string) metav1.ManagedFieldsEntry {
	return metav1.ManagedFieldsEntry{Manager: manager, Subresource: subresource, FieldsV1: metav1.NewFieldsV1(owned)}
}
