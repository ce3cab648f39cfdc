// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/yaml"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
)

var _ = DescribeTable("An API server accepts",
	func(ctx SpecContext, spec string) {
		Expect(dryRunCreate(ctx, sidecarSet, spec)).To(Succeed())
		Expect(injection.Validate(parseSpec(spec))).To(BeEmpty())
	},
	Entry("a container", `
selector: {}
containers: [{name: agent, image: "busybox:1.36"}]`),
	Entry("a native sidecar", `
selector: {}
initContainers: [{name: proxy, image: "proxy:1.0", restartPolicy: Always, inherit: {env: [APP_NAME]}}]`),
	Entry("a volume", `
selector: {}
volumes: [{name: cache, emptyDir: {}, appMounts: [{mountPath: /cache}]}]`),
	Entry("a plain init container beside something that keeps running", `
selector: {}
initContainers: [{name: setup, image: "busybox:1.36", volumeMounts: [{name: cache, mountPath: /cache}]}]
volumes: [{name: cache, emptyDir: {}}]`),
	Entry("a mount of one of the application's volumes", `
selector: {}
containers:
- {name: agent, image: "busybox:1.36", volumeMounts: [{name: theirs, mountPath: /logs}], inherit: {volumeMounts: All}}`),
	Entry("two volumes at one path of different application containers", `
selector: {}
volumes:
- {name: logs, emptyDir: {}, appMounts: [{mountPath: /data, containers: [web]}]}
- {name: cache, emptyDir: {}, appMounts: [{mountPath: /data, containers: [api]}]}`),
	Entry("every form of a selector", `
selector:
  matchLabels: {app: web, example.com/team: "", tier: a_b.c}
  matchExpressions:
  - {key: env, operator: In, values: [prod, ""]}
  - {key: env, operator: NotIn, values: [test]}
  - {key: app, operator: Exists}
  - {key: legacy, operator: DoesNotExist, values: []}
containers: [{name: agent, image: "busybox:1.36"}]`),
	Entry("the least quantities", strategy(`{maxUnavailable: 1, maxConcurrentWorkloads: 1, partition: 0}`)),
	Entry("the greatest percentages", strategy(`{maxUnavailable: 100%, maxConcurrentWorkloads: 100%, partition: 100%}`)),
	Entry("the least percentages", strategy(`{maxUnavailable: 1%, maxConcurrentWorkloads: 1%, partition: 0%}`)),
	Entry("32 of each list", `
selector: {}
initContainers: `+listOf(32, `{name: init-%d, image: "busybox:1.36"}`)+`
containers: `+listOf(32, `{name: agent-%d, image: "busybox:1.36", volumeMounts: [{name: logs-0, mountPath: /a}, {name: logs-31, mountPath: /b}]}`)+`
volumes: `+listOf(32, `{name: logs-%[1]d, emptyDir: {}, appMounts: [{mountPath: /logs-%[1]d/a}, {mountPath: /logs-%[1]d/b}]}`)),
)

var _ = Describe("config", func() {
	It("has samples that kubectl apply accepts, and an example of every field", func(ctx SpecContext) {
		samples, err := filepath.Glob("../../config/samples/[^k]*.yaml")
		Expect(err).NotTo(HaveOccurred())
		Expect(len(samples)).To(BeNumerically(">=", 3))
		for _, file := range append(samples, "testdata/complete.yaml") {
			By(filepath.Base(file))
			_, err := kubectl(ctx, "", "apply", "--dry-run=server", "-f", file)
			Expect(err).NotTo(HaveOccurred())
		}
		_, err = kubectl(ctx, "", "kustomize", "../../config/samples")
		Expect(err).NotTo(HaveOccurred())

		content, err := os.ReadFile("testdata/complete.yaml")
		Expect(err).NotTo(HaveOccurred())
		var example v1alpha1.SidecarSet
		Expect(yaml.UnmarshalStrict(content, &example)).To(Succeed())
		Expect(unset(reflect.ValueOf(example.Spec), "Spec")).To(BeEmpty())
	})

	It("installs everything with a plain kubectl apply, and the image that make docker-build makes", func(ctx SpecContext) {
		// In a dry run no namespace comes to be that the others could be in.
		_, err := kubectl(ctx, "", "apply", "-f", "../../config/manager/namespace.yaml")
		Expect(err).NotTo(HaveOccurred())
		_, err = kubectl(ctx, "", "apply", "--dry-run=server", "-k", "../../config/default")
		Expect(err).NotTo(HaveOccurred())

		makefile, err := os.ReadFile("../../Makefile")
		Expect(err).NotTo(HaveOccurred())
		image := regexp.MustCompile(`(?m)^IMG \?= (.+)$`).FindSubmatch(makefile)
		Expect(image).NotTo(BeNil())
		Expect(kubectl(ctx, "", "kustomize", "../../config/default")).To(MatchRegexp(`(?m)^ +image: ` + regexp.QuoteMeta(string(image[1])) + `$`))
	})

	It("has CRDs that a plain kubectl apply can install", func(ctx SpecContext) {
		// What kubectl apply keeps of an object in its annotation; the API server allows 262,144 bytes for all annotations.
		files, err := filepath.Glob("../../config/crd/bases/*.yaml")
		Expect(err).NotTo(HaveOccurred())
		Expect(files).NotTo(BeEmpty())
		for _, file := range files {
			content, err := os.ReadFile(file)
			Expect(err).NotTo(HaveOccurred())
			asJSON, err := yaml.YAMLToJSON(content)
			Expect(err).NotTo(HaveOccurred())
			Expect(len(asJSON)).To(BeNumerically("<", 262_144), file)
			_, err = kubectl(ctx, "", "apply", "-f", file)
			Expect(err).NotTo(HaveOccurred())
		}
		applied, err := kubectl(ctx, "", "get", "crd", "sidecarsets.apps.sidecarset.io", "-o",
			`jsonpath={.metadata.annotations.kubectl\.kubernetes\.io/last-applied-configuration}`)
		Expect(err).NotTo(HaveOccurred())
		Expect(json.Valid([]byte(applied))).To(BeTrue())
	})
})

var _ = DescribeTable("kubectl explain has a sentence for every field of",
	func(ctx SpecContext, path string, object any) {
		explanation, err := kubectl(ctx, "", "explain", path)
		Expect(err).NotTo(HaveOccurred())
		for _, field := range fieldsOf(object) {
			// The field and its type, perhaps the values that it may have, and a description that begins with the field's name.
			Expect(explanation).To(MatchRegexp(`(?m)^  `+field+`\t.*\n(  enum: .*\n)?    `+field+` \S`), path+"."+field)
		}
	},
	func(path string, _ any) string { return path },
	Entry(nil, "sidecarset", v1alpha1.SidecarSet{}),
	Entry(nil, "sidecarset.spec", v1alpha1.SidecarSetSpec{}),
	Entry(nil, "sidecarset.spec.containers", v1alpha1.SidecarContainer{}),
	Entry(nil, "sidecarset.spec.containers.inherit", v1alpha1.Inherit{}),
	Entry(nil, "sidecarset.spec.initContainers", v1alpha1.SidecarContainer{}),
	Entry(nil, "sidecarset.spec.volumes", v1alpha1.SidecarVolume{}),
	Entry(nil, "sidecarset.spec.volumes.appMounts", v1alpha1.AppMount{}),
	Entry(nil, "sidecarset.spec.podMetadata", v1alpha1.PodMetadata{}),
	Entry(nil, "sidecarset.spec.updateStrategy", v1alpha1.UpdateStrategy{}),
	Entry(nil, "sidecarset.spec.updateStrategy.canary", v1alpha1.Canary{}),
	Entry(nil, "sidecarset.status", v1alpha1.SidecarSetStatus{}),
	Entry(nil, "sidecarset.status.problems", v1alpha1.Problem{}),
)

// unset returns the paths of the fields of ours that have no value.
func unset(value reflect.Value, path string) (paths []string) {
	switch {
	case value.Kind() == reflect.Pointer:
		return unset(value.Elem(), path)
	case value.Kind() == reflect.Slice:
		return unset(value.Index(0), path)
	case value.Kind() != reflect.Struct || value.Type().PkgPath() != reflect.TypeFor[v1alpha1.SidecarSet]().PkgPath():
		return nil
	}
	for field, value := range value.Fields() {
		switch path := path + "." + field.Name; {
		case field.Anonymous: // Kubernetes' own
		case value.IsZero():
			paths = append(paths, path)
		default:
			paths = append(paths, unset(value, path)...)
		}
	}
	return paths
}

// fieldsOf are the JSON names of the fields that a struct declares itself. Embedded types are Kubernetes' own, and so is metadata.
func fieldsOf(object any) []string {
	var names []string
	for field := range reflect.TypeOf(object).Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if !field.Anonymous && name != "metadata" {
			names = append(names, name)
		}
	}
	return names
}
