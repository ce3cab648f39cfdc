// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

// kubeletUser is the simulated kubelet, by its name in the audit log.
const kubeletUser = "system:kwok"

// sample is what a phase came to. Times are since its start.
type sample struct {
	// accepted and refused count the measured client's writes by kind, such as "patch pods".
	accepted, refused map[string]int
	// pods are its accepted writes to pods, and workloads those to Deployments and ReplicaSets.
	pods, workloads span
	// perPod and perWorkload are how many of those each object had, by name.
	perPod, perWorkload map[string]int
	// podsDone is when the kubelet wrote the last status of a pod.
	podsDone time.Duration
	// meanwhile is how many requests to write were answered a second while the client wrote, by who sent them.
	meanwhile map[string]float64
	// processors is how many processors every program kept busy while the client wrote.
	processors map[string]float64
	// operatorTime is the operator's processor time over the whole phase, and operatorPeak its most memory, in MiB, since its start.
	operatorTime time.Duration
	operatorPeak float64
}

// span is a number of writes and when the first of them came in and the last one was answered.
type span struct {
	count       int
	first, last time.Duration
}

func (s *span) add(received, answered time.Duration) {
	if s.count == 0 || received < s.first {
		s.first = received
	}
	s.last = max(s.last, answered)
	s.count++
}

// rate is how many a second there were of so many.
func (s *span) rate(count int) float64 {
	if s.last <= s.first {
		return 0
	}
	return float64(count) / (s.last - s.first).Seconds()
}

// isOperator is true of the operator's writes.
func isOperator(write *localcluster.Write) bool {
	return write.User.Name == operatorUser && write.UserAgent != bareLoopAgent
}

// isBareLoop is true of those of the bare loop.
func isBareLoop(write *localcluster.Write) bool { return write.UserAgent == bareLoopAgent }

// sample counts what a client wrote in a phase.
func (p *phase) sample(isMeasured func(*localcluster.Write) bool) *sample {
	s := &sample{accepted: map[string]int{}, refused: map[string]int{}, perPod: map[string]int{}, perWorkload: map[string]int{}}
	for i := range p.writes {
		write := &p.writes[i]
		received, answered := write.ReceivedAt.Sub(p.start), write.CompletedAt.Sub(p.start)
		switch {
		case write.User.Name == kubeletUser && write.Object.Resource == "pods":
			s.podsDone = max(s.podsDone, answered)
		case !isMeasured(write):
		case write.Response.Code >= http.StatusBadRequest:
			s.refused[kindOf(write)]++
		default:
			s.accepted[kindOf(write)]++
			s.addAccepted(write, received, answered)
		}
	}
	first, last := s.pods.first, s.pods.last
	if s.pods.count == 0 {
		first, last = s.workloads.first, s.workloads.last
	}
	s.meanwhile = p.writesBetween(p.start.Add(first), p.start.Add(last))
	s.processors = p.shares(p.start.Add(first), p.start.Add(last))
	if len(p.usage) > 0 {
		s.operatorTime = p.usage[len(p.usage)-1].byProgram[p.operator] - p.usage[0].byProgram[p.operator]
	}
	return s
}

// writesBetween is how many requests to write to the fleet's namespace, refused ones and dry runs among them, were answered a second between two
// moments, by who sent them.
func (p *phase) writesBetween(from, to time.Time) map[string]float64 {
	result := map[string]float64{}
	if !to.After(from) {
		return result
	}
	for i := range p.writes {
		if at := p.writes[i].CompletedAt; !at.Before(from) && !at.After(to) {
			result[senderOf(&p.writes[i])] += 1 / to.Sub(from).Seconds()
		}
	}
	return result
}

// senderOf names who writes, and what.
func senderOf(write *localcluster.Write) string {
	sender := write.User.Name[strings.LastIndexByte(write.User.Name, ':')+1:]
	switch {
	case isBareLoop(write):
		sender = bareLoopAgent
	case isOperator(write):
		sender = "operator"
	}
	return sender + ": " + kindOf(write)
}

// addAccepted counts a write to a pod or a workload. A dry run writes nothing.
func (s *sample) addAccepted(write *localcluster.Write, received, answered time.Duration) {
	switch {
	case isDryRun(write):
	case write.Object.Resource == "pods":
		s.pods.add(received, answered)
		s.perPod[write.Object.Name]++
	case write.Object.Resource == "deployments":
		s.workloads.add(received, answered)
		s.perWorkload[write.Object.Name]++
	case write.Object.Resource == "replicasets":
		s.workloads.add(received, answered)
		s.perWorkload[write.Object.Name[:strings.LastIndexByte(write.Object.Name, '-')]]++
	}
}

func kindOf(write *localcluster.Write) string {
	kind := write.Verb + " " + write.Object.Resource
	if write.Object.Subresource != "" {
		kind += "/" + write.Object.Subresource
	}
	if isDryRun(write) {
		kind += " (dry run)"
	}
	return kind
}

func isDryRun(write *localcluster.Write) bool {
	return strings.Contains(write.RequestURI, "dryRun=All")
}

// total is the sum of counts.
func total(counts map[string]int) int {
	sum := 0
	for _, count := range counts {
		sum += count
	}
	return sum
}

// most is the highest of counts; zero when there is none.
func most(counts map[string]int) int {
	result := 0
	for _, count := range counts {
		result = max(result, count)
	}
	return result
}

// median of values, which are at least one.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
