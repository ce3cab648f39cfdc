// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
)

//go:embed assets/kwok.yaml
var kwokConfig []byte

const (
	clientQPS   = "1000"
	clientBurst = "2000"
)

// component is a part of the cluster that is started once the API server is up.
type component struct {
	name    string
	args    func(kubeconfig, port string) []string
	env     []string
	healthz string // format of the URL, of the port
}

func (c *Cluster) controllerManager() component {
	return component{
		name: "kube-controller-manager",
		args: func(kubeconfig, port string) []string {
			return []string{
				"--kubeconfig=" + kubeconfig, "--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=" + port,
				"--service-account-private-key-file=" + filepath.Join(c.certDir(), "sa-signer.key"), "--root-ca-file=" + c.caFile(),
				"--flex-volume-plugin-dir=" + c.lifeline.path("volume-plugins"), // it makes one, as root even below /usr
				"--concurrent-deployment-syncs=20", "--concurrent-replicaset-syncs=20",
				"--kube-api-qps=" + clientQPS, "--kube-api-burst=" + clientBurst,
			}
		},
		healthz: "https://127.0.0.1:%s/healthz",
	}
}

func scheduler() component {
	return component{
		name: "kube-scheduler",
		args: func(kubeconfig, port string) []string {
			return []string{
				"--kubeconfig=" + kubeconfig, "--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=" + port,
				"--kube-api-qps=" + clientQPS, "--kube-api-burst=" + clientBurst,
			}
		},
		healthz: "https://127.0.0.1:%s/readyz",
	}
}

func (c *Cluster) kwok() component {
	return component{
		name: "kwok",
		args: func(kubeconfig, port string) []string {
			return []string{
				"--kubeconfig=" + kubeconfig, "--config=" + c.lifeline.path("kwok.yaml"), "--manage-all-nodes=true",
				"--node-lease-duration-seconds=40", "--cidr=10.244.0.0/16", "--server-address=127.0.0.1:" + port,
			}
		},
		env:     []string{"KWOK_WORKDIR=" + c.lifeline.dir}, // not the user's own configuration
		healthz: "http://127.0.0.1:%s/healthz",
	}
}

// startComponents starts all of them before it waits for the first: they need about the same time.
func (c *Cluster) startComponents(ctx context.Context, options Options) error {
	if err := os.WriteFile(c.lifeline.path("kwok.yaml"), kwokConfig, 0o600); err != nil {
		return err
	}
	components := []component{c.controllerManager(), scheduler()}
	if !options.RealNode {
		components = append(components, c.kwok())
	}
	var processes []*Process
	for _, component := range components {
		process, err := c.launchComponent(options.BinDir, component)
		if err != nil {
			return err
		}
		processes = append(processes, process)
	}
	c.ControllerManager = processes[0]
	for _, process := range processes {
		if err := process.waitHealthy(ctx); err != nil {
			return err
		}
		c.progress("%s is ready", process.Name)
	}
	return nil
}

func (c *Cluster) launchComponent(binDir string, component component) (*Process, error) {
	kubeconfig, err := c.kubeconfigFor(component.name)
	if err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	return c.launch(Program{
		Name:    component.name,
		Path:    filepath.Join(binDir, component.name),
		Args:    component.args(kubeconfig, port),
		Env:     component.env,
		Healthz: fmt.Sprintf(component.healthz, port),
	})
}

// createNodes registers nodes as a kubelet of the API server's version would; kwok makes and keeps them ready.
func (c *Cluster) createNodes(ctx context.Context, count int) error {
	discoveryClient, err := discovery.NewDiscoveryClientForConfig(c.Config)
	if err != nil {
		return err
	}
	version, err := discoveryClient.ServerVersion()
	if err != nil {
		return fmt.Errorf("asking for the server's version: %w", err)
	}
	for i := range count {
		if err := c.client.Create(ctx, makeNode(i, version.GitVersion)); err != nil {
			return fmt.Errorf("creating a node: %w", err)
		}
	}
	return nil
}

func makeNode(index int, version string) *corev1.Node {
	name := fmt.Sprintf("node-%d", index)
	room := corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse("10k"),
		corev1.ResourceMemory: resource.MustParse("100Ti"),
		corev1.ResourcePods:   resource.MustParse("100k"),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name:   name,
			Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64"},
		},
		Status: corev1.NodeStatus{
			Capacity:    room,
			Allocatable: room,
			NodeInfo: corev1.NodeSystemInfo{
				KubeletVersion: version, OperatingSystem: "linux", Architecture: "amd64", OSImage: "simulated",
				KernelVersion: "simulated", ContainerRuntimeVersion: "simulated://1.0",
			},
		},
	}
}
