// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

// options are the flags.
type options struct {
	// workloads, pods (of each workload) and repeats are those of the scenario where they are zero.
	workloads, pods, repeats int
	concurrency              int
	operator                 string
	document                 string
	// given are the flags that the figures depend on, as they were given.
	given []string
}

// scenario is a fleet and what is measured with it.
type scenario struct {
	name, title              string
	workloads, pods, repeats int
	run                      func(ctx context.Context, b *bench) ([]section, error)
}

var scenarios = []scenario{
	{"inplace", "In-place waves", 100, 10, 5, inPlaceWaves},
	{"scale", "10,000 pods", 100, 100, 1, largeWave},
	{"fleet", "1,000 Deployments", 1000, 3, 1, fleet},
}

func main() {
	ctx, cancel := localcluster.WithParent(context.Background())
	defer cancel()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string) error {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&o.workloads, "deployments", 0, "number of Deployments; default: the scenario's")
	flags.IntVar(&o.pods, "pods", 0, "number of pods of each Deployment; default: the scenario's")
	flags.IntVar(&o.repeats, "repeats", 0, "how often to measure waves; default: the scenario's")
	flags.IntVar(&o.concurrency, "concurrency", 10, "workloads that the operator reconciles at a time, and requests of the bare loop")
	flags.StringVar(&o.operator, "operator", "bin/sidecarset", "the operator's binary")
	flags.StringVar(&o.document, "document", "docs/benchmark.md", "file whose sections of the scenarios are written anew; empty for none")
	flags.Usage = func() {
		fmt.Fprintf(flags.Output(), "usage: bench [flags] [scenario ...]   scenarios: %s; default: %s\n", strings.Join(names(), ", "), scenarios[0].name)
		flags.PrintDefaults()
	}
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	flags.Visit(func(given *flag.Flag) {
		if given.Name != "document" && given.Name != "operator" {
			o.given = append(o.given, fmt.Sprintf("-%s %s", given.Name, given.Value))
		}
	})
	chosen, err := choose(flags.Args())
	if err != nil {
		return err
	}
	for _, s := range chosen {
		text, err := s.measure(ctx, o)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if o.document == "" {
			continue
		}
		if err := replaceSection(o.document, s.name, text); err != nil {
			return err
		}
		fmt.Printf("\nWritten to %s.\n", o.document)
	}
	return nil
}

func names() []string {
	var result []string
	for _, s := range scenarios {
		result = append(result, s.name)
	}
	return result
}

// choose returns the named scenarios; the first one when none is named.
func choose(wanted []string) ([]scenario, error) {
	if len(wanted) == 0 {
		return scenarios[:1], nil
	}
	var chosen []scenario
	for _, name := range wanted {
		index := slices.Index(names(), name)
		if index < 0 {
			return nil, fmt.Errorf("unknown scenario %q: there are %s", name, strings.Join(names(), ", "))
		}
		chosen = append(chosen, scenarios[index])
	}
	return chosen, nil
}

// measure runs a scenario on a cluster of its own and returns its figures as text.
func (s scenario) measure(ctx context.Context, o options) (text string, err error) {
	for _, size := range []struct{ wanted, byDefault *int }{{&o.workloads, &s.workloads}, {&o.pods, &s.pods}, {&o.repeats, &s.repeats}} {
		if *size.wanted == 0 {
			*size.wanted = *size.byDefault
		}
	}
	fmt.Printf("\n%s: %d Deployments of %d pods\n", s.title, o.workloads, o.pods)
	b, err := newBench(ctx, o, os.Stdout)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, b.cluster.Stop()) }()
	sections, err := s.run(ctx, b)
	if err != nil {
		return "", b.explain(err)
	}
	text = render(b.conditions(s), sections)
	fmt.Printf("\n%s", text)
	return text, nil
}
