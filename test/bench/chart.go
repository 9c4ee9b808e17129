package main

import (
	"fmt"
	"html"
	"slices"
	"strconv"
	"strings"
)

// The chart's measures, in pixels.
const (
	chartWidth = 960
	margin     = 20
	labelWidth = 220
	barHeight  = 13
	barStep    = 19
	groupStep  = 22 // between two groups
)

// columns are where the bars of each figure begin, and how long they may be.
var columns = [...]struct{ x, width int }{{250, 150}, {490, 150}, {775, 90}}

// bar is a contender in a group: three figures, each with its text, and of CPU also what
// the servers took.
type bar struct {
	name    string
	values  [len(columns)]float64
	texts   [len(columns)]string
	servers float64
}

// chart draws the medians, a group for each backlog and each load: time, and beside it
// CPU and memory. It has a ground of its own, to be read on a light and a dark page.
func (r *report) chart() string {
	p := &painter{y: margin}
	p.note("Less is better. pg_recvlogical delivers nothing: it reads up to the end of the backlog, and throws away what it reads.")
	if r.hasServers() {
		p.note("CPU: dark is the contender's own, pale that of Postgres and the broker in the same time. In a latency run those also work for")
		p.note("the writers and the consumer.")
	}
	for _, w := range r.Backlogs {
		var bars []bar
		for _, c := range w.Contenders {
			bars = append(bars, newBar(c.Name, c.Median.Wall, "%.2f s", c.Median.CPU, c.Median.RSS, c.Median.servers))
		}
		title := fmt.Sprintf("%s: %s events of %s bytes", w.Name, thousands(w.Events), thousands(w.Bytes))
		heading := "start to last record"
		if w.Name == firstRecord {
			heading = "start to first record"
		}
		p.group(title, heading, bars)
	}
	for i := 0; i < len(r.Latencies); {
		load := r.Latencies[i].Load
		var bars []bar
		for ; i < len(r.Latencies) && r.Latencies[i].Load == load; i++ {
			l := r.Latencies[i]
			bars = append(bars, newBar(l.Contender, l.P99, "%.1f ms", l.CPU, l.RSS, l.servers))
		}
		p.group("Latency at "+load, "commit to consumer, p99", bars)
	}
	p.y += groupStep
	for _, line := range []string{r.Machine, r.Versions, r.Settings} {
		p.note(line)
	}
	const head = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d" role="img" aria-label="walpost and other ways to publish an outbox, measured">
<style>
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 13px }
.note { fill: #59636e; font-size: 11px }
.ours { fill: #1a7f64 }
.other { fill: #7d8894 }
.pale { opacity: .35 }
</style>
<rect width="%[1]d" height="%[2]d" rx="8" fill="#f3f5f7"/>
`
	return fmt.Sprintf(head, chartWidth, p.y+margin/2) + p.b.String() + "</svg>\n"
}

// hasServers reports whether the servers' CPU was measured.
func (r *report) hasServers() bool {
	of := func(s servers) bool { return s.Server+s.Broker > 0 }
	return slices.ContainsFunc(r.Latencies, func(l latencyReport) bool { return of(l.servers) }) ||
		slices.ContainsFunc(r.Backlogs, func(w backlogReport) bool {
			return slices.ContainsFunc(w.Contenders, func(c backlogFigures) bool { return of(c.Median.servers) })
		})
}

func newBar(name string, time float64, unit string, cpu, rss float64, s servers) bar {
	b := bar{name: name, values: [...]float64{time, cpu, rss}, servers: s.Server + s.Broker}
	b.texts = [...]string{fmt.Sprintf(unit, time), fmt.Sprintf("%.2f s", cpu), thousands(int(rss+.5)) + " MiB"}
	if b.servers > 0 {
		b.texts[1] = fmt.Sprintf("%.2f + %.2f s", cpu, b.servers)
	}
	if rss == 0 {
		b.texts[2] = "not measured"
	}
	return b
}

// thousands sets commas.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// painter draws from the top down.
type painter struct {
	b strings.Builder
	y int
}

func (p *painter) text(x int, class, anchor, s string) {
	fmt.Fprintf(&p.b, `<text x="%d" y="%d" class="%s" text-anchor="%s">%s</text>`+"\n", x, p.y, class, anchor, html.EscapeString(s))
}

func (p *painter) note(s string) {
	p.y += 16
	p.text(margin, "note", "start", s)
}

// group draws the contenders below each other.
func (p *painter) group(title, heading string, bars []bar) {
	p.y += groupStep + 14
	p.text(margin, "title", "start", title)
	p.y += 17
	for i, s := range []string{heading, "CPU", "peak memory"} {
		p.text(columns[i].x, "note", "start", s)
	}
	p.y += 5
	var longest [len(columns)]float64
	for _, b := range bars {
		for i, v := range b.values {
			if i == 1 {
				v += b.servers
			}
			longest[i] = max(longest[i], v)
		}
	}
	for _, b := range bars {
		p.bar(b, longest)
		p.y += barStep
	}
}

func (p *painter) bar(b bar, longest [len(columns)]float64) {
	class := "other"
	if strings.HasPrefix(b.name, "walpost") {
		class = "ours"
	}
	top := p.y
	p.y += barHeight - 2 // of the texts
	defer func() { p.y = top }()
	p.text(margin+labelWidth-4, "label", "end", b.name)
	for i, c := range columns {
		end := c.x
		rect := func(value float64, class string) {
			if value > 0 {
				width := max(1, int(value/longest[i]*float64(c.width)))
				fmt.Fprintf(&p.b, `<rect x="%d" y="%d" width="%d" height="%d" class="%s"/>`+"\n", end, top, width, barHeight, class)
				end += width
			}
		}
		rect(b.values[i], class)
		if i == 1 {
			rect(b.servers, class+" pale")
		}
		p.text(end+6, "label", "start", b.texts[i])
	}
}
