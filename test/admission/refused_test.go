// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"errors"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
	"github.com/sidecarset/sidecarset/controllers/injection"
)

const (
	// policySays stands between the resource and the sentence.
	policySays = `.apps.sidecarset.io "log-agent" is forbidden: ValidatingAdmissionPolicy 'sidecarset-spec' with binding 'sidecarset-spec' denied request: `
)

const (
	dnsLabelForm = `write at most 63 lower-case letters, digits or "-", beginning and ending with a letter or digit`
	labelForm    = `write at most 63 letters, digits, "-", "_" or ".", beginning and ending with a letter or digit`
	quantityForm = `must be a number of at least 1 or a percentage from "1%" to "100%"; to change nothing for now, write paused: true`
	shareForm    = `must be a number of at least 0 or a percentage from "0%" to "100%"`
)

var _ = DescribeTable("The policy refuses, and injection.Validate says the same:",
	func(ctx SpecContext, spec, sentence string) {
		if !strings.Contains(spec, "selector:") {
			spec = "selector: {}\n" + spec
		}
		Expect(dryRunCreate(ctx, sidecarSet, spec)).To(MatchError("sidecarsets" + policySays + sentence))
		Expect(injection.Validate(parseSpec(spec))).To(HaveExactElements(sentence))
	},

	Entry("a spec with a selector only", ``,
		`spec has no container, no native sidecar and no volume: write at least one in spec.containers, in spec.initContainers with restartPolicy: Always, or in spec.volumes`),
	Entry("a set of nothing but plain init containers", `
initContainers: [{name: setup, image: busybox:1.36}]`,
		`spec has no container, no native sidecar and no volume: write at least one in spec.containers, in spec.initContainers with restartPolicy: Always, or in spec.volumes`),

	Entry("a container name that is not a DNS label", `
containers: [{name: Log_Agent, image: busybox:1.36}]`,
		`spec.containers["Log_Agent"] has a name that is not a DNS label: `+dnsLabelForm),
	Entry("a container name that is empty", `
containers: [{name: "", image: busybox:1.36}]`,
		`spec.containers[""] has a name that is not a DNS label: `+dnsLabelForm),
	Entry("an init container name that is not a DNS label", `
initContainers: [{name: -proxy, image: proxy:1.0, restartPolicy: Always}]`,
		`spec.initContainers["-proxy"] has a name that is not a DNS label: `+dnsLabelForm),
	Entry("a volume name that is not a DNS label", `
volumes: [{name: var.log, emptyDir: {}}]`,
		`spec.volumes["var.log"] has a name that is not a DNS label: `+dnsLabelForm),
	Entry("a container and an init container of one name", `
initContainers: [{name: agent, image: proxy:1.0, restartPolicy: Always}]
containers: [{name: agent, image: busybox:1.36}]`,
		`spec.initContainers["agent"] has the name of spec.containers["agent"]: rename one of them, a pod has one container of a name`),

	Entry("a container without an image", `
containers: [{name: agent}]`,
		`spec.containers["agent"] has no image: write the image to run, such as image: busybox:1.36`),
	Entry("an init container with an empty image", `
initContainers: [{name: proxy, image: "", restartPolicy: Always}]`,
		`spec.initContainers["proxy"] has no image: write the image to run, such as image: busybox:1.36`),

	Entry("inherit on a plain init container", `
initContainers: [{name: setup, image: busybox:1.36, inherit: {env: [APP_NAME]}}]
containers: [{name: agent, image: busybox:1.36}]`,
		`spec.initContainers["setup"] is an init container that does not keep running, and has inherit: remove inherit, or set restartPolicy: Always`),

	Entry("a container that mounts a volume that is not declared", `
containers:
- {name: agent, image: busybox:1.36, volumeMounts: [{name: logs, mountPath: /var/log}]}
volumes: [{name: var-logs, emptyDir: {}}]`,
		`spec.containers["agent"] mounts volume "logs", which spec.volumes does not declare: declare it there, or set inherit.volumeMounts: All`),
	Entry("a container that mounts a volume that is not declared and inherits variables only", `
containers:
- {name: agent, image: busybox:1.36, volumeMounts: [{name: logs, mountPath: /var/log}], inherit: {env: [APP_NAME]}}`,
		`spec.containers["agent"] mounts volume "logs", which spec.volumes does not declare: declare it there, or set inherit.volumeMounts: All`),
	Entry("a native sidecar that mounts a volume that is not declared", `
initContainers:
- {name: proxy, image: proxy:1.0, restartPolicy: Always, volumeMounts: [{name: certs, mountPath: /certs}]}`,
		`spec.initContainers["proxy"] mounts volume "certs", which spec.volumes does not declare: declare it there, or set inherit.volumeMounts: All`),
	Entry("a plain init container that mounts a volume that is not declared", `
initContainers: [{name: setup, image: busybox:1.36, volumeMounts: [{name: certs, mountPath: /certs}]}]
containers: [{name: agent, image: busybox:1.36}]`,
		`spec.initContainers["setup"] mounts volume "certs", which spec.volumes does not declare: declare it there`),

	Entry("an appMount with a relative path", `
volumes: [{name: logs, emptyDir: {}, appMounts: [{mountPath: usr/share/nginx/html}]}]`,
		`spec.volumes["logs"].appMounts["usr/share/nginx/html"] is not an absolute path: begin mountPath with "/"`),
	Entry("two volumes at one path of every application container", `
volumes:
- {name: logs, emptyDir: {}, appMounts: [{mountPath: /data}]}
- {name: cache, emptyDir: {}, appMounts: [{mountPath: /cache}, {mountPath: /data, containers: [web]}]}`,
		`spec.volumes["cache"].appMounts["/data"] mounts where spec.volumes["logs"] does, in the same application containers: write another mountPath, or other containers`),
	Entry("two volumes at one path of one application container", `
volumes:
- {name: logs, emptyDir: {}, appMounts: [{mountPath: /data, containers: [web, api]}]}
- {name: cache, emptyDir: {}, appMounts: [{mountPath: /data, containers: [api, worker]}]}`,
		`spec.volumes["cache"].appMounts["/data"] mounts where spec.volumes["logs"] does, in the same application containers: write another mountPath, or other containers`),

	Entry("a label of the operator in podMetadata", `
containers: [{name: agent, image: busybox:1.36}]
podMetadata: {labels: {sidecarset.io/injected: "false"}}`,
		`spec.podMetadata.labels["sidecarset.io/injected"] is a key that the operator writes: write one that does not begin with sidecarset.io/`),
	Entry("an annotation of the operator in podMetadata", `
containers: [{name: agent, image: busybox:1.36}]
podMetadata: {annotations: {sidecarset.io/revisions: "{}"}}`,
		`spec.podMetadata.annotations["sidecarset.io/revisions"] is a key that the operator writes: write one that does not begin with sidecarset.io/`),

	Entry("a selector with a bad key in matchLabels", `
selector: {matchLabels: {"app name": web}}
containers: [{name: agent, image: busybox:1.36}]`,
		`spec.selector has key "app name", which is not a label key: `+labelForm+`; a DNS subdomain and "/" may precede them`),
	Entry("a selector with a bad key in matchExpressions", `
selector: {matchExpressions: [{key: a/b/c, operator: Exists}]}
containers: [{name: agent, image: busybox:1.36}]`,
		`spec.selector has key "a/b/c", which is not a label key: `+labelForm+`; a DNS subdomain and "/" may precede them`),
	Entry("a selector with an unknown operator", `
selector: {matchExpressions: [{key: tier, operator: Equals, values: [web]}]}
containers: [{name: agent, image: busybox:1.36}]`,
		`spec.selector has operator "Equals" for key "tier": write In, NotIn, Exists or DoesNotExist`),
	Entry("a selector with In and no values", `
selector: {matchExpressions: [{key: tier, operator: In}]}
containers: [{name: agent, image: busybox:1.36}]`,
		`spec.selector has operator In for key "tier", and no values: write at least one value`),
	Entry("a selector with NotIn and no values", `
selector: {matchExpressions: [{key: tier, operator: NotIn, values: []}]}
containers: [{name: agent, image: busybox:1.36}]`,
		`spec.selector has operator NotIn for key "tier", and no values: write at least one value`),
	Entry("a selector with Exists and values", `
selector: {matchExpressions: [{key: tier, operator: Exists, values: [web]}]}
containers: [{name: agent, image: busybox:1.36}]`,
		`spec.selector has operator Exists for key "tier", and values: remove the values, or write operator In`),
	Entry("a selector with DoesNotExist and values", `
selector: {matchExpressions: [{key: tier, operator: DoesNotExist, values: [web]}]}
containers: [{name: agent, image: busybox:1.36}]`,
		`spec.selector has operator DoesNotExist for key "tier", and values: remove the values, or write operator NotIn`),
	Entry("a selector with a bad value in matchLabels", `
selector: {matchLabels: {app: "my web"}}
containers: [{name: agent, image: busybox:1.36}]`,
		`spec.selector has value "my web" for key "app", which is not a label value: `+labelForm),
	Entry("a selector with a bad value in matchExpressions", `
selector: {matchExpressions: [{key: tier, operator: In, values: [web, "-"]}]}
containers: [{name: agent, image: busybox:1.36}]`,
		`spec.selector has value "-" for key "tier", which is not a label value: `+labelForm),
	Entry("a canary selector with In and no values", `
containers: [{name: agent, image: busybox:1.36}]
updateStrategy: {canary: {selector: {matchExpressions: [{key: tier, operator: In}]}}}
selector: {}`,
		`spec.updateStrategy.canary.selector has operator In for key "tier", and no values: write at least one value`),
)

var _ = DescribeTable("The schema refuses",
	func(ctx SpecContext, spec, sentence string) {
		err := dryRunCreate(ctx, sidecarSet, spec)
		Expect(err).To(MatchError(apierrors.IsInvalid, "IsInvalid"))
		Expect(firstCause(err)).To(Equal(sentence))
	},

	Entry("a set without a selector", `
containers: [{name: agent, image: busybox:1.36}]`,
		`spec.selector: Required value`),

	Entry("two containers of one name", `
selector: {}
containers: [{name: agent, image: busybox:1.36}, {name: agent, image: busybox:1.37}]`,
		`spec.containers[1]: Duplicate value: {"name":"agent"}`),
	Entry("two init containers of one name", `
selector: {}
initContainers: [{name: agent, image: busybox:1.36}, {name: agent, image: busybox:1.37}]`,
		`spec.initContainers[1]: Duplicate value: {"name":"agent"}`),
	Entry("two volumes of one name", `
selector: {}
volumes: [{name: logs, emptyDir: {}}, {name: logs, emptyDir: {}}]`,
		`spec.volumes[1]: Duplicate value: {"name":"logs"}`),
	Entry("two appMounts of a volume at one path", `
selector: {}
volumes: [{name: logs, emptyDir: {}, appMounts: [{mountPath: /data}, {mountPath: /data, readOnly: true}]}]`,
		`spec.volumes[0].appMounts[1]: Duplicate value: {"mountPath":"/data"}`),

	Entry("maxUnavailable 0", strategy(`{maxUnavailable: 0}`),
		`spec.updateStrategy.maxUnavailable: Invalid value: 0: `+quantityForm),
	Entry("maxUnavailable 0%", strategy(`{maxUnavailable: 0%}`),
		`spec.updateStrategy.maxUnavailable: Invalid value: "0%": `+quantityForm),
	Entry("maxUnavailable over 100%", strategy(`{maxUnavailable: 101%}`),
		`spec.updateStrategy.maxUnavailable: Invalid value: "101%": `+quantityForm),
	Entry("maxUnavailable in words", strategy(`{maxUnavailable: half}`),
		`spec.updateStrategy.maxUnavailable: Invalid value: "half": `+quantityForm),
	Entry("maxConcurrentWorkloads 0", strategy(`{maxConcurrentWorkloads: 0}`),
		`spec.updateStrategy.maxConcurrentWorkloads: Invalid value: 0: `+quantityForm),
	Entry("maxConcurrentWorkloads over 100%", strategy(`{maxConcurrentWorkloads: 200%}`),
		`spec.updateStrategy.maxConcurrentWorkloads: Invalid value: "200%": `+quantityForm),
	Entry("a negative partition", strategy(`{partition: -1}`),
		`spec.updateStrategy.partition: Invalid value: -1: `+shareForm),
	Entry("a partition over 100%", strategy(`{partition: 101%}`),
		`spec.updateStrategy.partition: Invalid value: "101%": `+shareForm),
	Entry("an unknown update strategy", strategy(`{type: Recreate}`),
		`spec.updateStrategy.type: Unsupported value: "Recreate": supported values: "InPlace", "RollingUpdate"`),
	Entry("an unknown reaction to failure", strategy(`{onFailure: Ignore}`),
		`spec.updateStrategy.onFailure: Unsupported value: "Ignore": supported values: "Rollback", "Halt"`),
	Entry("negative minReadySeconds", strategy(`{minReadySeconds: -1}`),
		`spec.updateStrategy.minReadySeconds: Invalid value: -1: spec.updateStrategy.minReadySeconds in body should be greater than or equal to 0`),
	Entry("progressDeadlineSeconds 0", strategy(`{progressDeadlineSeconds: 0}`),
		`spec.updateStrategy.progressDeadlineSeconds: Invalid value: 0: spec.updateStrategy.progressDeadlineSeconds in body should be greater than or equal to 1`),
	Entry("an unknown deletion policy", `
selector: {}
containers: [{name: agent, image: busybox:1.36}]
deletionPolicy: Orphan`,
		`spec.deletionPolicy: Unsupported value: "Orphan": supported values: "Remove", "Retain"`),
	Entry("an unknown inheritance of volume mounts", `
selector: {}
containers: [{name: agent, image: busybox:1.36, inherit: {volumeMounts: Some}}]`,
		`spec.containers[0].inherit.volumeMounts: Unsupported value: "Some": supported values: "None", "All"`),

	Entry("33 containers", `
selector: {}
containers: `+listOf(33, `{name: agent-%d, image: "busybox:1.36"}`),
		`spec.containers: Too many: 33: must have at most 32 items`),
	Entry("33 init containers", `
selector: {}
initContainers: `+listOf(33, `{name: agent-%d, image: "busybox:1.36", restartPolicy: Always}`),
		`spec.initContainers: Too many: 33: must have at most 32 items`),
	Entry("33 volumes", `
selector: {}
volumes: `+listOf(33, `{name: logs-%d, emptyDir: {}}`),
		`spec.volumes: Too many: 33: must have at most 32 items`),
)

var _ = Describe("A set", Serial, Ordered, func() {
	const good = `{selector: {}, containers: [{name: agent, image: "busybox:1.36"}]}`
	const bad = `{selector: {}, containers: [{name: agent}]}`
	const sentence = `spec.containers["agent"] has no image: write the image to run, such as image: busybox:1.36`

	It("has a name of at most 63 characters", func(ctx SpecContext) {
		set := makeSet(sidecarSet, good)
		set.SetName(strings.Repeat("a", 63))
		Expect(k8sClient.Create(ctx, set.DeepCopy(), client.DryRunAll)).To(Succeed())

		set.SetName(strings.Repeat("a", 64))
		err := k8sClient.Create(ctx, set, client.DryRunAll)
		Expect(firstCause(err)).To(HaveSuffix(
			"metadata.name must have at most 63 characters: it is part of the names of the set's revisions"))
	})

	It("is refused by kubectl apply with the same sentence", func(ctx SpecContext) {
		manifest, err := yaml.Marshal(makeSet(sidecarSet, bad).Object)
		Expect(err).NotTo(HaveOccurred())
		_, err = kubectl(ctx, string(manifest), "apply", "-f", "-")
		Expect(err).To(MatchError(HaveSuffix("denied request: " + sentence + "\n")))
	})

	It("is refused when its spec becomes bad", func(ctx SpecContext) {
		set := makeSet(sidecarSet, good)
		Expect(k8sClient.Create(ctx, set)).To(Succeed())
		DeferCleanup(k8sClient.Delete, set.DeepCopy())

		set.Object["spec"] = makeSet(sidecarSet, bad).Object["spec"]
		Expect(k8sClient.Update(ctx, set)).To(MatchError(HaveSuffix(sentence)))
	})

	It("that is older than the policy can be labelled and deleted, and not changed to something bad", func(ctx SpecContext) {
		_, err := kubectl(ctx, "", "delete", "validatingadmissionpolicybinding", "sidecarset-spec")
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() error { return dryRunCreate(ctx, sidecarSet, bad) }).WithTimeout(30 * time.Second).Should(Succeed())

		set := makeSet(sidecarSet, bad)
		set.SetFinalizers([]string{v1alpha1.ReleaseFinalizer})
		Expect(k8sClient.Create(ctx, set)).To(Succeed())
		installPolicy(ctx)

		By("labelling it")
		set.SetLabels(map[string]string{"team": "platform"})
		Expect(k8sClient.Update(ctx, set)).To(Succeed())

		By("changing another field of the spec")
		changed := set.DeepCopy()
		Expect(unstructured.SetNestedField(changed.Object, "Retain", "spec", "deletionPolicy")).To(Succeed())
		Expect(k8sClient.Update(ctx, changed)).To(MatchError(HaveSuffix(sentence)))

		By("deleting it, and taking its finalizer away")
		Expect(k8sClient.Delete(ctx, set)).To(Succeed())
		Expect(k8sClient.Get(ctx, client.ObjectKeyFromObject(set), set)).To(Succeed())
		set.SetFinalizers(nil)
		Expect(k8sClient.Update(ctx, set)).To(Succeed())
		Expect(k8sClient.Get(ctx, client.ObjectKeyFromObject(set), set)).To(MatchError(apierrors.IsNotFound, "IsNotFound"))
	})
})

var _ = Describe("A cluster-wide set", func() {
	It("is held to the same policy", func(ctx SpecContext) {
		Expect(dryRunCreate(ctx, clusterSidecarSet, `{selector: {}, namespaceSelector: {}, containers: [{name: agent}]}`)).
			To(MatchError("clustersidecarsets" + policySays +
				`spec.containers["agent"] has no image: write the image to run, such as image: busybox:1.36`))
	})

	It("must have a valid namespace selector", func(ctx SpecContext) {
		Expect(dryRunCreate(ctx, clusterSidecarSet, `
selector: {}
namespaceSelector: {matchExpressions: [{key: tier, operator: Exists, values: [web]}]}
containers: [{name: agent, image: busybox:1.36}]`)).
			To(MatchError("clustersidecarsets" + policySays +
				`spec.namespaceSelector has operator Exists for key "tier", and values: remove the values, or write operator In`))
	})

	It("is accepted when there is nothing wrong", func(ctx SpecContext) {
		Expect(dryRunCreate(ctx, clusterSidecarSet, `
selector: {}
namespaceSelector: {matchLabels: {env: prod}}
containers: [{name: agent, image: busybox:1.36}]`)).To(Succeed())
	})
})

// firstCause is what kubectl prints first of a refusal by the schema. One that stops the checks of CEL rules is followed by a sentence that
// says so.
func firstCause(err error) string {
	status, ok := errors.AsType[*apierrors.StatusError](err)
	Expect(ok).To(BeTrue(), "not the API server's error: %v", err)
	cause := status.Status().Details.Causes[0]
	return cause.Field + ": " + cause.Message
}

// strategy is a valid spec but for the strategy.
func strategy(fields string) string {
	return "selector: {}\ncontainers: [{name: agent, image: busybox:1.36}]\nupdateStrategy: " + fields
}

// listOf is a YAML list of that many items, numbered.
func listOf(count int, item string) string {
	items := make([]string, count)
	for i := range items {
		items[i] = fmt.Sprintf(item, i)
	}
	return "[" + strings.Join(items, ", ") + "]"
}

func parseSpec(spec string) *v1alpha1.SidecarSetSpec {
	parsed := &v1alpha1.SidecarSetSpec{}
	Expect(yaml.UnmarshalStrict([]byte(spec), parsed)).To(Succeed())
	return parsed
}
