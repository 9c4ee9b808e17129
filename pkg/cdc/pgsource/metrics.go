package pgsource

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are the source's. Made without a registerer they are counted and not
// exported.
type metrics struct {
	connected    prometheus.Gauge
	reconnects   prometheus.Counter
	retries      prometheus.Counter
	transactions prometheus.Counter
	spilled      prometheus.Counter
	confirmed    prometheus.Gauge
	retained     prometheus.Gauge
	safe         prometheus.Gauge
	lag          prometheus.Gauge
	status       *prometheus.GaugeVec

	everOpened bool // owned by Open
}

// slotStatuses are the values of wal_status.
var slotStatuses = []string{"reserved", "extended", "unreserved", "lost"}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	postgres := prometheus.Labels{"component": "postgres"}
	m := &metrics{
		connected:    f.NewGauge(prometheus.GaugeOpts{Name: "walpost_connected", Help: "1 while the component is connected.", ConstLabels: postgres}),
		reconnects:   f.NewCounter(prometheus.CounterOpts{Name: "walpost_reconnects_total", Help: "Connections made after the first.", ConstLabels: postgres}),
		retries:      f.NewCounter(prometheus.CounterOpts{Name: "walpost_retries_total", Help: "Attempts that failed and were made again.", ConstLabels: postgres}),
		transactions: f.NewCounter(prometheus.CounterOpts{Name: "walpost_transactions_total", Help: "Committed transactions received."}),
		spilled:      f.NewCounter(prometheus.CounterOpts{Name: "walpost_spilled_bytes", Help: "Bytes of streamed transactions that went to files."}),
		confirmed:    f.NewGauge(prometheus.GaugeOpts{Name: "walpost_confirmed_lsn", Help: "Position confirmed to the slot."}),
		retained:     f.NewGauge(prometheus.GaugeOpts{Name: "walpost_slot_retained_bytes", Help: "WAL that the slot keeps on the server's disk."}),
		safe:         f.NewGauge(prometheus.GaugeOpts{Name: "walpost_slot_safe_bytes", Help: "WAL that can still be written before the slot may be lost; -1 without a limit."}),
		lag:          f.NewGauge(prometheus.GaugeOpts{Name: "walpost_lag_bytes", Help: "WAL not yet confirmed."}),
		status:       f.NewGaugeVec(prometheus.GaugeOpts{Name: "walpost_slot_status", Help: "1 for the slot's wal_status."}, []string{"status"}),
	}
	m.safe.Set(-1)
	return m
}

func (m *metrics) opened() {
	if m.everOpened {
		m.reconnects.Inc()
	}
	m.everOpened = true
}

// forget drops what was seen of the slot: somebody else looks at it now.
func (m *metrics) forget() {
	m.retained.Set(0)
	m.lag.Set(0)
	m.safe.Set(-1)
	m.status.Reset()
}

func (m *metrics) observe(slot *SlotState) {
	m.retained.Set(float64(slot.Retained))
	m.lag.Set(float64(slot.Unconfirmed))
	m.safe.Set(-1)
	if slot.SafeWALSize != nil {
		m.safe.Set(float64(*slot.SafeWALSize))
	}
	for _, s := range slotStatuses {
		value := 0.0
		if s == slot.WALStatus {
			value = 1
		}
		m.status.WithLabelValues(s).Set(value)
	}
}
