// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package localcluster

// WaitForCRDs are the arguments of two commands of kubectl that, one after the other, wait until all CRDs are served. Without the first one, the second
// fails when it sees a CRD that has "conditions: null" still (ConditionalWait.checkCondition in k8s.io/kubectl/pkg/cmd/wait/condition.go).
func WaitForCRDs() [][]string {
	return [][]string{
		{"wait", "--for=jsonpath={.status.conditions[0].type}", "--timeout=60s", "crd", "--all"},
		{"wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"},
	}
}
