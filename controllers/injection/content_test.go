// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/util/json"
)

func canonical(t *testing.T, content string) string {
	t.Helper()
	data, err := parse[Content](t, content).Canonical()
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func structural(t *testing.T, content string) string {
	t.Helper()
	data, err := parse[Content](t, content).Structural()
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestCanonicalIsOneForOneMeaning(t *testing.T) {
	for name, pair := range map[string][2]string{
		"quantities": {
			`containers: [{name: a, image: "i:1", resources: {requests: {cpu: 1000m, memory: 1024Mi}}}]`,
			`containers: [{name: a, image: "i:1", resources: {requests: {cpu: "1", memory: 1Gi}}}]`,
		},
		"protocol": {
			`containers: [{name: a, image: "i:1", ports: [{containerPort: 80}]}]`,
			`containers: [{name: a, image: "i:1", ports: [{containerPort: 80, protocol: TCP}]}]`,
		},
		"inherit nothing": {
			`containers: [{name: a, image: "i:1"}]`,
			`containers: [{name: a, image: "i:1", inherit: {volumeMounts: None}}]`,
		},
		"empty lists": {
			`containers: [{name: a, image: "i:1"}]`,
			`{containers: [{name: a, image: "i:1", env: [], resources: {}}], volumes: []}`,
		},
		"probe": {
			`containers: [{name: a, image: "i:1", readinessProbe: {grpc: {port: 80}}}]`,
			`containers: [{name: a, image: "i:1", readinessProbe: {grpc: {port: 80, service: ""}}}]`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(canonical(t, pair[0]), canonical(t, pair[1])); diff != "" {
				t.Errorf("the same content has two canonical forms:\n%s", diff)
			}
		})
	}
}

func TestCanonicalTellsMeaningsApart(t *testing.T) {
	seen := map[string]string{}
	for _, content := range []string{
		`containers: [{name: a, image: "i:1"}]`,
		`containers: [{name: a, image: "i:2"}]`,
		`initContainers: [{name: a, image: "i:1"}]`,
		`initContainers: [{name: a, image: "i:1", restartPolicy: Always}]`,
		`containers: [{name: a, image: "i:1", env: [{name: A, value: x}, {name: B}]}]`,
		`containers: [{name: a, image: "i:1", env: [{name: B}, {name: A, value: x}]}]`,
		`containers: [{name: a, image: "i:1", ports: [{containerPort: 80, protocol: UDP}]}]`,
		`volumes: [{name: v, emptyDir: {}}]`,
		`volumes: [{name: v, emptyDir: {}, appMounts: [{mountPath: /v}]}]`,
		`volumes: [{name: v}]`,
		`podMetadata: {annotations: {protocol: TCP}}`,
		`podMetadata: {annotations: {protocol: ""}}`,
	} {
		data := canonical(t, content)
		if other, ok := seen[data]; ok {
			t.Errorf("%s and %s have the same canonical form %s", content, other, data)
		}
		seen[data] = content
	}
}

// A change of this name means that every set of every cluster gets a new revision when the operator is upgraded.
func TestRevisionNameIsStable(t *testing.T) {
	data := canonical(t, `{containers: [{name: agent, image: "busybox:1.36", resources: {limits: {memory: 32Mi}}}], volumes: [{name: logs, emptyDir: {}}]}`)
	if name := RevisionName("log-agent", []byte(data), 0); name != "log-agent-d77d9b7bb" {
		t.Errorf("the revision is called %q now", name)
	}
	if RevisionName("log-agent", []byte(data), 0) == RevisionName("log-agent", []byte(data), 1) {
		t.Error("the collision count makes no other name")
	}
}

func TestCanonicalCanBeParsed(t *testing.T) {
	data := canonical(t, `containers: [{name: a, image: "i:1", ports: [{containerPort: 80, protocol: TCP}], inherit: {env: [A]}}]`)
	content, err := ParseContent([]byte(data))
	if err != nil {
		t.Fatal(err)
	}
	again, err := content.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(data, string(again)); diff != "" {
		t.Errorf("what was stored does not come back:\n%s", diff)
	}
	if _, err := ParseContent([]byte("no JSON")); err == nil {
		t.Error("what is no JSON was accepted")
	}
}

func TestStructuralLeavesOutInPlaceFields(t *testing.T) {
	base := `{initContainers: [{name: p, image: "p:1", restartPolicy: Always}, {name: i, image: "i:1"}], containers: [{name: a, image: "a:1"}]}`
	for change, inPlace := range map[string]bool{
		`{initContainers: [{name: p, image: "p:2", restartPolicy: Always}, {name: i, image: "i:1"}], containers: [{name: a, image: "a:2"}]}`:                                          true,
		`{initContainers: [{name: p, image: "p:1", restartPolicy: Always}, {name: i, image: "i:1"}], containers: [{name: a, image: "a:1", resources: {limits: {cpu: 1}}}]}`:           true,
		`{initContainers: [{name: p, image: "p:1", restartPolicy: Always}, {name: i, image: "i:2"}], containers: [{name: a, image: "a:1"}]}`:                                          false,
		`{initContainers: [{name: p, image: "p:1", restartPolicy: Always}, {name: i, image: "i:1", resources: {limits: {cpu: 1}}}], containers: [{name: a, image: "a:1"}]}`:           false,
		`{initContainers: [{name: p, image: "p:1", restartPolicy: Always}, {name: i, image: "i:1"}], containers: [{name: a, image: "a:1", env: [{name: A}]}]}`:                        false,
		`{initContainers: [{name: p, image: "p:1", restartPolicy: Always}, {name: i, image: "i:1"}], containers: [{name: a, image: "a:1"}], volumes: [{name: v, emptyDir: {}}]}`:      false,
		`{initContainers: [{name: p, image: "p:1", restartPolicy: Always}, {name: i, image: "i:1"}], containers: [{name: a, image: "a:1"}], podMetadata: {labels: {team: platform}}}`: false,
		`{initContainers: [{name: i, image: "i:1"}, {name: p, image: "p:1", restartPolicy: Always}], containers: [{name: a, image: "a:1"}]}`:                                          false,
	} {
		if same := structural(t, base) == structural(t, change); same != inPlace {
			t.Errorf("in place: %v, want %v, for %s", same, inPlace, change)
		}
	}
}

// What the CRD fills in must not change a revision: every default in the rendered part of its schema is known here.
func TestEveryDefaultOfTheCRDIsPruned(t *testing.T) {
	data, err := os.ReadFile("../../config/crd/bases/apps.sidecarset.io_sidecarsets.yaml")
	if err != nil {
		t.Fatal(err)
	}
	crd := parse[apiextensionsv1.CustomResourceDefinition](t, string(data))
	spec := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
	found := 0
	for _, field := range []string{"initContainers", "containers", "volumes", "imagePullSecrets", "podMetadata"} {
		eachDefault(spec.Properties[field], field, field, func(parent, name string, value any) {
			found++
			// References and strings without a pointer are left out by omitempty.
			if omitted := name == "name" && value == ""; !omitted && crdDefaults[parent+"."+name] != value {
				t.Errorf("%s.%s has the default %v, which crdDefaults does not have", parent, name, value)
			}
		})
	}
	if found == 0 {
		t.Error("the schema has no defaults: was it read?")
	}
}

func eachDefault(schema apiextensionsv1.JSONSchemaProps, parent, name string, visit func(parent, name string, value any)) {
	if schema.Default != nil {
		var value any
		if json.Unmarshal(schema.Default.Raw, &value) == nil {
			visit(parent, name, value)
		}
	}
	for property, child := range schema.Properties {
		eachDefault(child, name, property, visit)
	}
	if schema.Items != nil && schema.Items.Schema != nil {
		eachDefault(*schema.Items.Schema, parent, name, visit)
	}
}
