// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

const (
	serverPort = 8080
	// requestEvery is the pause between two requests of a client to one pod.
	requestEvery = 50 * time.Millisecond
)

// makeImages makes images that can be pulled, whose containers do nothing until they are asked to end. It returns their digests.
func makeImages(names ...string) (digests []string) {
	GinkgoHelper()
	for _, name := range names {
		digests = append(digests, makeImage(localcluster.Image{Name: name}))
	}
	return digests
}

// makeImage makes an image that can be pulled, and returns its digest.
func makeImage(image localcluster.Image) string {
	GinkgoHelper()
	digest, err := cluster.Node.Images.Add(image)
	Expect(err).NotTo(HaveOccurred())
	return digest
}

// server is an application that answers requests with the name of its image.
func server(name string) *deployment {
	GinkgoHelper()
	makeImage(localcluster.Image{Name: "web:1", Command: []string{"sh", "-c", fmt.Sprintf("exec httpd -f -p %d -h /etc", serverPort)}})
	return MakeDeployment(name).Container("web", "web:1", func(c *corev1.Container) {
		c.ReadinessProbe = &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/image-tag", Port: intstr.FromInt32(serverPort)}},
			PeriodSeconds: 1,
		}
	})
}

// CPU gives all containers and native sidecars another CPU request.
func (s *sidecarSet) CPU(quantity string) *sidecarSet {
	requests := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(quantity)}
	for i := range s.object.Spec.Containers {
		s.object.Spec.Containers[i].Resources.Requests = requests
	}
	for i := range s.object.Spec.InitContainers {
		s.object.Spec.InitContainers[i].Resources.Requests = requests
	}
	return s
}

// settle waits until a set says that a Deployment's pods and template are as it declares, and expects that so they are.
func (n *namespace) settle(ctx context.Context, deployment, set string) {
	GinkgoHelper()
	Eventually(ctx, n.promotion).WithArguments(deployment).Should(Equal(atRest))
	n.waitForRollout(ctx, deployment)
	Eventually(ctx, n.condition).WithArguments(set, "Ready").Should(Equal("True/AllPodsUpdated"))
	object := n.deployment(ctx, deployment)
	Expect(object.Status.ObservedGeneration).To(Equal(object.Generation))
	Expect(object.Status.UpdatedReplicas).To(Equal(*object.Spec.Replicas))
}

// runningPods are the pods of a Deployment that are not terminating.
func (n *namespace) runningPods(ctx context.Context, deployment string) ([]corev1.Pod, error) {
	var list corev1.PodList
	err := k8s.List(ctx, &list, client.InNamespace(n.name), client.MatchingLabels{"app": deployment})
	var pods []corev1.Pod
	for i := range list.Items {
		if list.Items[i].DeletionTimestamp.IsZero() {
			pods = append(pods, list.Items[i])
		}
	}
	return pods, err
}

// statusOf is what a pod's status says of a container or native sidecar.
func statusOf(pod *corev1.Pod, container string) corev1.ContainerStatus {
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range statuses {
			if statuses[i].Name == container {
				return statuses[i]
			}
		}
	}
	return corev1.ContainerStatus{}
}

// cpu returns, for each pod of a Deployment, the CPU request that its kubelet reports of a container.
func (n *namespace) cpu(ctx context.Context, deployment, container string) (quantities []string, err error) {
	pods, err := n.runningPods(ctx, deployment)
	for i := range pods {
		if resources := statusOf(&pods[i], container).Resources; resources != nil {
			quantities = append(quantities, resources.Requests.Cpu().String())
		}
	}
	return quantities, err
}

// madeAs returns, for each pod of a Deployment, the name under which the image was made that a container runs, as one finds it in there.
func (n *namespace) madeAs(ctx context.Context, deployment, container string) (names []string, err error) {
	pods, err := n.runningPods(ctx, deployment)
	if err != nil {
		return nil, err
	}
	for i := range pods {
		name, err := n.run(n.command(ctx, "exec", pods[i].Name, "-c", container, "--", "cat", localcluster.TagFile))
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// downtimes returns, for each pod of a Deployment, how long a container did not run between its last end and its last start, to the second.
func (n *namespace) downtimes(ctx context.Context, deployment, container string) (downtimes []time.Duration, err error) {
	pods, err := n.runningPods(ctx, deployment)
	for i := range pods {
		status := statusOf(&pods[i], container)
		if status.State.Running == nil || status.LastTerminationState.Terminated == nil {
			return nil, fmt.Errorf("%s has not restarted in %s", container, pods[i].Name)
		}
		downtimes = append(downtimes, status.State.Running.StartedAt.Sub(status.LastTerminationState.Terminated.FinishedAt.Time))
	}
	return downtimes, err
}

// mostRestarting is how many pods at the same time had been updated and did not yet run these containers anew and ready. The status of
// a pod says nothing of that for a while: a kubelet goes on reporting the container that it is about to kill as it was.
func mostRestarting(events []recorded[*corev1.Pod], before map[types.UID]map[string]run, containers ...string) (result int) {
	restarting := map[types.UID]bool{}
	for _, event := range events {
		old, existed := before[event.object.UID]
		if !existed {
			continue
		}
		runsAnew := isReady(event.object)
		for _, name := range containers {
			runsAnew = runsAnew && statusOf(event.object, name).ContainerID != old[name].ID
		}
		delete(restarting, event.object.UID)
		if event.object.Generation > 1 && !runsAnew && !event.gone {
			restarting[event.object.UID] = true
		}
		result = max(result, len(restarting))
	}
	return result
}

// clients request the pods of a Deployment, each over and over, on a new connection each time.
type clients struct {
	stop    context.CancelFunc
	done    sync.WaitGroup
	started time.Time

	lock     sync.Mutex
	answers  map[string]int // by pod
	failures []string
}

// request lets clients request the pods of servers, under their own addresses, until the spec asks how it went.
func (n *namespace) request(ctx context.Context, deployments ...string) *clients {
	GinkgoHelper()
	var pods []corev1.Pod
	for _, deployment := range deployments {
		running, err := n.runningPods(ctx, deployment)
		Expect(err).NotTo(HaveOccurred())
		pods = append(pods, running...)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	c := &clients{stop: stop, started: time.Now(), answers: map[string]int{}}
	DeferCleanup(stop)
	transport := &http.Transport{DialContext: cluster.Node.Dial, DisableKeepAlives: true}
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	for i := range pods {
		name, url := pods[i].Name, fmt.Sprintf("http://%s/image-tag", net.JoinHostPort(pods[i].Status.PodIP, strconv.Itoa(serverPort)))
		c.done.Go(func() { c.run(ctx, client, name, url) })
	}
	return c
}

func (c *clients) run(ctx context.Context, client *http.Client, pod, url string) {
	ticker := time.NewTicker(requestEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			c.record(pod, get(client, url))
		}
	}
}

func (c *clients) record(pod string, err error) {
	c.lock.Lock()
	defer c.lock.Unlock()
	if err != nil {
		c.failures = append(c.failures, fmt.Sprintf("%s after %.1f s: %s", pod, time.Since(c.started).Seconds(), err))
		return
	}
	c.answers[pod]++
}

func get(client *http.Client, url string) error {
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && (response.StatusCode != http.StatusOK || string(body) != "web:1") {
		err = fmt.Errorf("%s: %q", response.Status, body)
	}
	return err
}

// expectNoFailure ends the requests and expects that all have been answered, as many as could be asked in that time.
func (c *clients) expectNoFailure(pods int) {
	GinkgoHelper()
	c.stop()
	c.done.Wait()
	took := time.Since(c.started)
	Expect(c.failures).To(BeEmpty())
	Expect(c.answers).To(HaveLen(pods))
	// A busy machine is late for many.
	Expect(c.answers).To(HaveEach(BeNumerically(">=", took/requestEvery/10)), "in %s", took)
	AddReportEntry(fmt.Sprintf("requests answered within %.1f s: %v", took.Seconds(), c.answers))
}
