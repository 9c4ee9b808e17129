package kafka

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are the sink's. Made without a registerer they are counted and not
// exported.
type metrics struct {
	processed  *prometheus.CounterVec
	latency    prometheus.Histogram
	retries    prometheus.Counter
	reconnects prometheus.Counter
	growth     *growth
}

// latencyBuckets reach from 1 ms to 60 s.
var latencyBuckets = []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 20, 30, 60}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	kafka := prometheus.Labels{"component": "kafka"}
	return &metrics{
		growth:    newGrowth(reg),
		processed: f.NewCounterVec(prometheus.CounterOpts{Name: "walpost_events_processed_total", Help: "Events that Kafka has acknowledged."}, []string{"topic"}),
		latency: f.NewHistogram(prometheus.HistogramOpts{
			Name: "walpost_publish_latency_seconds", Help: "Time from an event's commit to Kafka's acknowledgement.",
			Buckets: latencyBuckets, NativeHistogramBucketFactor: 1.1,
			NativeHistogramMaxBucketNumber: 160, NativeHistogramMinResetDuration: time.Hour,
		}),
		retries:    f.NewCounter(prometheus.CounterOpts{Name: "walpost_retries_total", Help: "Attempts that failed and were made again.", ConstLabels: kafka}),
		reconnects: f.NewCounter(prometheus.CounterOpts{Name: "walpost_reconnects_total", Help: "Connections made after the first.", ConstLabels: kafka}),
	}
}

// registerGauges adds the metrics that are asked for when they are read.
// sink returns the one that is used at that moment.
func registerGauges(reg prometheus.Registerer, sink func() *Sink) {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "walpost_in_flight_events", Help: "Events handed to Kafka and not yet acknowledged."}, func() float64 {
		records, _ := sink().budget.inFlight()
		return float64(records)
	})
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "walpost_in_flight_bytes", Help: "Memory of the events handed to Kafka and not yet acknowledged."}, func() float64 {
		_, bytes := sink().budget.inFlight()
		return float64(bytes)
	})
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "walpost_connected", Help: "1 while the component is connected.",
		ConstLabels: prometheus.Labels{"component": "kafka"},
	}, func() float64 {
		if sink().health.connected() {
			return 1
		}
		return 0
	})
	if reg != nil {
		reg.MustRegister(newStalledCollector(func() waiting { return sink().health.flight.oldest() }))
	}
}
