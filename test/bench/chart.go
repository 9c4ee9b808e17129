package main

import (
	"fmt"
	"html"
	"strings"
)

// The chart's measures, in pixels.
const (
	chartWidth = 790
	labelWidth = 230
	valueWidth = 120
	barHeight  = 16
	barStep    = 22
	titleStep  = 34
)

// chart draws the medians as bars, a group for each backlog and each rate. It follows
// the reader's light or dark theme.
func (r *report) chart() string {
	var b strings.Builder
	y := 28
	text := func(x, y int, class, anchor, s string) {
		fmt.Fprintf(&b, `<text x="%d" y="%d" class="%s" text-anchor="%s">%s</text>`+"\n", x, y, class, anchor, html.EscapeString(s))
	}
	bars := func(title string, names []string, values []float64, format string) {
		longest := 0.0
		for _, v := range values {
			longest = max(longest, v)
		}
		text(0, y, "title", "start", title)
		y += 10
		for i, name := range names {
			class := "other"
			if strings.HasPrefix(name, "walpost") {
				class = "ours"
			}
			width := max(1, int(values[i]/longest*(chartWidth-labelWidth-valueWidth)))
			text(labelWidth-8, y+barHeight-4, "label", "end", name)
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%d" height="%d" class="%s"/>`+"\n", labelWidth, y, width, barHeight, class)
			text(labelWidth+width+6, y+barHeight-4, "label", "start", fmt.Sprintf(format, values[i]))
			y += barStep
		}
		y += titleStep
	}
	for _, w := range r.Backlogs {
		var names []string
		var values []float64
		for _, c := range w.Contenders {
			names, values = append(names, c.Name), append(values, c.Median.Wall)
		}
		bars(fmt.Sprintf("%s (%d events): seconds until all is in Kafka, less is better", w.Name, w.Events), names, values, "%.2f s")
	}
	for i := 0; i < len(r.Latencies); {
		load := r.Latencies[i].Load
		var names []string
		var values []float64
		for ; i < len(r.Latencies) && r.Latencies[i].Load == load; i++ {
			names, values = append(names, r.Latencies[i].Contender), append(values, r.Latencies[i].P99)
		}
		bars(fmt.Sprintf("commit to consumer at %s: p99, less is better", load), names, values, "%.1f ms")
	}
	for _, line := range []string{r.Machine, r.Versions, r.Settings} {
		text(0, y, "note", "start", line)
		y += 16
	}
	const head = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d" role="img" aria-label="walpost and other ways to publish an outbox, measured">
<style>
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 13px }
.note { fill: #59636e; font-size: 11px }
.ours { fill: #1a7f64 }
.other { fill: #9aa4af }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .note { fill: #9198a1 } .ours { fill: #3fb893 } .other { fill: #59636e } }
</style>
`
	return fmt.Sprintf(head, chartWidth, y) + b.String() + "</svg>\n"
}
