// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
)

// atOnce and aFew are the budgets of the waves.
const (
	atOnce = "100%"
	aFew   = "10%"
)

// The targets.
const (
	ratioTarget             = 0.8
	writesPerWorkloadTarget = 5
	memoryTarget            = 150 // MiB, with memoryTargetPods
	memoryTargetPods        = 10_000
)

const limitTitle = "the limit: bare loop"

const wavesText = "Times are from the change of the set's image; those of the bare loop from its start. Figures are medians; in brackets is the range over the repeats."

// inPlaceWaves measures waves with two budgets against the bare loop.
func inPlaceWaves(ctx context.Context, b *bench) ([]section, error) {
	return measureWaves(ctx, b, atOnce, aFew)
}

// largeWave measures one wave. With fewer pods in one budget it would take its time from the simulated kubelet.
func largeWave(ctx context.Context, b *bench) ([]section, error) {
	return measureWaves(ctx, b, atOnce)
}

// measureWaves measures each repeat on a cluster of its own: rates differ more between two clusters than between two repeats on one.
func measureWaves(ctx context.Context, b *bench, budgets ...string) ([]section, error) {
	w := newWaves(b, budgets...)
	for i := range w.repeats {
		if i > 0 {
			if err := b.renew(ctx); err != nil {
				return nil, err
			}
		}
		w.say("repeat %d of %d", i+1, w.repeats)
		if err := b.bearWithSidecars(ctx); err != nil {
			return nil, err
		}
		w.image = images[0]
		if err := w.measure(ctx); err != nil {
			return nil, err
		}
	}
	return append([]section{targets(w.targets()...)}, w.report()...), nil
}

// bearWithSidecars creates the fleet so that each pod is born once, with its sidecar: workloads are scaled up when their templates have it.
func (b *bench) bearWithSidecars(ctx context.Context) error {
	b.say("creating %d Deployments", b.workloads)
	if err := b.createFleet(ctx, 0); err != nil {
		return err
	}
	if err := b.startOperator(ctx); err != nil {
		return err
	}
	if err := b.client.Create(ctx, makeSet(images[0])); err != nil {
		return err
	}
	if err := b.await(ctx, "injecting", b.setIsDone); err != nil {
		return err
	}
	_, err := b.observe(ctx, step{"creating their pods", b.scale, b.rolledOut, b.templatesHave(images[0]), 0})
	if err != nil {
		return err
	}
	return b.stopOperator()
}

// waves are measured over and over, each with several budgets.
type waves struct {
	*bench
	// image is what the pods have.
	image   string
	budgets []string
	limit   *column
	// columns has one for each budget.
	columns []*column
}

func newWaves(b *bench, budgets ...string) *waves {
	w := &waves{bench: b, image: images[0], budgets: budgets, limit: &column{title: limitTitle}}
	for _, budget := range budgets {
		w.columns = append(w.columns, &column{title: "wave, maxUnavailable " + budget})
	}
	return w
}

// measure measures the bare loop and a wave for each budget, one after the other. Each goes to the other image.
func (w *waves) measure(ctx context.Context) error {
	limit, err := w.measureLimit(ctx)
	if err != nil {
		return err
	}
	w.limit.samples = append(w.limit.samples, limit)
	if err := w.startAndCatchUp(ctx); err != nil {
		return err
	}
	for i, budget := range w.budgets {
		wave, err := w.measureWave(ctx, budget)
		if err != nil {
			return err
		}
		w.columns[i].samples = append(w.columns[i].samples, wave)
		w.columns[i].limits = w.limit.samples
	}
	return w.stopOperator()
}

// measureLimit sends the patches by the bare loop while no operator runs, and then lets an operator bring the templates after the pods.
func (w *waves) measureLimit(ctx context.Context) (*sample, error) {
	w.image = other(w.image)
	patches, err := w.preparePatches(ctx, w.image)
	if err != nil {
		return nil, err
	}
	p, err := w.observe(ctx, step{fmt.Sprintf("bare loop: %d pods to %s", len(patches), w.image), w.sendPatches(patches), always, w.podsRun(w.image), restInterval})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(w.changeSet(ctx, w.image, atOnce), w.writeSlips(ctx, w.image)); err != nil {
		return nil, err
	}
	after, err := w.observe(ctx, step{"an operator starts: templates follow the pods", w.startOperator, w.setIsDone, w.templatesHave(w.image), 0})
	if err != nil {
		return nil, err
	}
	if left := after.sample(isOperator).pods.count; left > 0 {
		return nil, fmt.Errorf("the operator had to patch %d pods again: the bare loop's patches are not the operator's", left)
	}
	return p.sample(isBareLoop), w.stopOperator()
}

func (w *waves) measureWave(ctx context.Context, budget string) (*sample, error) {
	w.image = other(w.image)
	p, err := w.observe(ctx, step{
		fmt.Sprintf("wave with maxUnavailable %s: to %s", budget, w.image),
		func(ctx context.Context) error { return w.changeSet(ctx, w.image, budget) },
		w.setIsDone, w.templatesHave(w.image), restInterval,
	})
	if err != nil {
		return nil, err
	}
	s := p.sample(isOperator)
	s.operatorPeak, err = peakMiB(w.operator.process.Pid())
	return s, err
}

// The figures of a sample that tables show.
func patchRate(s *sample) float64          { return s.pods.rate(s.pods.count) }
func untilFirstPatch(s *sample) float64    { return s.pods.first.Seconds() }
func untilLastPatch(s *sample) float64     { return s.pods.last.Seconds() }
func untilPodsDone(s *sample) float64      { return s.podsDone.Seconds() }
func donePerMinute(s *sample) float64      { return 60 / s.podsDone.Seconds() }
func untilTemplatesDone(s *sample) float64 { return s.workloads.last.Seconds() }
func operatorTime(s *sample) float64       { return s.operatorTime.Seconds() }
func operatorPeak(s *sample) float64       { return s.operatorPeak }

// onlyOperator leaves a cell of the bare loop empty.
func onlyOperator(value func(*column) string) func(*column) string {
	return func(c *column) string {
		if c.limits == nil {
			return ""
		}
		return value(c)
	}
}

func ratioOf(figure func(*sample) float64) func(*column) string {
	return onlyOperator(func(c *column) string { return fmt.Sprintf("%.2f", median(c.ratios(figure))) })
}

func figure(format string, figure func(*sample) float64) func(*column) string {
	return func(c *column) string { return c.of(format, figure) }
}

// report makes tables of what was measured.
func (w *waves) report() []section {
	all := append([]*column{w.limit}, w.columns...)
	main := table(all, []line{
		{"pod patches per second, first to last", figure("%.0f", patchRate)},
		{"ratio to the limit", ratioOf(patchRate)},
		{"first pod patched after, s", figure("%.2f", untilFirstPatch)},
		{"last pod patched after, s", figure("%.2f", untilLastPatch)},
		{"last pod done after, s", figure("%.2f", untilPodsDone)},
		{"ratio to the limit, of the time until the last pod is done", ratioOf(donePerMinute)},
		{"last template promoted after, s", onlyOperator(figure("%.2f", untilTemplatesDone))},
		{"API writes per pod", w.perPod},
		{"API writes per Deployment", onlyOperator(w.perWorkload)},
		{"operator's processor time, s", onlyOperator(figure("%.2f", operatorTime))},
		{"operator's peak memory (VmHWM), MiB", onlyOperator(figure("%.0f", operatorPeak))},
	})
	return []section{
		{wavesText, main},
		{"API writes, by verb and resource:", writesByKind(all)},
		{"Requests to write in the fleet's namespace that the API server answered a second while pods were patched, by who sent them:", meanwhile(all)},
		{"How many processors each program kept busy while pods were patched:", processors(all)},
	}
}

// perPod is how many writes each pod had on average, with those that were refused.
func (b *bench) perPod(c *column) string {
	pods := float64(b.workloads * b.pods)
	accepted := median(c.values(func(s *sample) float64 { return float64(s.pods.count) }))
	refused := median(c.values(func(s *sample) float64 { return float64(s.refused["patch pods"] + s.refused["patch pods/resize"]) }))
	return withRefused(accepted, refused, pods)
}

// perWorkload is how many writes to its Deployment and ReplicaSet each workload had on average, with those that were refused.
func (b *bench) perWorkload(c *column) string {
	accepted := median(c.values(func(s *sample) float64 { return float64(s.workloads.count) }))
	refused := median(c.values(func(s *sample) float64 {
		return float64(s.refused["patch deployments"] + s.refused["patch replicasets"])
	}))
	return withRefused(accepted, refused, float64(b.workloads))
}

func withRefused(accepted, refused, objects float64) string {
	text := fmt.Sprintf("%.2f", accepted/objects)
	if refused > 0 {
		text += fmt.Sprintf(", and %.3f refused", refused/objects)
	}
	return text
}

// targets compares with what this project promises itself.
func (w *waves) targets() []target {
	fast := w.columns[0]
	ratio := median(fast.ratios(patchRate))
	result := []target{{fmt.Sprintf("pod patches: ratio to the limit ≥ %.1f", ratioTarget), fmt.Sprintf("%.2f", ratio), ratio >= ratioTarget}}
	result = append(result, writeTargets(w.workloads*w.pods, w.columns)...)
	if pods := w.workloads * w.pods; pods >= memoryTargetPods {
		result = append(result, memoryTargetOf(pods, fast))
	}
	return result
}

// writeTargets looks at each single pod and workload of every repeat.
func writeTargets(pods int, columns []*column) []target {
	podsWritten, perPod, perWorkload := pods, 0, 0
	for _, c := range columns {
		for _, s := range c.samples {
			podsWritten = min(podsWritten, len(s.perPod))
			perPod, perWorkload = max(perPod, most(s.perPod)), max(perWorkload, most(s.perWorkload))
		}
	}
	return []target{
		{"exactly 1 write for each pod", fmt.Sprintf("%d of %d pods, at most %d each", podsWritten, pods, perPod), podsWritten == pods && perPod == 1},
		{fmt.Sprintf("≤ %d writes for each Deployment", writesPerWorkloadTarget), fmt.Sprintf("at most %d", perWorkload), perWorkload <= writesPerWorkloadTarget},
	}
}

func memoryTargetOf(pods int, c *column) target {
	peak := 0.0
	for _, s := range c.samples {
		peak = max(peak, s.operatorPeak)
	}
	return target{fmt.Sprintf("peak memory ≤ %d MiB at %d pods", memoryTarget, pods), fmt.Sprintf("%.0f MiB", peak), peak <= memoryTarget}
}
