package admin

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/circuit"
)

func TestReady(t *testing.T) {
	now := time.Unix(10_000, 0)
	live := cdc.Status{State: cdc.Streaming}
	late := cdc.Status{State: cdc.Streaming, Oldest: now.Add(-time.Minute)}
	working := late
	working.LastAck = now.Add(-time.Second)
	tried, proven, saving, stuck := live, live, live, live
	tried.Circuit, tried.Err = circuit.HalfOpen, errors.New("disk full")
	proven.Circuit = circuit.HalfOpen // it is just being closed
	saving.Saving, stuck.Saving = now.Add(-time.Second), now.Add(-6*time.Second)
	tests := []struct {
		name string
		c    Condition
		word string
		err  string
	}{
		{name: "Streaming", c: Condition{Pipeline: live}, word: "streaming"},
		{name: "Standby", c: Condition{Pipeline: cdc.Status{State: cdc.Connecting, Standby: true}, Kafka: errors.New("away")}, word: "standby"},
		{name: "SlotInUse", c: Condition{Pipeline: cdc.Status{State: cdc.Connecting}, Postgres: errors.New("postgres: slot is in use")}, err: "connecting: postgres: slot is in use"},
		{name: "Connecting", c: Condition{Pipeline: cdc.Status{State: cdc.Connecting}}, err: "connecting"},
		{name: "Broken", c: Condition{Pipeline: cdc.Status{State: cdc.Connecting, Err: errors.New("reset")}}, err: "connecting: reset"},
		{name: "ConnectingWithoutKafka", c: Condition{Pipeline: cdc.Status{State: cdc.Connecting}, Kafka: errors.New("away")}, err: "connecting: away"},
		{name: "Stopping", c: Condition{Pipeline: cdc.Status{State: cdc.Stopping}}, err: "stopping"},
		{name: "Postgres", c: Condition{Pipeline: live, Postgres: errors.New("postgres: no answer"), Kafka: errors.New("away")}, err: "postgres: no answer"},
		{name: "Kafka", c: Condition{Pipeline: live, Kafka: errors.New("kafka: away")}, err: "kafka: away"},
		{name: "Probation", c: Condition{Pipeline: tried}, err: "on probation: the last streams ended soon: disk full"},
		{name: "Proven", c: Condition{Pipeline: proven}, word: "streaming"},
		{name: "Saving", c: Condition{Pipeline: saving}, word: "streaming"},
		{name: "SaveHangs", c: Condition{Pipeline: stuck}, err: "checkpoint: a save has been under way for 6s"},
		{name: "StandingStill", c: Condition{Pipeline: late}, err: "standing still"},
		{name: "WorkingOff", c: Condition{Pipeline: working}, word: "streaming"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.c.Now, tt.c.MaxLag = now, 30*time.Second
			word, err := tt.c.Ready()
			if word != tt.word || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got %q, %v, want %q, %q", word, err, tt.word, tt.err)
			}
		})
	}
}

func TestHandler(t *testing.T) {
	reg := prometheus.NewRegistry()
	status := cdc.Status{
		State: cdc.Connecting, CaughtUp: time.Now().Add(-time.Hour), Received: 7, Acknowledged: 5, Checkpoint: 3,
		Failed: map[cdc.PoisonReason]int64{cdc.PoisonKey: 4}, DeadLetters: map[cdc.PoisonReason]int64{cdc.PoisonKey: 2}, OpenDead: 8, ParkedKeys: 6, Parked: 9,
	}
	reg.MustRegister(NewCollector("orders", func() cdc.Status { return status }), NewBuildInfo("v1"))
	reg.MustRegister(NewCircuits(func() map[string]circuit.State {
		return map[string]circuit.State{"postgres": circuit.Open, "kafka": circuit.HalfOpen}
	}))
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	ready := errors.New("not yet")
	h := Handler(Config{Gatherer: reg, Ready: func(context.Context) (string, error) { return "streaming", ready }})
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	if code, body := get("/livez"); code != 200 || body != "ok\n" {
		t.Errorf("/livez = %d %q", code, body)
	}
	if code, body := get("/readyz"); code != 503 || body != "not yet\n" {
		t.Errorf("/readyz = %d %q", code, body)
	}
	ready = nil
	if code, body := get("/readyz"); code != 200 || body != "streaming\n" {
		t.Errorf("/readyz = %d %q", code, body)
	}
	_, body := get("/metrics")
	for _, want := range []string{"walpost_received_lsn 7", "walpost_acknowledged_lsn 5", "walpost_checkpoint_lsn 3", "walpost_open_dead_letters 8", "walpost_parked_keys 6", "walpost_parked_events 9", `walpost_events_failed_total{reason="key"} 4`, `walpost_dead_letters_total{reason="key"} 2`, "walpost_lag_seconds 3600", `walpost_standby{slot="orders"} 0`, `walpost_build_info{`, `walpost_circuit_state{component="postgres"} 2`, `walpost_circuit_state{component="kafka"} 1`} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	status.Standby = true
	if _, body := get("/metrics"); !strings.Contains(body, `walpost_standby{slot="orders"} 1`) || strings.Contains(body, "\nwalpost_lag_seconds") {
		t.Errorf("a standby has a lag:\n%s", body)
	}
}

// An address that is in use is refused with the way out: a second instance on the host is the
// likely reason.
func TestServeAddressInUse(t *testing.T) {
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = Serve(t.Context(), Config{Listen: l.Addr().String()}, nil)
	var refused *cdc.RefusedError
	if !errors.As(err, &refused) || !strings.Contains(refused.Hint, "--admin.listen") {
		t.Errorf("got %v, want a refusal with a hint", err)
	}
}
