// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/exec"
	"path/filepath"
	"testing"

	. "github.com/onsi/gomega"
)

// A fleet of two is too small for rates, and not for what has to hold whatever the size: that every scenario runs to its end, how often the
// operator writes, and that it writes nothing after a restart.
func TestSmallFleet(t *testing.T) {
	g := NewWithT(t)
	binary := filepath.Join(t.TempDir(), "sidecarset")
	g.Expect(exec.Command("go", "build", "-o", binary, "../..").CombinedOutput()).Error().NotTo(HaveOccurred())
	b, err := newBench(t.Context(), options{workloads: 2, pods: 3, repeats: 1, concurrency: 10, operator: binary}, t.Output())
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { g.Expect(b.cluster.Stop()).To(Succeed()) })

	m, err := b.measureFleet(t.Context())
	if err != nil {
		t.Fatal(b.explain(err))
	}
	for _, column := range []*column{m.injected.limit, m.injected.operator, m.waves.limit, m.waves.columns[0]} {
		g.Expect(column.samples).To(HaveLen(1))
	}
	g.Expect(patchRate(m.waves.limit.samples[0])).To(BeNumerically(">", 0))
	g.Expect(m.waves.limit.samples[0].perPod).To(HaveLen(6))
	for _, target := range writeTargets(6, m.waves.columns) {
		g.Expect(target.met).To(BeTrue(), "%+v", target)
	}
	g.Expect(m.injected.limit.samples[0].perWorkload).To(And(HaveLen(2), HaveEach(3)))
	g.Expect(m.injected.operator.samples[0].perWorkload).To(And(HaveLen(2), HaveEach(BeNumerically("<=", 3))))
	g.Expect(m.waves.columns[0].samples[0].operatorPeak).To(BeNumerically(">", 0))
	g.Expect(m.restarted.target().met).To(BeTrue())
	t.Log(render(b.conditions(scenarios[2]), m.report()))
}
