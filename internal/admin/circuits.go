package admin

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/walpost/walpost/pkg/circuit"
)

// circuits exports the states of circuits at the moment it is asked for them.
type circuits struct {
	states func() map[string]circuit.State
	desc   *prometheus.Desc
}

// NewCircuits returns the metric of circuits, by component. states is called from any
// goroutine.
func NewCircuits(states func() map[string]circuit.State) prometheus.Collector {
	return &circuits{states, prometheus.NewDesc("walpost_circuit_state",
		"0 closed: it works; 1 half-open: it has failed and is being tried; 2 open: it has failed.", []string{"component"}, nil)}
}

// Describe implements [prometheus.Collector].
func (c *circuits) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect implements [prometheus.Collector].
func (c *circuits) Collect(ch chan<- prometheus.Metric) {
	for component, state := range c.states() {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(state), component)
	}
}
