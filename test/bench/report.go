package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/walpost/walpost/internal/testenv"
)

// report is what a run has measured. It is printed as it comes.
type report struct {
	Machine   string          `json:"machine"`
	Versions  string          `json:"versions"`
	Settings  string          `json:"settings"`
	Backlogs  []backlogReport `json:"backlogs"`
	Latencies []latencyReport `json:"latencies,omitempty"`
	Growth    *report         `json:"growth,omitempty"` // what a run with -growth has measured

	run string // of what is measured now: see backlogReport
}

type backlogReport struct {
	workload
	Run        string           `json:"run"` // day and commit
	Contenders []backlogFigures `json:"contenders"`
}

type backlogFigures struct {
	Name   string   `json:"name"`
	Median sample   `json:"median"`
	Rounds []sample `json:"rounds"`
}

type latencyReport struct {
	Load      string `json:"load"`
	Run       string `json:"run"`
	Contender string `json:"contender"`
	percentiles
	Rounds []percentiles `json:"rounds"`
}

func (r *report) describe(ctx context.Context, b *bench) {
	r.Machine = fmt.Sprintf("%d CPUs (%s), %s/%s", runtime.NumCPU(), processor(), runtime.GOOS, runtime.GOARCH)
	r.Versions = fmt.Sprintf("Postgres %s, Apache Kafka %s, Debezium %s, %s", b.pg.Version, testenv.KafkaVersion, testenv.DebeziumVersion, runtime.Version())
	r.Settings = fmt.Sprintf("all servers on one machine, fsync off, acks=all, idempotent, lz4, 12 partitions, medians of %d rounds, in each the contenders in another order; latencies of %s, once the contender has had the same load for %s; walpost and Debezium with their defaults, Debezium tuned with %s", b.rounds, b.duration, b.warm, tunedSettings())
	commit, _ := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output() // unknown outside of a checkout
	r.run = strings.TrimSpace(time.Now().UTC().Format(time.DateOnly) + " " + string(commit))
	fmt.Printf("%s; %s; %s\n", r.Machine, r.Versions, r.Settings)
}

// processor is the CPU's name, as far as Linux tells it.
func processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	_, after, found := strings.Cut(string(info), "model name")
	if !found {
		return "unknown"
	}
	name, _, _ := strings.Cut(strings.TrimLeft(after, "\t :"), "\n")
	return name
}

// median is that of one figure of all rounds.
func median[T any](rounds []T, of func(T) float64) float64 {
	var values []float64
	for _, r := range rounds {
		values = append(values, of(r))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// medians is each figure's own.
func medians(all []sample) sample {
	return sample{
		Wall: median(all, func(s sample) float64 { return s.Wall }), CPU: median(all, func(s sample) float64 { return s.CPU }),
		RSS: median(all, func(s sample) float64 { return s.RSS }), WAL: median(all, func(s sample) float64 { return s.WAL }),
		servers: medianServers(all, func(s sample) servers { return s.servers }),
	}
}

func medianServers[T any](all []T, of func(T) servers) servers {
	return servers{
		Server: median(all, func(t T) float64 { return of(t).Server }),
		Broker: median(all, func(t T) float64 { return of(t).Broker }),
	}
}

// add prints and keeps what the contenders needed for a backlog.
func (r *report) add(w workload, contenders []contender, all [][]sample) {
	report := backlogReport{workload: w, Run: r.run}
	fmt.Printf("%-32s %9s %17s %9s %9s %9s %9s %9s %10s\n", "", "seconds", "of rounds", "events/s", "CPU s", "server's", "broker's", "RSS MiB", "WAL MiB")
	for i, c := range contenders {
		f := backlogFigures{Name: c.name, Median: medians(all[i]), Rounds: all[i]}
		report.Contenders = append(report.Contenders, f)
		fastest, slowest := all[i][0].Wall, all[i][0].Wall
		for _, s := range all[i] {
			fastest, slowest = min(fastest, s.Wall), max(slowest, s.Wall)
		}
		m := f.Median
		fmt.Printf("%-32s %9.2f %8.2f-%8.2f %9.0f %9.1f %9.1f %9.1f %9.0f %10.1f\n",
			c.name, m.Wall, fastest, slowest, float64(w.Events)/m.Wall, m.CPU, m.Server, m.Broker, m.RSS, m.WAL)
	}
	r.Backlogs = append(r.Backlogs, report)
	report.ratios()
}

// ratios prints what the figures come to against each other.
func (r backlogReport) ratios() {
	of := func(name string) sample {
		for _, c := range r.Contenders {
			if c.Name == name {
				return c.Median
			}
		}
		return sample{}
	}
	ours := of(walpostTCP)
	for _, c := range []struct {
		text string
		part float64
		of   float64
	}{
		{"time, walpost / pg_recvlogical over TCP", ours.Wall, of(floorTCP).Wall},
		{"time, walpost / pg_recvlogical over a Unix socket", of(walpostSocket).Wall, of(floorSocket).Wall},
		{"time, exactly-once / at-least-once", of(walpostExact).Wall, ours.Wall},
		{"throughput, walpost / tuned Debezium", of(debeziumTuned).Wall, ours.Wall},
		{"CPU, tuned Debezium / walpost", of(debeziumTuned).CPU, ours.CPU},
		{"memory, tuned Debezium / walpost", of(debeziumTuned).RSS, ours.RSS},
		{"throughput, walpost / polling relay", of(relayName).Wall, ours.Wall},
	} {
		if c.part > 0 && c.of > 0 {
			fmt.Printf("FIGURES %s, %s: %.2f\n", r.Name, c.text, c.part/c.of)
		}
	}
}

// addLatency prints and keeps what the rounds of a contender came to: medians, but for
// the longest and the pulls, of which it keeps the most, and the ids, of which it keeps the
// fewest.
func (r *report) addLatency(l load, c contender, all []percentiles) {
	p := percentiles{
		Events: all[0].Events, IDs: all[0].IDs,
		P50: median(all, func(p percentiles) float64 { return p.P50 }), P90: median(all, func(p percentiles) float64 { return p.P90 }),
		P99: median(all, func(p percentiles) float64 { return p.P99 }), P999: median(all, func(p percentiles) float64 { return p.P999 }),
		Last: median(all, func(p percentiles) float64 { return p.Last }),
		CPU:  median(all, func(p percentiles) float64 { return p.CPU }), RSS: median(all, func(p percentiles) float64 { return p.RSS }),
		WriterP50: median(all, func(p percentiles) float64 { return p.WriterP50 }), WriterP99: median(all, func(p percentiles) float64 { return p.WriterP99 }),
		servers: medianServers(all, func(p percentiles) servers { return p.servers }),
	}
	var pulls []string // of each round: one that goes to and fro has many
	low := all[0].P99
	for _, round := range all {
		p.Max, p.Pulls = max(p.Max, round.Max), max(p.Pulls, round.Pulls)
		low, p.IDs = min(low, round.P99), min(p.IDs, round.IDs)
		pulls = append(pulls, fmt.Sprintf("%.0f", round.Pulls))
	}
	high := slices.MaxFunc(all, func(a, b percentiles) int { return cmp.Compare(a.P99, b.P99) }).P99
	r.Latencies = append(r.Latencies, latencyReport{Load: l.name, Run: r.run, Contender: c.name, percentiles: p, Rounds: all})
	fmt.Printf("FIGURES commit to consumer at %s, %-31s p50 %.2f ms, p90 %.2f, p99 %.2f (%.2f to %.2f), p99.9 %.2f, longest %.1f; at the end p50 %.2f; %d distinct ids, %d of them measured, CPU %.1f s, server's %.1f s, broker's %.1f s, RSS %.0f MiB, pulls %s; the writers' own p50 %.2f ms, p99 %.2f\n",
		l.name, c.name+":", p.P50, p.P90, p.P99, low, high, p.P999, p.Max, p.Last, p.IDs, p.Events, p.CPU, p.Server, p.Broker, p.RSS, strings.Join(pulls, ", "), p.WriterP50, p.WriterP99)
}

// readReport reads a file that write has written.
func readReport(path string) (r report, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// write writes the files that were asked for. The figures go beside what the file has of
// runs that have measured other things: backlogs, latencies or growth.
func (r *report) write(growth bool, asJSON, asSVG string) error {
	all := *r
	var err error
	if asJSON != "" {
		all, err = r.writeJSON(growth, asJSON)
	}
	if asSVG != "" {
		err = errors.Join(err, os.WriteFile(asSVG, []byte(all.chart()), 0o644))
	}
	return err
}

func (r *report) writeJSON(growth bool, path string) (all report, err error) {
	kept, err := readReport(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return *r, err
	}
	if growth {
		all = kept
		all.Growth = r
	} else {
		all = *r
		all.Growth = kept.Growth
		if len(r.Backlogs) == 0 {
			all.Backlogs = kept.Backlogs
		}
		if len(r.Latencies) == 0 {
			all.Latencies = kept.Latencies
		}
	}
	data, err := json.MarshalIndent(all, "", "  ")
	return all, errors.Join(err, os.WriteFile(path, append(data, '\n'), 0o644))
}

// redraw draws the chart of a file of figures.
func redraw(from, svg string) error {
	r, err := readReport(from)
	if err != nil {
		return err
	}
	return r.write(false, "", svg)
}
