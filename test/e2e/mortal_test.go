// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/client-go/tools/clientcmd"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/sidecarset/sidecarset/controllers"
)

// The operator's writes by what they are for.
const (
	finalizerWrite   = "finalizer of a set"
	revisionCreation = "creation of a revision"
	revisionPatch    = "renumbering of a revision"
	revisionDeletion = "deletion of a revision"
	statusWrite      = "status"
	lastStatusWrite  = "status that says that all is done"
	slipWrite        = "order slip"
	podResize        = "resize of a pod"
	podPatch         = "patch of a pod"
	promotionBegin   = "begin of a promotion"
	twinDeletion     = "deletion of a twin"
	replicaSetPatch  = "patch of a ReplicaSet"
	templateWrite    = "template that nothing pauses" // which ends a promotion
	fieldsHandBack   = "hand-back of fields"
)

// fate is what becomes of a write.
type fate int

const (
	passes fate = iota
	// isRefused: it is not sent, as if the API server were not there.
	isRefused
	// diesBefore: the operator dies before it is sent. diesAfter: the API server has carried it out, and the operator dies before it knows.
	diesBefore
	diesAfter
)

// errDead is what a dead operator gets from its requests.
var errDead = errors.New("the operator is dead")

// mortal is the operator in this process, at work in one namespace with the permissions that it has in a cluster. Each of its writes meets with
// a fate. Events are not counted among them: nothing is decided from those.
type mortal struct {
	namespace string
	// fateOf is asked for the fate of each write; earlier is how many of the same name the API server has carried out.
	fateOf func(write string, earlier int) fate
	log    bytes.Buffer
	kill   context.CancelFunc
	// done is closed when nothing of the operator runs any more.
	done chan struct{}

	lock sync.Mutex
	// writes are those that the API server has carried out, oldest first.
	writes []string
	diedAt time.Time
}

// startMortal starts an operator. It ends with the spec, or the container whose BeforeAll calls it.
func startMortal(ctx context.Context, namespace string, fateOf func(write string, earlier int) fate) (*mortal, error) {
	m := &mortal{namespace: namespace, fateOf: fateOf, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	m.kill = func() {
		m.die()
		cancel()
	}
	mgr, err := m.newManager(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	go func() {
		defer close(m.done)
		if err := mgr.Start(ctx); err != nil {
			fmt.Fprintln(GinkgoWriter, namespace, err)
		}
	}()
	return m, nil
}

func (m *mortal) newManager(ctx context.Context) (ctrl.Manager, error) {
	restConfig, err := clientcmd.BuildConfigFromFlags("", operatorKubeconfigFile())
	if err != nil {
		return nil, err
	}
	restConfig.QPS, restConfig.Burst = 50, 100 // the operator's defaults
	restConfig.Wrap(func(next http.RoundTripper) http.RoundTripper { return mortalTransport{m, next} })
	mgr, err := ctrl.NewManager(restConfig, ctrl.Options{
		Scheme:                 k8s.Scheme(),
		Cache:                  controllers.CacheOptions([]string{m.namespace}),
		Metrics:                metricsserver.Options{BindAddress: "0"},
		HealthProbeBindAddress: "0",
		Controller:             config.Controller{SkipNameValidation: new(true)}, // there are others in this process
		Logger:                 zap.New(zap.WriteTo(m)),
	})
	if err != nil {
		return nil, err
	}
	return mgr, controllers.Setup(ctx, mgr, controllers.Options{OperatorNamespace: operatorNamespace, ConcurrentWorkloads: 10})
}

// Write takes a line of the operator's log.
func (m *mortal) Write(line []byte) (int, error) {
	m.lock.Lock()
	defer m.lock.Unlock()
	return m.log.Write(line)
}

// die lets no request of the operator's through any more.
func (m *mortal) die() {
	m.lock.Lock()
	defer m.lock.Unlock()
	if m.diedAt.IsZero() {
		m.diedAt = time.Now()
	}
}

func (m *mortal) isDead() bool {
	m.lock.Lock()
	defer m.lock.Unlock()
	return !m.diedAt.IsZero()
}

// written are the writes that the API server has carried out, counted.
func (m *mortal) written() map[string]int {
	m.lock.Lock()
	defer m.lock.Unlock()
	counts := map[string]int{}
	for _, write := range m.writes {
		counts[write]++
	}
	return counts
}

// describe writes what an operator did, for a failure.
func (m *mortal) describe() {
	m.lock.Lock()
	defer m.lock.Unlock()
	fmt.Fprintf(GinkgoWriter, "%s\nwrites: %s\n", m.log.String(), strings.Join(m.writes, ", "))
}

// mortalTransport carries an operator's requests.
type mortalTransport struct {
	operator *mortal
	next     http.RoundTripper
}

func (t mortalTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	if t.operator.isDead() {
		return nil, errDead
	}
	isDryRun := request.URL.Query().Get("dryRun") != "" // which changes nothing
	if isDryRun || request.Method == http.MethodGet || strings.HasSuffix(request.URL.Path, "/events") || strings.Contains(request.URL.Path, "/events/") {
		return t.next.RoundTrip(request)
	}
	write, request, err := nameOf(request)
	if err != nil {
		return nil, err
	}
	return t.send(request, write)
}

func (t mortalTransport) send(request *http.Request, write string) (*http.Response, error) {
	fate := t.operator.fateOf(write, t.operator.written()[write])
	switch fate {
	case isRefused:
		return nil, fmt.Errorf("the %s is not let through", write)
	case diesBefore:
		t.operator.kill()
		return nil, errDead
	default:
	}
	response, err := t.next.RoundTrip(request)
	if err != nil || response.StatusCode >= http.StatusBadRequest {
		return response, err
	}
	t.operator.lock.Lock()
	t.operator.writes = append(t.operator.writes, write)
	t.operator.lock.Unlock()
	if fate == diesAfter {
		t.operator.kill()
		return nil, errors.Join(errDead, response.Body.Close())
	}
	return response, nil
}

// nameOf names a write, and returns it to be sent.
func nameOf(request *http.Request) (string, *http.Request, error) {
	var body []byte
	if request.Body != nil {
		var err error
		if body, err = io.ReadAll(request.Body); err != nil {
			return "", nil, err
		}
		request = request.Clone(request.Context())
		request.Body = io.NopCloser(bytes.NewReader(body))
	}
	// /api/v1/namespaces/shop/pods/web-1/resize: what is between the namespace and the name, and what is after it.
	_, path, _ := strings.Cut(request.URL.Path, "/namespaces/")
	parts := append(strings.Split(path, "/"), "", "", "")
	resource, subresource := parts[1], parts[3]
	verb := request.Method
	if verb == http.MethodPatch {
		_, verb, _ = strings.Cut(request.Header.Get("Content-Type"), "/")
	}
	switch what := verb + " " + strings.Trim(resource+"/"+subresource, "/"); what {
	case "merge-patch+json sidecarsets/status":
		if bytes.Contains(body, []byte("AllPodsUpdated")) {
			return lastStatusWrite, request, nil
		}
		return statusWrite, request, nil
	case "apply-patch+yaml deployments":
		if bytes.Contains(body, []byte(`"paused":true`)) {
			return promotionBegin, request, nil
		}
		return templateWrite, request, nil
	default:
		if name, ok := writeNames[what]; ok {
			return name, request, nil
		}
		return what, request, nil
	}
}

// writeNames are those that the verb, or the form of a patch, and the resource tell.
var writeNames = map[string]string{
	"merge-patch+json sidecarsets":         finalizerWrite,
	"POST controllerrevisions":             revisionCreation,
	"merge-patch+json controllerrevisions": revisionPatch,
	"DELETE controllerrevisions":           revisionDeletion,
	"merge-patch+json deployments":         slipWrite,
	"json-patch+json deployments":          fieldsHandBack,
	"json-patch+json pods/resize":          podResize,
	"json-patch+json pods":                 podPatch,
	"DELETE replicasets":                   twinDeletion,
	"json-patch+json replicasets":          replicaSetPatch,
}

// lives is the fate of an operator that nothing befalls.
func lives(string, int) fate { return passes }

// killMortal kills an operator and waits until nothing of it runs.
func killMortal(m *mortal) {
	GinkgoHelper()
	m.kill()
	Eventually(m.done).Should(BeClosed())
}
