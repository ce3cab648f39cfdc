// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

// measured makes the sample of so many patches within a second.
func measured(patches, refused int) *sample {
	return &sample{
		accepted: map[string]int{"patch pods": patches}, refused: map[string]int{"patch pods": refused},
		pods: span{count: patches, first: time.Second, last: 2 * time.Second},
	}
}

func TestTableOfMediansAndRatios(t *testing.T) {
	g := NewWithT(t)
	limit := &column{title: "limit", samples: []*sample{measured(100, 0), measured(300, 0), measured(200, 0)}}
	wave := &column{title: "wave", samples: []*sample{measured(90, 2), measured(150, 0), measured(140, 4)}, limits: limit.samples}
	all := []*column{limit, wave}
	text := render("Conditions.", []section{
		{"Main:", table(all, []line{{"rate", figure("%.0f", patchRate)}, {"ratio", ratioOf(patchRate)}})},
		{"Writes:", writesByKind(all)},
	})
	g.Expect(text).To(Equal(`Conditions.

Main:

|       | limit         | wave         |
| ----- | ------------- | ------------ |
| rate  | 200 (100–300) | 140 (90–150) |
| ratio |               | 0.70         |

Writes:

|              | limit | wave               |
| ------------ | ----- | ------------------ |
| ` + "`patch pods`" + ` | 200   | 140, and 2 refused |
`))
}

func TestWriteTargetsLookAtEachObject(t *testing.T) {
	g := NewWithT(t)
	verdicts := func(perPod, perWorkload map[string]int) []bool {
		s := &sample{perPod: perPod, perWorkload: perWorkload}
		var met []bool
		for _, target := range writeTargets(2, []*column{{samples: []*sample{s}}}) {
			met = append(met, target.met)
		}
		return met
	}
	g.Expect(verdicts(map[string]int{"a": 1, "b": 1}, map[string]int{"web": 5})).To(Equal([]bool{true, true}))
	g.Expect(verdicts(map[string]int{"a": 1, "b": 2}, map[string]int{"web": 6})).To(Equal([]bool{false, false}))
	g.Expect(verdicts(map[string]int{"a": 1}, map[string]int{"web": 1})).To(Equal([]bool{false, true}))
}

func TestReplaceSection(t *testing.T) {
	g := NewWithT(t)
	file := filepath.Join(t.TempDir(), "benchmark.md")
	section := func(name, text string) string {
		return fmt.Sprintf("<!-- %s: written by `make bench` -->\n%s<!-- end of %s -->\n", name, text, name)
	}
	g.Expect(os.WriteFile(file, []byte("# Title\n"+section("inplace", "old\n")+"prose\n"+section("scale", "other\n")), 0o600)).To(Succeed())
	g.Expect(replaceSection(file, "inplace", "new\n")).To(Succeed())
	g.Expect(os.ReadFile(file)).To(BeEquivalentTo("# Title\n" + section("inplace", "new\n") + "prose\n" + section("scale", "other\n")))
	g.Expect(replaceSection(file, "fleet", "new\n")).To(MatchError(ContainSubstring("no place for the figures of fleet")))
}

func TestDocumentHasAPlaceForEachScenario(t *testing.T) {
	g := NewWithT(t)
	content, err := os.ReadFile(inRepository("docs/benchmark.md"))
	g.Expect(err).NotTo(HaveOccurred())
	copied := filepath.Join(t.TempDir(), "benchmark.md")
	g.Expect(os.WriteFile(copied, content, 0o600)).To(Succeed())
	for _, name := range names() {
		g.Expect(replaceSection(copied, name, "")).To(Succeed())
	}
}
