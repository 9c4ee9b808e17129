package kafka

import (
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// flight lists the deliveries that are not answered, in the order in which they were
// handed over. All methods may be called from any goroutine.
type flight struct {
	mu          sync.Mutex
	first, last *delivery // guarded by mu, as their links are
}

// links are a delivery's place in the list.
type links struct {
	next, previous *delivery
	since          time.Time
}

func (f *flight) enter(d *delivery, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d.links = links{previous: f.last, since: now}
	if f.last == nil {
		f.first = d
	} else {
		f.last.links.next = d
	}
	f.last = d
}

func (f *flight) leave(d *delivery) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d.links.previous == nil {
		f.first = d.links.next
	} else {
		d.links.previous.links.next = d.links.next
	}
	if d.links.next == nil {
		f.last = d.links.previous
	} else {
		d.links.next.links.previous = d.links.previous
	}
	d.links = links{}
}

// waiting is the delivery that waits longest. Its zero value is none.
type waiting struct {
	topic     string
	partition int32 // -1 until it is chosen
	since     time.Time
}

func (f *flight) oldest() waiting {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.first == nil {
		return waiting{}
	}
	return waiting{f.first.topic.name, f.first.partition.Load(), f.first.links.since}
}

// topics returns those of what waits for more than d, each once.
func (f *flight) topics(d time.Duration) (names []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := map[string]bool{}
	for at := f.first; at != nil && time.Since(at.links.since) > d; at = at.links.next {
		if name := at.topic.name; !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names
}

// longerThan reports whether something waits for more than d.
func (w waiting) longerThan(d time.Duration) bool { return w.topic != "" && time.Since(w.since) > d }

// String names the partition.
func (w waiting) String() string { return partitionText(w.topic, w.partition) }

// partitionText names a partition, or the topic if the partition is not known.
func partitionText(topic string, partition int32) string {
	if partition < 0 {
		return "topic " + topic
	}
	return fmt.Sprintf("topic %s partition %d", topic, partition)
}

// stalledCollector exports what waits longest, once it has waited for long: the one
// partition that an operator should look at.
type stalledCollector struct {
	oldest func() waiting
	desc   *prometheus.Desc
}

func newStalledCollector(oldest func() waiting) prometheus.Collector {
	return stalledCollector{oldest, prometheus.NewDesc("walpost_stalled_seconds",
		"How long the oldest unacknowledged event has been with Kafka, by its partition; there from 2 s on.", []string{"topic", "partition"}, nil)}
}

// Describe implements [prometheus.Collector].
func (c stalledCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect implements [prometheus.Collector].
func (c stalledCollector) Collect(ch chan<- prometheus.Metric) {
	w := c.oldest()
	if w.longerThan(stallAfter) {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, time.Since(w.since).Seconds(), w.topic, strconv.Itoa(int(w.partition)))
	}
}
