// Copyright The SidecarSet Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sidecarset/sidecarset/hack/localcluster"
)

const (
	usageInterval = 200 * time.Millisecond
	// clockTicks per second are the unit of processor times in /proc (proc_pid_stat(5)); Linux shows programs no other value.
	clockTicks = 100
	// strangers are all processes of the machine that are neither the cluster's nor this one.
	strangers = "everything else on the machine"
)

// usage is how much processor time everybody has had until a moment, by program.
type usage struct {
	at        time.Time
	byProgram map[string]time.Duration
}

// measureUsage reads the kernel's accounts. Of a program that was started twice it has the sum of the processes that still run.
func measureUsage(cluster *localcluster.Cluster) (usage, error) {
	pids, err := cluster.Pids()
	if err != nil {
		return usage{}, err
	}
	now := usage{at: time.Now(), byProgram: map[string]time.Duration{}}
	var ours time.Duration
	for _, pid := range append(pids, os.Getpid()) {
		spent, err := processorTime(pid)
		if err != nil {
			continue // it has ended.
		}
		now.byProgram[programName(pid)] += spent
		ours += spent
	}
	machine, err := machineTime()
	if err != nil {
		return usage{}, err
	}
	now.byProgram[strangers] = machine - ours
	return now, nil
}

func programName(pid int) string {
	if pid == os.Getpid() {
		return "the bench itself"
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return "?"
	}
	program, _, _ := strings.Cut(string(line), "\x00")
	return filepath.Base(program)
}

// processorTime is what a process has used since its start, in user and kernel mode, all threads together.
func processorTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The program's name, in brackets, may hold spaces. After it, utime and stime are the fields 14 and 15 of the line.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	return ticks(fields[11 : 11+2]...)
}

// machineTime is what all processes together have used since the machine started.
func machineTime() (time.Duration, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	fields := strings.Fields(line) // cpu user nice system idle iowait irq softirq steal …
	return ticks(slices.Concat(fields[1:4], fields[6:8])...)
}

func ticks(fields ...string) (time.Duration, error) {
	var sum time.Duration
	for _, field := range fields {
		count, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading a processor time: %w", err)
		}
		sum += time.Duration(count) * time.Second / clockTicks
	}
	return sum, nil
}

var peakMemory = regexp.MustCompile(`(?m)^VmHWM:\s+(\d+) kB$`)

// peakMiB is the most memory that a process has had resident.
func peakMiB(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	match := peakMemory.FindSubmatch(status)
	if match == nil {
		return 0, fmt.Errorf("no VmHWM in the status of process %d", pid)
	}
	kilobytes, err := strconv.ParseFloat(string(match[1]), 64)
	return kilobytes / 1024, err
}

// shares is how many processors everybody kept busy between two moments.
func (p *phase) shares(from, to time.Time) map[string]float64 {
	first, last := p.usageAt(from), p.usageAt(to)
	result := map[string]float64{}
	if first == nil || !last.at.After(first.at) {
		return result
	}
	for program, spent := range last.byProgram {
		result[program] = float64(spent-first.byProgram[program]) / float64(last.at.Sub(first.at))
	}
	return result
}

// usageAt is the account that was taken last before a moment; the first one when none was.
func (p *phase) usageAt(moment time.Time) *usage {
	if len(p.usage) == 0 {
		return nil
	}
	next, _ := slices.BinarySearchFunc(p.usage, moment, func(u usage, at time.Time) int { return u.at.Compare(at) })
	return &p.usage[max(0, next-1)]
}
