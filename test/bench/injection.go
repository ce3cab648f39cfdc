// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// settledAfterRestart is for how long an operator that found nothing to do is watched.
const settledAfterRestart = 5 * time.Second

// fleet measures first injection, waves and a restart with many workloads.
func fleet(ctx context.Context, b *bench) ([]section, error) {
	m, err := b.measureFleet(ctx)
	if err != nil {
		return nil, err
	}
	return m.report(), nil
}

// fleetMeasures is all that is measured with many workloads.
type fleetMeasures struct {
	injected  *firstInjection
	waves     *waves
	restarted *restart
}

func (b *bench) measureFleet(ctx context.Context) (*fleetMeasures, error) {
	b.say("creating %d Deployments of %d pods", b.workloads, b.pods)
	if _, err := b.observe(ctx, step{"creating their pods", b.createAll, b.rolledOut, b.podsRun(""), 0}); err != nil {
		return nil, err
	}
	m := &fleetMeasures{waves: newWaves(b, atOnce)}
	var err error
	if m.injected, err = b.measureInjection(ctx); err != nil {
		return nil, err
	}
	for range b.repeats { // on one cluster: it takes long to create as many workloads
		if err := m.waves.measure(ctx); err != nil {
			return nil, err
		}
	}
	m.restarted, err = b.measureRestart(ctx, m.waves.image)
	return m, err
}

func (m *fleetMeasures) report() []section {
	all := slices.Concat(m.injected.targets(), m.waves.targets(), []target{m.restarted.target()})
	return slices.Concat([]section{targets(all...)}, m.injected.report(), m.waves.report(), []section{m.restarted.report()})
}

func (b *bench) createAll(ctx context.Context) error { return b.createFleet(ctx, b.pods) }

// firstInjection is the bringing of sidecars into workloads that have none.
type firstInjection struct {
	*bench
	limit, operator *column
}

// measureInjection measures first injection by the bare loop, takes the sidecars out again, and measures the operator.
func (b *bench) measureInjection(ctx context.Context) (*firstInjection, error) {
	injections, err := b.prepareInjections(ctx, images[0])
	if err != nil {
		return nil, err
	}
	bare, err := b.observe(ctx, step{"bare loop: first injection", b.inject(images[0], injections), b.rolledOut, b.templatesHave(images[0]), restInterval})
	if err != nil {
		return nil, err
	}
	if _, err := b.observe(ctx, step{"taking the sidecars out again", b.takeOut, b.rolledOut, b.podsRun(""), 0}); err != nil {
		return nil, err
	}
	if err := b.startOperator(ctx); err != nil {
		return nil, err
	}
	set := makeSet(images[0])
	create := func(ctx context.Context) error { return b.client.Create(ctx, set) }
	p, err := b.observe(ctx, step{"operator: first injection", create, b.setIsDone, b.templatesHave(images[0]), restInterval})
	if err != nil {
		return nil, err
	}
	limit, injected := bare.sample(isBareLoop), p.sample(isOperator)
	if injected.operatorPeak, err = peakMiB(b.operator.process.Pid()); err != nil {
		return nil, err
	}
	return &firstInjection{
		bench:    b,
		limit:    &column{title: limitTitle, samples: []*sample{limit}},
		operator: &column{title: "operator", samples: []*sample{injected}, limits: []*sample{limit}},
	}, b.stopOperator()
}

func (f *firstInjection) rate(s *sample) float64 { return s.workloads.rate(f.workloads) }

func (f *firstInjection) targets() []target {
	ratio := median(f.operator.ratios(f.rate))
	written, most := len(f.operator.samples[0].perWorkload), most(f.operator.samples[0].perWorkload)
	return []target{
		{fmt.Sprintf("first injection: ratio to the limit ≥ %.1f", ratioTarget), fmt.Sprintf("%.2f", ratio), ratio >= ratioTarget},
		{
			fmt.Sprintf("first injection: ≤ %d writes for each Deployment", writesPerWorkloadTarget),
			fmt.Sprintf("%d of %d Deployments, at most %d each", written, f.workloads, most), written == f.workloads && most <= writesPerWorkloadTarget,
		},
	}
}

func (f *firstInjection) report() []section {
	all := []*column{f.limit, f.operator}
	main := table(all, []line{
		{"Deployments per second, first write to last", figure("%.0f", f.rate)},
		{"ratio to the limit", ratioOf(f.rate)},
		{"first Deployment written after, s", figure("%.2f", func(s *sample) float64 { return s.workloads.first.Seconds() })},
		{"last Deployment written after, s", figure("%.2f", untilTemplatesDone)},
		{"last pod rolled out after, s", figure("%.2f", untilPodsDone)},
		{"ratio to the limit, of the time until the last pod is rolled out", ratioOf(donePerMinute)},
		{"API writes per Deployment", f.perWorkload},
		{"operator's processor time, s", onlyOperator(figure("%.2f", operatorTime))},
		{"operator's peak memory (VmHWM), MiB", onlyOperator(figure("%.0f", operatorPeak))},
	})
	return []section{
		{"**First injection** through each Deployment's own rolling update. Times are from the creation of the set; those of the bare loop from its start.", main},
		{"API writes, by verb and resource:", writesByKind(all)},
		{"Requests to write in the fleet's namespace that the API server answered a second while Deployments were written, by who sent them:", meanwhile(all)},
		{"How many processors each program kept busy while Deployments were written:", processors(all)},
	}
}

// restart is what it takes an operator to find that there is nothing to do.
type restart struct {
	caughtUp, processor time.Duration
	writes              int
	peak                float64
}

// measureRestart starts an operator when everything is as declared.
func (b *bench) measureRestart(ctx context.Context, image string) (*restart, error) {
	result := &restart{}
	act := func(ctx context.Context) error {
		if err := b.startAndCatchUp(ctx); err != nil {
			return err
		}
		result.caughtUp = time.Since(b.operator.started)
		select {
		case <-ctx.Done():
		case <-time.After(settledAfterRestart):
		}
		return ctx.Err()
	}
	p, err := b.observe(ctx, step{"an operator starts and finds nothing to do", act, b.setIsDone, b.templatesHave(image), 0})
	if err != nil {
		return nil, err
	}
	s := p.sample(isOperator)
	result.processor, result.writes = s.operatorTime, total(s.accepted)+total(s.refused)
	if result.peak, err = peakMiB(b.operator.process.Pid()); err != nil {
		return nil, err
	}
	return result, b.stopOperator()
}

func (r *restart) target() target {
	return target{"restart of a converged operator: no write", fmt.Sprintf("%d", r.writes), r.writes == 0}
}

func (r *restart) report() section {
	return section{"**Restart** of the operator with everything as declared:", [][]string{
		{"", "operator"},
		{"from its start until it has looked at every workload, s", fmt.Sprintf("%.2f", r.caughtUp.Seconds())},
		{"API writes", fmt.Sprintf("%d", r.writes)},
		{"processor time, s", fmt.Sprintf("%.2f", r.processor.Seconds())},
		{"peak memory (VmHWM), MiB", fmt.Sprintf("%.0f", r.peak)},
	}}
}
