// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

// The operator runs elsewhere in these specs without leader election, metrics and probes, of which config/manager has all.
var _ = Describe("Replicas of the operator, with the flags of config/manager:", Ordered, func() {
	var replicas map[string]*localcluster.Process
	startedAt := map[string]int{} // where in its log a replica was started last
	var metrics string            // the address of one of them
	BeforeAll(func(ctx SpecContext) {
		takeOperatorAway((*localcluster.Process).Stop)
		replicas = map[string]*localcluster.Process{}
		for _, name := range []string{"replica-1", "replica-2"} {
			var health string
			metrics, health = freeAddress(), freeAddress()
			replica, err := cluster.Run(ctx, localcluster.Program{
				Name: name, Path: operatorBinary, Healthz: "http://" + health + "/readyz",
				Args: append(managerArgs(metrics, health), "--kubeconfig="+operatorKubeconfigFile()),
			})
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(func() error { return replica.Kill() })
			replicas[name] = replica
		}
	})
	// leader is the replica that runs and has become the leader since it was started last.
	leader := func() (leading string) {
		for name, replica := range replicas {
			select {
			case <-replica.Done():
				continue
			default:
			}
			log, err := os.ReadFile(replica.LogFile)
			Expect(err).NotTo(HaveOccurred())
			if bytes.Contains(log[startedAt[name]:], []byte("Successfully acquired lease")) {
				leading += name
			}
		}
		return leading
	}
	startAgain := func(ctx context.Context, name string) {
		GinkgoHelper()
		log, err := os.ReadFile(replicas[name].LogFile)
		Expect(err).NotTo(HaveOccurred())
		startedAt[name] = len(log)
		Expect(replicas[name].Start(ctx)).To(Succeed())
	}

	It("one works, and when it is killed in the middle of an update, the other one finishes that", func(ctx SpecContext) {
		set := logAgent()
		shop.apply(ctx, web("web").Replicas(10).Obj())
		shop.inject(ctx, set, "web")
		before, replicaSets := shop.runs(ctx, "web"), shop.replicaSetsOf(ctx, "web")
		first := leader()
		Expect(replicas).To(HaveKey(first), "one of them leads, and not both")
		shop.apply(ctx, set.Image("log-agent", "busybox:2").Obj())
		Eventually(ctx, shop.images).WithArguments("web").WithPolling(interval / 2).Should(HaveKeyWithValue("web=nginx:1 log-agent=busybox:2", BeNumerically(">=", 2)))
		Expect(replicas[first].Kill()).To(Succeed())
		halfway, err := shop.images(ctx, "web")
		Expect(err).NotTo(HaveOccurred())
		Expect(halfway).To(HaveKeyWithValue("web=nginx:1 log-agent=busybox:1", BeNumerically(">=", 1)))

		Eventually(leader).WithTimeout(time.Minute).Should(Not(BeEmpty()))
		shop.comesTo(ctx, "web", 10, "web=nginx:1", "log-agent=busybox:2")
		Eventually(ctx, shop.promotion).WithArguments("web").Should(Equal(atRest))
		Expect(shop.replicaSetsOf(ctx, "web")).To(ConsistOf(replicaSets))
		for pod, containers := range shop.runs(ctx, "web") {
			Expect(containers["web"]).To(Equal(before[pod]["web"]))
			Expect(containers["log-agent"].Restarts).To(BeEquivalentTo(1))
		}
	})

	It("one that is stopped hands over at once", func(ctx SpecContext) {
		first := leader()
		for name := range replicas {
			if name != first {
				startAgain(ctx, name) // it was killed
			}
		}
		Expect(replicas[first].Stop()).To(Succeed())
		Eventually(leader).WithTimeout(10*time.Second).Should(Not(BeEmpty()), "a lease is for 15 seconds, and was released")
		shop.apply(ctx, web("web").Obj(), logAgent().Obj())
		shop.waitUntilReady(ctx, "log-agent")
		startAgain(ctx, first)
	})

	It("metrics are served by TLS, to whom RBAC lets read them", func(ctx SpecContext) {
		shop.kubectl(ctx, "create", "serviceaccount", "scraper")
		token := func() string { return strings.TrimSpace(shop.kubectl(ctx, "create", "token", "scraper")) }
		Eventually(ctx, scrape).WithArguments(metrics, "").Should(HavePrefix("401"), "a replica is ready while it makes its certificate")
		Expect(scrape(ctx, metrics, token())).To(HavePrefix("403"))
		shop.kubectl(ctx, "create", "clusterrolebinding", shop.name, "--clusterrole=sidecarset-metrics-reader", "--serviceaccount="+shop.name+":scraper")
		DeferCleanup(func(ctx SpecContext) { shop.kubectl(ctx, "delete", "clusterrolebinding", shop.name) })
		Eventually(ctx, scrape).WithArguments(metrics, token()).Should(And(HavePrefix("200"), ContainSubstring("\nworkqueue_depth{")))
	})
})

// managerArgs are the flags of the operator in config/manager, with other addresses.
func managerArgs(metrics, health string) (args []string) {
	GinkgoHelper()
	manifest, err := os.ReadFile(filepath.Join("..", "..", "config", "manager", "manager.yaml"))
	Expect(err).NotTo(HaveOccurred())
	var deployment appsv1.Deployment
	Expect(yaml.UnmarshalStrict(manifest, &deployment)).To(Succeed())
	args = slices.Clone(deployment.Spec.Template.Spec.Containers[0].Args)
	Expect(args).To(ContainElements("--leader-elect", "--metrics-bind-address=:8443", "--health-probe-bind-address=:8081"))
	for i, arg := range args {
		args[i] = strings.NewReplacer(":8443", metrics, ":8081", health).Replace(arg)
	}
	return args
}

// freeAddress is one on loopback that nobody listened on a moment ago.
func freeAddress() string {
	GinkgoHelper()
	port, err := localcluster.FreePort()
	Expect(err).NotTo(HaveOccurred())
	return net.JoinHostPort("127.0.0.1", port)
}

// scrape returns the status and the body of the answer to a request for metrics.
func scrape(ctx context.Context, address, token string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/metrics", http.NoBody)
	if err != nil {
		return "", err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // it signs for itself
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.Status + "\n" + string(body), err
}
