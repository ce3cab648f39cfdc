// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/sidecarset/sidecarset/api/v1alpha1"
)

var _ = Describe("Acceptance 3: in a Deployment's managed fields, sidecarset", func() {
	It("owns exactly what was rendered, and is gone after deletion, when the spec is the user's byte for byte", func(ctx SpecContext) {
		shop.apply(ctx, MakeDeployment("web").Label("logging", "enabled").
			InitContainer("migrate", "app:1", mount("data", "/data")).
			Container("web", "nginx:1", mount("data", "/data"), env("APP_NAME", "shop")).
			Container("cache", "redis:1").
			Volume("data").
			Obj())
		shop.waitForRollout(ctx, "web")
		before := shop.spec(ctx, "web")

		shop.apply(ctx, logAgent().
			NativeSidecar("proxy", "proxy:1", env("PORT", "8080"), memory("16Mi")).
			PullSecret("regcred").
			PodMetadata(map[string]string{"team": "platform"}, map[string]string{"prometheus.io/scrape": "true"}).
			Obj())
		Eventually(ctx, shop.template).WithArguments("web").
			Should(HaveExactElements("proxy=proxy:1", "migrate=app:1", "web=nginx:1", "cache=redis:1", "log-agent=busybox:1"))
		shop.waitUntilReady(ctx, "log-agent")

		owned := shop.owned(ctx, "web")
		Expect(owned).To(HaveLen(2))
		Expect(owned[metav1.ManagedFieldsOperationApply]).To(ConsistOf(
			`.spec.template.metadata.annotations.prometheus.io/scrape`,
			`.spec.template.metadata.annotations.sidecarset.io/containers`,
			`.spec.template.metadata.annotations.sidecarset.io/revisions`,
			`.spec.template.metadata.labels.sidecarset.io/injected`,
			`.spec.template.metadata.labels.team`,
			`.spec.template.spec.containers[name="cache"].volumeMounts[mountPath="/usr/share/nginx/html"].mountPath`,
			`.spec.template.spec.containers[name="cache"].volumeMounts[mountPath="/usr/share/nginx/html"].name`,
			`.spec.template.spec.containers[name="cache"].volumeMounts[mountPath="/usr/share/nginx/html"].readOnly`,
			`.spec.template.spec.containers[name="log-agent"].image`,
			`.spec.template.spec.containers[name="log-agent"].name`,
			`.spec.template.spec.containers[name="log-agent"].volumeMounts[mountPath="/var/log"].mountPath`,
			`.spec.template.spec.containers[name="log-agent"].volumeMounts[mountPath="/var/log"].name`,
			`.spec.template.spec.containers[name="web"].volumeMounts[mountPath="/usr/share/nginx/html"].mountPath`,
			`.spec.template.spec.containers[name="web"].volumeMounts[mountPath="/usr/share/nginx/html"].name`,
			`.spec.template.spec.containers[name="web"].volumeMounts[mountPath="/usr/share/nginx/html"].readOnly`,
			`.spec.template.spec.imagePullSecrets[name="regcred"]`,
			`.spec.template.spec.initContainers[name="proxy"].env[name="PORT"].name`,
			`.spec.template.spec.initContainers[name="proxy"].env[name="PORT"].value`,
			`.spec.template.spec.initContainers[name="proxy"].image`,
			`.spec.template.spec.initContainers[name="proxy"].name`,
			`.spec.template.spec.initContainers[name="proxy"].resources.requests.memory`,
			`.spec.template.spec.initContainers[name="proxy"].restartPolicy`,
			`.spec.template.spec.volumes[name="var-logs"].emptyDir`,
			`.spec.template.spec.volumes[name="var-logs"].name`,
		))
		Expect(owned[metav1.ManagedFieldsOperationUpdate]).To(ConsistOf(`.metadata.annotations.sidecarset.io/target-revisions`))

		shop.kubectl(ctx, "delete", "scs", "log-agent", "--timeout=60s")
		Expect(shop.traces(ctx, "web")).To(BeEmpty())
		Expect(shop.spec(ctx, "web")).To(Equal(before))
	})

	It("takes no field from a user who has one already: two of a pull secret's users share it", func(ctx SpecContext) {
		shop.applyServerSide(ctx, web("web").Obj())
		shop.kubectl(ctx, "patch", "deployment", "web", "--type=merge",
			"-p", `{"spec":{"template":{"metadata":{"labels":{"team":"platform"}},"spec":{"imagePullSecrets":[{"name":"regcred"}]}}}}`)
		shop.waitForRollout(ctx, "web")
		before := shop.spec(ctx, "web")

		shop.apply(ctx, logAgent().PullSecret("regcred").PodMetadata(map[string]string{"team": "platform"}, nil).Obj())
		Eventually(ctx, shop.template).WithArguments("web").Should(HaveExactElements("web=nginx:1", "log-agent=busybox:1"))

		shop.kubectl(ctx, "delete", "scs", "log-agent", "--timeout=60s")
		Expect(shop.traces(ctx, "web")).To(BeEmpty())
		Expect(shop.spec(ctx, "web")).To(Equal(before))
	})
})

// owned returns the leaves that our field manager owns of a Deployment, by operation.
func (n *namespace) owned(ctx SpecContext, name string) map[metav1.ManagedFieldsOperationType][]string {
	GinkgoHelper()
	owned := map[metav1.ManagedFieldsOperationType][]string{}
	for _, entry := range n.deployment(ctx, name).ManagedFields {
		if entry.Manager != v1alpha1.FieldManager {
			continue
		}
		fields := fieldpath.NewSet()
		Expect(fields.FromJSON(bytes.NewReader(entry.FieldsV1.GetRawBytes()))).To(Succeed())
		fields.Leaves().Iterate(func(path fieldpath.Path) { owned[entry.Operation] = append(owned[entry.Operation], path.String()) })
	}
	return owned
}
