// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"unicode/utf8"
)

// section is a table with a sentence on what it shows.
type section struct {
	text string
	// rows are the table's, the first one its heading.
	rows [][]string
}

// column is a way of updating, measured several times.
type column struct {
	title   string
	samples []*sample
	// limits are the bare loop's of the same repeats; nil for the bare loop itself.
	limits []*sample
}

// of prints the median of a figure, and its range when it was measured more than once.
func (c *column) of(format string, figure func(*sample) float64) string {
	values := c.values(figure)
	text := fmt.Sprintf(format, median(values))
	if len(values) > 1 {
		text += fmt.Sprintf(" ("+format+"–"+format+")", slices.Min(values), slices.Max(values))
	}
	return text
}

func (c *column) values(figure func(*sample) float64) []float64 {
	values := make([]float64, 0, len(c.samples))
	for _, s := range c.samples {
		values = append(values, figure(s))
	}
	return values
}

// ratios are those of a figure to the bare loop's in the same repeat.
func (c *column) ratios(figure func(*sample) float64) []float64 {
	ratios := c.values(figure)
	for i := range ratios {
		ratios[i] /= figure(c.limits[i])
	}
	return ratios
}

// line is a row of figures.
type line struct {
	name  string
	value func(*column) string
}

// table lays columns out.
func table(columns []*column, lines []line) [][]string {
	heading := []string{""}
	for _, c := range columns {
		heading = append(heading, c.title)
	}
	rows := [][]string{heading}
	for _, l := range lines {
		row := []string{l.name}
		for _, c := range columns {
			row = append(row, l.value(c))
		}
		rows = append(rows, row)
	}
	return rows
}

// kinds are all kinds of writes in columns, sorted.
func kinds(columns []*column) []string {
	all := map[string]bool{}
	for _, c := range columns {
		for _, s := range c.samples {
			for _, counts := range []map[string]int{s.accepted, s.refused} {
				for kind := range counts {
					all[kind] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// writesByKind is the table of what was written, accepted and refused apart.
func writesByKind(columns []*column) [][]string {
	var lines []line
	for _, kind := range kinds(columns) {
		lines = append(lines, line{"`" + kind + "`", func(c *column) string {
			accepted := median(c.values(func(s *sample) float64 { return float64(s.accepted[kind]) }))
			refused := median(c.values(func(s *sample) float64 { return float64(s.refused[kind]) }))
			if refused == 0 {
				return fmt.Sprintf("%.0f", accepted)
			}
			return fmt.Sprintf("%.0f, and %.0f refused", accepted, refused)
		}})
	}
	return table(columns, lines)
}

// processors is the table of who kept the machine busy.
func processors(columns []*column) [][]string {
	return byName(columns, "%.2f", func(s *sample) map[string]float64 { return s.processors })
}

// meanwhile is the table of who wrote how much.
func meanwhile(columns []*column) [][]string {
	return byName(columns, "%.1f", func(s *sample) map[string]float64 { return s.meanwhile })
}

// byName is a table of figures that samples have by name, with the highest first.
func byName(columns []*column, format string, figures func(*sample) map[string]float64) [][]string {
	all := map[string]float64{}
	for _, c := range columns {
		for _, s := range c.samples {
			for name, figure := range figures(s) {
				all[name] = max(all[name], figure)
			}
		}
	}
	names := slices.SortedFunc(maps.Keys(all), func(a, b string) int { return strings.Compare(a, b) })
	slices.SortStableFunc(names, func(a, b string) int {
		switch {
		case all[a] > all[b]:
			return -1
		case all[a] < all[b]:
			return 1
		}
		return 0
	})
	lines := make([]line, 0, len(names))
	for _, name := range names {
		lines = append(lines, line{name, func(c *column) string {
			return fmt.Sprintf(format, median(c.values(func(s *sample) float64 { return figures(s)[name] })))
		}})
	}
	return table(columns, lines)
}

// target is something that this project promises itself.
type target struct {
	name, measured string
	met            bool
}

func targets(all ...target) section {
	rows := [][]string{{"target", "measured", ""}}
	for _, t := range all {
		verdict := "**not met**"
		if t.met {
			verdict = "met"
		}
		rows = append(rows, []string{t.name, t.measured, verdict})
	}
	return section{"Targets:", rows}
}

// render writes text and tables as Markdown that reads well in a terminal.
func render(conditions string, sections []section) string {
	var text strings.Builder
	text.WriteString(conditions + "\n")
	for _, s := range sections {
		text.WriteString("\n" + s.text + "\n\n")
		for i, row := range s.rows {
			text.WriteString(layOut(row, widths(s.rows), ' '))
			if i == 0 {
				text.WriteString(layOut(make([]string, len(row)), widths(s.rows), '-'))
			}
		}
	}
	return text.String()
}

func widths(rows [][]string) []int {
	result := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			result[i] = max(result[i], utf8.RuneCountInString(cell), 3)
		}
	}
	return result
}

func layOut(row []string, widths []int, fill rune) string {
	var text strings.Builder
	for i, cell := range row {
		padding := strings.Repeat(string(fill), widths[i]-utf8.RuneCountInString(cell))
		text.WriteString("| " + cell + padding + " ")
	}
	return text.String() + "|\n"
}

// replaceSection writes the figures of a scenario into a document, between the marks that stand there for it.
func replaceSection(file, name, text string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("writing the figures down: %w", err)
	}
	begin, end := fmt.Sprintf("<!-- %s: written by `make bench` -->\n", name), fmt.Sprintf("<!-- end of %s -->\n", name)
	before, rest, hasBegin := strings.Cut(string(content), begin)
	_, after, hasEnd := strings.Cut(rest, end)
	if !hasBegin || !hasEnd {
		return errors.New(file + " has no place for the figures of " + name)
	}
	return os.WriteFile(file, []byte(before+begin+text+end+after), 0o644)
}
