package integration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// operated is how many events TestOperate writes, unless WALPOST_TEST_EVENTS says otherwise:
// make operate does it with a million.
const operated = 30_000

const (
	ratioRounds = 5
	ratioTime   = 2 * time.Second
	probeEvery  = 5 * time.Millisecond
)

// A deployment's life on real servers: what was published is published again by position, time
// and key, and is purged, beside a stream and writers that go on. How much they feel of it is
// printed, as the ratio of medians over alternating rounds.
func TestOperate(t *testing.T) {
	n := events(t)
	if n == 100_000 {
		n = operated
	}
	s := newStage(t, envtest.NewDatabase(t), loadKafka(t))
	p := s.start("run", "--postgres.status_interval", "500ms")
	s.isReady(30 * time.Second)
	s.walpost("bookmark", "create", "life")
	third := n / 3
	s.fill(harness.Rows, 1, third)
	from, since := s.checkpoint(), time.Now()
	s.fill(harness.Rows, third+1, 2*third)
	to, until := s.checkpoint(), time.Now()
	s.fill(harness.Rows, 2*third+1, 3*third)
	s.checkpoint()

	for _, way := range []struct {
		name, condition string
		args            []string
	}{
		{"position", fmt.Sprintf("seq BETWEEN %d AND %d", third+1, 2*third), []string{"--from", from, "--to", to}},
		{"time", fmt.Sprintf("seq BETWEEN %d AND %d", third+1, 2*third), []string{"--from", since.UTC().Format(time.RFC3339Nano), "--to", until.UTC().Format(time.RFC3339Nano)}},
		{"key", fmt.Sprintf("seq BETWEEN %d AND %d AND aggregateid = 'order-7'", third+1, 2*third), []string{"--from", from, "--to", to, "--key", "order-7"}},
	} {
		begun := time.Now()
		r := s.replay(way.args...)
		s.wantReplayed(r.Replay, way.condition)
		fmt.Printf("FIGURES replay by %s: %d events in %.1f s, identical but for the header\n", way.name, r.Published, time.Since(begun).Seconds())
	}

	probe := s.probe()
	into := envtest.CreateTopic(t, s.brokers, partitions, nil)
	with, without := alternate(t, func() {}, probe.latency, func(ctx context.Context) error {
		return s.until(ctx, "replay", "--from", "life", "--to", to, "--into", into, "--timestamp", "now")
	})
	fmt.Printf("FIGURES commit to consumer of the stream: median %s beside a replay, %s without: ratio %.2f\n", with, without, float64(with)/float64(without))

	s.exec("GRANT SELECT, DELETE ON outbox TO " + s.slot)
	s.walpost("bookmark", "drop", "life")
	batch := min(s.number("SELECT count(*) FROM outbox"), 50_000) // what a round purges is what it finds
	fill := func() {
		s.fill(harness.Rows, 1, batch)
		s.caughtUp(time.Minute)
	}
	with, without = alternate(t, fill, probe.write, func(ctx context.Context) error {
		return s.until(ctx, "purge", "--older-than", "0")
	})
	fmt.Printf("FIGURES a writer's commit: median %s beside a purge, %s without: ratio %.2f\n", with, without, float64(with)/float64(without))
	probe.stop()
	s.caughtUp(time.Minute)
	s.purge("--older-than", "0")
	if left := s.number("SELECT count(*) FROM outbox"); left != 0 {
		t.Errorf("%d rows are left after all was published and purged", left)
	}
	s.stop(p)
}

// until runs a command again and again until ctx is done.
func (s *stage) until(ctx context.Context, args ...string) error {
	for ctx.Err() == nil {
		p := s.start(args...)
		code, err := p.Wait(context.WithoutCancel(ctx))
		if err != nil || code != 0 {
			return fmt.Errorf("walpost %s: exit %d, %w\n%s", strings.Join(args, " "), code, err, p.Log())
		}
	}
	return nil
}

// alternate measures in rounds, with and without a load. It prepares each of them alike, which
// is not measured.
func alternate(t *testing.T, prepare func(), measure func(time.Duration) time.Duration, load func(context.Context) error) (with, without time.Duration) {
	t.Helper()
	var loaded, quiet []time.Duration
	for range ratioRounds {
		prepare()
		quiet = append(quiet, measure(ratioTime))
		prepare()
		ctx, cancel := context.WithCancel(t.Context())
		g := new(errgroup.Group)
		g.Go(func() error { return load(ctx) })
		loaded = append(loaded, measure(ratioTime))
		cancel()
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	return medianOf(loaded), medianOf(quiet)
}

func medianOf(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[len(d)/2]
}

// probe writes single events all the time, and sees them arrive.
type probe struct {
	mu      sync.Mutex
	due     map[string]time.Time // by id; guarded by mu
	arrived []time.Duration      // guarded by mu
	written []time.Duration      // guarded by mu
	stop    func()
}

func (s *stage) probe() *probe {
	s.t.Helper()
	p := &probe{due: map[string]time.Time{}}
	ctx, cancel := context.WithCancel(s.t.Context())
	g := new(errgroup.Group)
	conn := s.db.Connect(s.t)
	client, err := kgo.NewClient(kgo.SeedBrokers(s.brokers...), kgo.ConsumeTopics(s.topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()))
	if err != nil {
		s.t.Fatal(err)
	}
	g.Go(func() error { return p.writeAll(ctx, conn) })
	g.Go(func() error {
		defer client.Close()
		p.readAll(ctx, client)
		return nil
	})
	var stopped atomic.Bool
	p.stop = func() {
		if cancel(); !stopped.Swap(true) {
			if err := g.Wait(); err != nil {
				s.t.Error(err)
			}
		}
	}
	s.t.Cleanup(p.stop)
	return p
}

func (p *probe) writeAll(ctx context.Context, conn *pgx.Conn) error {
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		id := uuid.NewString()
		begun := time.Now()
		p.mu.Lock()
		p.due[id] = begun
		p.mu.Unlock()
		// A stop must not cut a statement off: then its row may or may not be there.
		if _, err := conn.Exec(context.WithoutCancel(ctx), "INSERT INTO outbox VALUES ($1, 'order', 'probe', 'created', '{\"n\": 0}', 0)", pgx.QueryExecModeExec, id); err != nil {
			return err
		}
		p.mu.Lock()
		p.written = append(p.written, time.Since(begun))
		p.mu.Unlock()
	}
}

func (p *probe) readAll(ctx context.Context, client *kgo.Client) {
	for ctx.Err() == nil {
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			now := time.Now()
			for _, h := range r.Headers {
				if h.Key != "id" {
					continue
				}
				p.mu.Lock()
				if due, ok := p.due[string(h.Value)]; ok {
					p.arrived = append(p.arrived, now.Sub(due))
					delete(p.due, string(h.Value))
				}
				p.mu.Unlock()
			}
		})
	}
}

// latency is the median time from an event's write to its arrival, over some time.
func (p *probe) latency(d time.Duration) time.Duration { return p.over(d, &p.arrived) }

// write is the median time of a write.
func (p *probe) write(d time.Duration) time.Duration { return p.over(d, &p.written) }

func (p *probe) over(d time.Duration, list *[]time.Duration) time.Duration {
	p.mu.Lock()
	*list = nil
	p.mu.Unlock()
	time.Sleep(d) // what is measured is this time
	p.mu.Lock()
	defer p.mu.Unlock()
	return medianOf(slices.Clone(*list))
}
