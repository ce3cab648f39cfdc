// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

// traffic makes a phase with the writes of an operator, a bare loop and a kubelet.
type traffic struct{ phase }

func (t *traffic) write(user, agent, verb, resource, name string, code, receivedMs, answeredMs int) {
	t.writes = append(t.writes, localcluster.Write{
		Verb: verb, User: localcluster.User{Name: user}, UserAgent: agent, Response: localcluster.Response{Code: code},
		Object:     localcluster.ObjectRef{Resource: resource, Name: name},
		ReceivedAt: t.start.Add(time.Duration(receivedMs) * time.Millisecond), CompletedAt: t.start.Add(time.Duration(answeredMs) * time.Millisecond),
	})
}

func TestSampleCountsTheMeasuredClientOnly(t *testing.T) {
	g := NewWithT(t)
	p := &traffic{phase{start: time.Now()}}
	p.write(operatorUser, "sidecarset/v0", "patch", "deployments", "web", 409, 50, 60)
	p.write(operatorUser, "sidecarset/v0", "patch", "deployments", "web", 200, 100, 110)
	p.write(operatorUser, "sidecarset/v0", "patch", "pods", "web-5d4-b", 200, 1050, 1500)
	p.write(operatorUser, "sidecarset/v0", "patch", "pods", "web-5d4-a", 200, 1000, 1100)
	p.write(operatorUser, "sidecarset/v0", "patch", "deployments", "web", 200, 200, 210)
	p.writes[len(p.writes)-1].RequestURI = "/apis/apps/v1/namespaces/fleet/deployments/web?dryRun=All&fieldManager=sidecarset"
	p.write(operatorUser, bareLoopAgent, "patch", "pods", "web-5d4-a", 200, 1, 9000)
	p.write(kubeletUser, "kwok", "patch", "pods", "web-5d4-a", 200, 2000, 2500)
	p.write(operatorUser, "sidecarset/v0", "patch", "replicasets", "web-5d4", 200, 3000, 3100)

	s := p.sample(isOperator)
	g.Expect(s.accepted).To(Equal(map[string]int{"patch deployments": 1, "patch deployments (dry run)": 1, "patch pods": 2, "patch replicasets": 1}))
	g.Expect(s.refused).To(Equal(map[string]int{"patch deployments": 1}))
	g.Expect(s.perPod).To(Equal(map[string]int{"web-5d4-a": 1, "web-5d4-b": 1}))
	g.Expect(s.perWorkload).To(Equal(map[string]int{"web": 2}))
	g.Expect(s.pods).To(Equal(span{count: 2, first: time.Second, last: 1500 * time.Millisecond}))
	g.Expect(patchRate(s)).To(BeNumerically("~", 4))
	g.Expect(s.podsDone).To(Equal(2500 * time.Millisecond))
	g.Expect(untilTemplatesDone(s)).To(BeNumerically("~", 3.1))
	g.Expect(s.meanwhile).To(Equal(map[string]float64{"operator: patch pods": 4}), "what was answered between 1 s and 1.5 s, twice in half a second")

	g.Expect(p.sample(isBareLoop).pods.count).To(Equal(1))
}

func TestSharesAreThoseOfTheTimeBetween(t *testing.T) {
	g := NewWithT(t)
	start := time.Now()
	p := &phase{start: start}
	for i, spent := range []time.Duration{0, 100, 500, 510} {
		at := start.Add(time.Duration(i) * time.Second)
		p.usage = append(p.usage, usage{at: at, byProgram: map[string]time.Duration{"etcd": spent * time.Millisecond}})
	}
	g.Expect(p.shares(start.Add(1100*time.Millisecond), start.Add(2200*time.Millisecond))).To(HaveKeyWithValue("etcd", BeNumerically("~", 0.4)))
	g.Expect(p.shares(start, start.Add(time.Hour))).To(HaveKeyWithValue("etcd", BeNumerically("~", 0.17)))
	g.Expect((&phase{}).shares(start, start)).To(BeEmpty())
}

func TestMedian(t *testing.T) {
	g := NewWithT(t)
	g.Expect(median([]float64{7})).To(Equal(7.0))
	g.Expect(median([]float64{9, 1, 5})).To(Equal(5.0))
	g.Expect(median([]float64{4, 1, 3, 2})).To(Equal(2.5))
}
