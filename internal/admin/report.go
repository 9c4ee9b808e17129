package admin

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/walpost/walpost/pkg/cdc"
)

// Report is what /status shows: an instance's condition at one moment. Its fields are
// named as the metrics are, where there is one, and have the same values.
type Report struct {
	Version     string    `json:"version"`
	Slot        string    `json:"slot"`
	Publication string    `json:"publication"`
	Shard       string    `json:"shard,omitempty"`
	Started     time.Time `json:"started"`

	State   cdc.State `json:"state"`
	Standby bool      `json:"standby"` // another instance owns the slot: lag is not known here
	Ready   bool      `json:"ready"`
	Reason  string    `json:"reason"` // the word of /readyz, or why it is not ready

	LagSeconds   float64 `json:"lag_seconds"`
	LagBytes     float64 `json:"lag_bytes"`
	Received     cdc.LSN `json:"received_lsn"`
	Acknowledged cdc.LSN `json:"acknowledged_lsn"`
	Checkpoint   cdc.LSN `json:"checkpoint_lsn"`

	Processed      float64 `json:"events_processed_total"`
	Unconfirmed    int     `json:"unconfirmed_events"`
	InFlightEvents float64 `json:"in_flight_events"`
	InFlightBytes  float64 `json:"in_flight_bytes"`

	// Latency is the histogram of the time from commit to acknowledgement, cumulative as
	// Prometheus has it; the last bound is null.
	Latency []Bucket `json:"latency"`

	SlotRetained float64 `json:"slot_retained_bytes"`
	SlotSafe     float64 `json:"slot_safe_bytes"` // left before the slot may be lost; -1 without a limit
	SlotStatus   string  `json:"slot_status"`     // as pg_replication_slots has it; empty while it is not known

	OpenDeadLetters int  `json:"open_dead_letters"`
	ParkedKeys      int  `json:"parked_keys"`
	ParkedEvents    int  `json:"parked_events"`
	Held            bool `json:"held"`              // nothing is taken, since too much is dead or parked
	LettersHere     bool `json:"dead_letters_here"` // /dead-letters shows and settles them

	Snapshot *Snapshot `json:"snapshot,omitempty"` // nil if the process has begun none

	// PartitionsAdded is how many partitions topics were given since the start.
	PartitionsAdded float64 `json:"topic_partitions_added_total"`

	Circuits map[string]string `json:"circuit_state"` // by component: closed, half-open or open

	Recent []Line `json:"recent"` // warnings and errors of the log, the newest first
}

// Snapshot is how far the snapshot before the stream is.
type Snapshot struct {
	Chunks int   `json:"chunks"` // handed over
	Of     int   `json:"of"`
	Rows   int64 `json:"rows"` // handed over by this process
}

// Bucket is how many events took as long or less.
type Bucket struct {
	LE    *float64 `json:"le"` // seconds; nil is all
	Count uint64   `json:"count"`
}

// Take fills in what comes from the pipeline and from the metrics, which it returns an
// error of.
func (r *Report) Take(status cdc.Status, metrics prometheus.Gatherer, now time.Time) error {
	r.State, r.Standby, r.LagSeconds = status.State, status.Standby, status.Lag(now).Seconds()
	r.Received, r.Acknowledged, r.Checkpoint = status.Received, status.Acknowledged, status.Checkpoint
	r.Unconfirmed = status.Unconfirmed
	r.OpenDeadLetters, r.ParkedKeys, r.ParkedEvents, r.Held = status.OpenDead, status.ParkedKeys, status.Parked, status.Held
	families, err := metrics.Gather()
	for name, to := range map[string]*float64{
		"walpost_lag_bytes": &r.LagBytes, "walpost_events_processed_total": &r.Processed,
		"walpost_in_flight_events": &r.InFlightEvents, "walpost_in_flight_bytes": &r.InFlightBytes,
		"walpost_slot_retained_bytes": &r.SlotRetained, "walpost_slot_safe_bytes": &r.SlotSafe,
		"walpost_topic_partitions_added_total": &r.PartitionsAdded,
	} {
		*to = sum(families, name)
	}
	r.takeSlot(families)
	return err
}

// takeSlot fills in what is no plain number.
func (r *Report) takeSlot(families []*dto.MetricFamily) {
	r.Latency = []Bucket{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			switch {
			case f.GetName() == "walpost_slot_status" && m.GetGauge().GetValue() == 1:
				r.SlotStatus = m.GetLabel()[0].GetValue()
			case f.GetName() == "walpost_publish_latency_seconds":
				for _, b := range m.GetHistogram().GetBucket() {
					r.Latency = append(r.Latency, Bucket{new(b.GetUpperBound()), b.GetCumulativeCount()})
				}
				r.Latency = append(r.Latency, Bucket{nil, m.GetHistogram().GetSampleCount()})
			}
		}
	}
}

// sum adds up the series of a counter or gauge.
func sum(families []*dto.MetricFamily, name string) (total float64) {
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			total += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return total
}

// serveReport answers with a report, also when it is not whole: a fault is when it is
// needed.
func serveReport(cfg Config) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		report, err := cfg.Report(r.Context())
		if err != nil {
			cfg.Logger.Debug("report is not whole", "error", err)
		}
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(report) // to a client that may be gone
	}
}
