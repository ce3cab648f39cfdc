// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

// Command bench measures the operator as a whole process against what the API server can take. docs/benchmark.md has the figures of its
// last runs; it writes them there itself.
//
// # What is compared
//
// On one cluster (hack/localcluster: a real control plane, simulated nodes), in one run and one after the other, so that both meet the same machine.
// But for the fleet of 1,000, each repeat has a cluster of its own:
//
//   - the limit: a bare loop that sends the very patches that the operator would send, made ready beforehand, with as many requests under way as
//     the operator reconciles workloads, no client-side rate limit, the same ServiceAccount, and nothing else to do;
//   - a wave: the operator's own way from a changed image to updated pods and templates. Its client is given so high a rate that it is not
//     limited by that either.
//
// The rate of either is its accepted pod patches over the time from the first one's arrival at the API server to the last one's answer.
//
// # Where figures come from
//
// Every write, with its time, is read off the API server's audit log, which stands in no one's way more than in another's. Processor time and memory
// are the kernel's account of whole processes, in /proc. A figure of several repeats is their median; a ratio is the median of the
// ratios of each repeat. Nothing is asserted about time: other work on the machine shows in the figures, and the table says how much there was.
package main
