package admin

import (
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/walpost/walpost/pkg/cdc"
)

// collector exports a pipeline's status at the moment it is asked for.
type collector struct {
	status func() cdc.Status

	standby, lag, unconfirmed, received, acknowledged, checkpoint, failed, dead, open, parkedKeys, parked *prometheus.Desc
}

// NewCollector returns the metrics of a pipeline of a slot.
func NewCollector(slot string, status func() cdc.Status) prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &collector{
		status: status,
		standby: prometheus.NewDesc("walpost_standby", "1 while another instance owns the slot, and this one waits to take over; it has no walpost_lag_seconds then.",
			nil, prometheus.Labels{"slot": slot}),
		lag:          desc("walpost_lag_seconds", "Age of the oldest unacknowledged commit; 0 when caught up. A standby has none."),
		unconfirmed:  desc("walpost_unconfirmed_events", "Events from the oldest unacknowledged one on, acknowledged or not."),
		received:     desc("walpost_received_lsn", "Everything committed before it has been handed to Kafka's producer."),
		acknowledged: desc("walpost_acknowledged_lsn", "Everything committed before it is acknowledged by Kafka."),
		checkpoint:   desc("walpost_checkpoint_lsn", "Saved position."),
		failed:       desc("walpost_events_failed_total", "Events that could not be published.", "reason"),
		dead:         desc("walpost_dead_letters_total", "Events that became dead letters.", "reason"),
		open:         desc("walpost_open_dead_letters", "Dead letters that are neither published nor discarded, of at most delivery.max_dead_letters."),
		parked:       desc("walpost_parked_events", "Events that are parked behind a dead letter, of at most delivery.max_parked_events."),
		parkedKeys:   desc("walpost_parked_keys", "Keys whose events are parked behind a dead letter."),
	}
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements [prometheus.Collector].
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.status()
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	if s.Standby {
		gauge(c.standby, 1)
	} else {
		gauge(c.standby, 0)
		gauge(c.lag, s.Lag(time.Now()).Seconds())
	}
	gauge(c.unconfirmed, float64(s.Unconfirmed))
	gauge(c.received, float64(s.Received))
	gauge(c.acknowledged, float64(s.Acknowledged))
	gauge(c.checkpoint, float64(s.Checkpoint))
	gauge(c.open, float64(s.OpenDead))
	gauge(c.parked, float64(s.Parked))
	gauge(c.parkedKeys, float64(s.ParkedKeys))
	for desc, counts := range map[*prometheus.Desc]map[cdc.PoisonReason]int64{c.failed: s.Failed, c.dead: s.DeadLetters} {
		for reason, n := range counts {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), string(reason))
		}
	}
}

// NewBuildInfo returns the metric walpost_build_info.
func NewBuildInfo(version string) prometheus.Collector {
	labels := prometheus.Labels{"version": version, "go_version": "unknown"}
	if info, ok := debug.ReadBuildInfo(); ok {
		labels["go_version"] = info.GoVersion
	}
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "walpost_build_info", Help: "1, with what was built as labels.", ConstLabels: labels})
	g.Set(1)
	return g
}
