// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

// Package admission tests what an API server that has config/crd accepts, and the sentence with which it refuses the rest.
package admission

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

var (
	sidecarSet        = schema.GroupVersionKind{Group: "apps.sidecarset.io", Version: "v1alpha1", Kind: "SidecarSet"}
	clusterSidecarSet = schema.GroupVersionKind{Group: "apps.sidecarset.io", Version: "v1alpha1", Kind: "ClusterSidecarSet"}

	testEnv    *envtest.Environment
	kubeconfig string
	k8sClient  client.Client
)

func TestAdmission(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Admission")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	testEnv = &envtest.Environment{}
	config, err := testEnv.Start()
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() error { return testEnv.Stop() })

	kubeconfig = filepath.Join(GinkgoT().TempDir(), "kubeconfig")
	Expect(os.WriteFile(kubeconfig, testEnv.KubeConfig, 0o600)).To(Succeed())
	k8sClient, err = client.New(config, client.Options{})
	Expect(err).NotTo(HaveOccurred())

	// A stand-in for the CRD of ClusterSidecarSet, which shares the policy.
	_, err = kubectl(ctx, "", "apply", "-f", "testdata/clustersidecarsets.yaml")
	Expect(err).NotTo(HaveOccurred())
	installPolicy(ctx)
})

// installPolicy installs config/crd as a user does, and waits until the API server has compiled the policy.
func installPolicy(ctx context.Context) {
	GinkgoHelper()
	_, err := kubectl(ctx, "", "apply", "-k", "../../config/crd")
	Expect(err).NotTo(HaveOccurred())
	for _, args := range localcluster.WaitForCRDs() {
		_, err = kubectl(ctx, "", args...)
		Expect(err).NotTo(HaveOccurred())
	}

	refused := makeSet(sidecarSet, `{selector: {}}`)
	refused.SetName("refused-once-the-policy-is-active")
	Eventually(func() error { return k8sClient.Create(ctx, refused.DeepCopy(), client.DryRunAll) }).
		WithTimeout(30 * time.Second).Should(MatchError(ContainSubstring("sidecarset-spec")))
}

// kubectl runs the kubectl of the test's Kubernetes against the test's API server. The error holds what it said.
func kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	command := exec.CommandContext(ctx, testEnv.ControlPlane.KubectlPath,
		append([]string{"--kubeconfig", kubeconfig, "--cache-dir", filepath.Dir(kubeconfig)}, args...)...)
	command.Stdin = strings.NewReader(stdin)
	var stdout, stderr strings.Builder
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// makeSet returns a set of the given kind, named log-agent, with a spec in YAML.
func makeSet(kind schema.GroupVersionKind, spec string) *unstructured.Unstructured {
	fields := map[string]any{}
	Expect(yaml.Unmarshal([]byte(spec), &fields)).To(Succeed())
	set := &unstructured.Unstructured{Object: map[string]any{"spec": fields}}
	set.SetGroupVersionKind(kind)
	set.SetName("log-agent")
	if kind == sidecarSet {
		set.SetNamespace("default")
	}
	return set
}

func dryRunCreate(ctx context.Context, kind schema.GroupVersionKind, spec string) error {
	return k8sClient.Create(ctx, makeSet(kind, spec), client.DryRunAll)
}
