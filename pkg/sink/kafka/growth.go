package kafka

import (
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// growth notices that a topic is given more partitions: most keys move to another, where
// consumers may see a key's newer events before its older ones. All clients and epochs of
// a sink share it.
type growth struct {
	added *prometheus.CounterVec

	mu     sync.Mutex
	counts map[string]int // by topic; guarded by mu
}

func newGrowth(reg prometheus.Registerer) *growth {
	return &growth{
		added: promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
			Name: "walpost_topic_partitions_added_total", Help: "Partitions that a topic was given while walpost wrote to it: its keys have moved.",
		}, []string{"topic"}),
		counts: make(map[string]int),
	}
}

// saw notes how many partitions a topic has. Safe to call from any goroutine.
func (g *growth) saw(log *slog.Logger, topic string, partitions int) {
	g.mu.Lock()
	before := g.counts[topic]
	g.counts[topic] = partitions
	g.mu.Unlock()
	added := g.added.WithLabelValues(topic) // there from the start, so that an increase is one
	if before == 0 || partitions <= before {
		return
	}
	added.Add(float64(partitions - before))
	log.Warn("a topic was given more partitions: its keys move, and a key's newer events may be read before its older ones",
		"topic", topic, "partitions_before", before, "partitions", partitions)
}
