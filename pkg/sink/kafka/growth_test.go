package kafka

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/walpost/walpost/internal/testenv/envtest"
)

// A topic that is given partitions while it is written to is counted and named, once,
// since its keys have moved.
func TestPartitionsAdded(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(2, testTopic))
	var text logs
	reg := prometheus.NewRegistry()
	s := newSink(t, Config{Brokers: c.ListenAddrs(), Logger: text.logger(slog.LevelWarn), Registerer: reg})
	a := new(answers)
	write := func() float64 {
		produce(t, s, a, record(testTopic, fmt.Sprint(time.Now().UnixNano()), "v"))
		flush(t, s)
		return testutil.ToFloat64(s.metrics.growth.added.WithLabelValues(testTopic))
	}
	if n := write(); n != 0 {
		t.Fatalf("%v partitions were added at the first record", n)
	}
	if _, err := envtest.Admin(t, c.ListenAddrs()).CreatePartitions(t.Context(), 3, testTopic); err != nil {
		t.Fatal(err)
	}
	s.client.Load().ForceMetadataRefresh()
	eventually(t, "the partitions are noticed", func() bool { return write() == 3 })
	if n := write(); n != 3 {
		t.Errorf("%v partitions were added, want 3", n)
	}
	if n := text.count("was given more partitions"); n != 1 {
		t.Errorf("said %d times, want once", n)
	}
}
