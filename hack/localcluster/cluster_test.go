// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package localcluster_test

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

const (
	timeout  = 20 * time.Second
	interval = 50 * time.Millisecond
)

func TestTwoClustersSideBySide(t *testing.T) {
	g := NewWithT(t)
	clusters := make([]*localcluster.Cluster, 2)
	var wg sync.WaitGroup
	for i := range clusters {
		wg.Go(func() { clusters[i] = startCluster(t, localcluster.Options{Nodes: 2}) })
	}
	wg.Wait()

	for _, cluster := range clusters {
		c := clientFor(g, cluster.Config)
		var nodes corev1.NodeList
		g.Expect(c.List(t.Context(), &nodes)).To(Succeed())
		g.Expect(nodes.Items).To(HaveLen(2))

		deployment := makeDeployment(3)
		g.Expect(c.Create(t.Context(), deployment)).To(Succeed())
		g.Eventually(availableReplicas(t, c, deployment), timeout, interval).Should(BeEquivalentTo(3))
	}

	for _, cluster := range clusters {
		g.Expect(cluster.Stop()).To(Succeed())
		g.Expect(cluster.Dir).NotTo(BeADirectory())
		g.Expect(processesNaming(g, cluster.Dir)).To(BeEmpty())
	}
}

func TestControllerManagerCanBeAway(t *testing.T) {
	g := NewWithT(t)
	cluster := startCluster(t, localcluster.Options{Audit: true})
	c := clientFor(g, cluster.Config)

	g.Expect(cluster.ControllerManager.Stop()).To(Succeed())
	deployment := makeDeployment(1)
	g.Expect(c.Create(t.Context(), deployment)).To(Succeed())
	g.Consistently(availableReplicas(t, c, deployment), time.Second, interval).Should(BeZero())

	g.Expect(cluster.ControllerManager.Start(t.Context())).To(Succeed())
	g.Eventually(availableReplicas(t, c, deployment), timeout, interval).Should(BeEquivalentTo(1))

	writes, err := cluster.Writes()
	g.Expect(err).NotTo(HaveOccurred())
	isReplicaSetCreation := func(write localcluster.Write) bool {
		return write.Verb == "create" && write.Object.Resource == "replicasets" && write.Response.Code == 201 &&
			write.User.Name == "system:kube-controller-manager" && strings.HasPrefix(write.UserAgent, "kube-controller-manager/")
	}
	g.Expect(slices.ContainsFunc(writes, isReplicaSetCreation)).To(BeTrue())
	isRead := func(write localcluster.Write) bool {
		return write.Verb == "get" || write.Verb == "list" || write.Verb == "watch"
	}
	g.Expect(slices.ContainsFunc(writes, isRead)).To(BeFalse())
}

func TestProgramsEndWithTheCluster(t *testing.T) {
	g := NewWithT(t)
	cluster := startCluster(t, localcluster.Options{})
	// A program that hears no signal, and names the cluster's directory as every program must.
	stubborn, err := cluster.Run(t.Context(), localcluster.Program{
		Name: "stubborn", Path: "/bin/sh", Args: []string{"-c", "trap '' TERM; while :; do sleep 0.1; done", cluster.Kubeconfig},
	})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(cluster.Stop()).To(Succeed())
	g.Eventually(stubborn.Done()).Should(BeClosed())
}

func TestFailedStartSaysWhatToDoAndLeavesNothing(t *testing.T) {
	g := NewWithT(t)
	t.Setenv("TMPDIR", t.TempDir())
	_, err := localcluster.Start(t.Context(), localcluster.Options{BinDir: "nowhere"})
	g.Expect(err).To(MatchError(ContainSubstring("nowhere/etcd not found: run `make kubernetes` first")))
	g.Expect(os.ReadDir(os.TempDir())).To(BeEmpty())
}

func startCluster(t *testing.T, options localcluster.Options) *localcluster.Cluster {
	t.Helper()
	cluster, err := localcluster.Start(t.Context(), options)
	if err != nil {
		t.Error(err)
		return nil
	}
	t.Cleanup(func() { _ = cluster.Stop() }) // the second time, after a test that stopped it, is an error
	return cluster
}

func clientFor(g Gomega, config *rest.Config) client.Client {
	c, err := client.New(config, client.Options{})
	g.Expect(err).NotTo(HaveOccurred())
	return c
}

func makeDeployment(replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": "web"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "nginx:1"}}},
			},
		},
	}
}

func availableReplicas(t *testing.T, c client.Client, deployment *appsv1.Deployment) func() (int32, error) {
	return func() (int32, error) {
		err := c.Get(t.Context(), client.ObjectKeyFromObject(deployment), deployment)
		return deployment.Status.AvailableReplicas, err
	}
}

func processesNaming(g Gomega, dir string) []string {
	out, err := exec.Command("ps", "-A", "-o", "args=").Output()
	g.Expect(err).NotTo(HaveOccurred())
	return slices.DeleteFunc(strings.Split(string(out), "\n"), func(args string) bool { return !strings.Contains(args, dir) })
}
