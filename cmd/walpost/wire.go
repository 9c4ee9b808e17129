package main

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/otel/sdk/trace"
	"golang.org/x/sync/errgroup"

	"github.com/walpost/walpost/internal/admin"
	"github.com/walpost/walpost/internal/bookmark"
	"github.com/walpost/walpost/internal/clone"
	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/internal/snapshot"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
	"github.com/walpost/walpost/pkg/circuit"
	"github.com/walpost/walpost/pkg/deadletter"
	"github.com/walpost/walpost/pkg/outbox"
	"github.com/walpost/walpost/pkg/sink/kafka"
	"github.com/walpost/walpost/pkg/sink/schema"
)

// service is a configured pipeline and what watches it.
type service struct {
	cfg      config.Config
	log      *slog.Logger
	registry *prometheus.Registry
	source   *pgsource.Source
	snapshot *snapshot.Source // before the source
	sink     sink
	store    store
	letters  *kafka.Reader // nil without dead letters
	started  time.Time
	recent   *admin.Recent
	spans    *trace.TracerProvider // nil unless spans are wanted
	schemas  *schema.Sink          // nil without a schema registry
	guard    *clone.Guard          // nil with exactly-once
	notes    *kafka.Notes          // the guard's
	pipeline *cdc.Pipeline

	bookmarks *bookmark.Metrics
}

// newService wires the parts. It neither connects nor starts anything.
func newService(cfg config.Config, log *slog.Logger) (*service, error) {
	recent := &admin.Recent{}
	log = slog.New(recent.Handler(log.Handler()))
	s := &service{cfg: cfg, log: log, recent: recent, registry: prometheus.NewRegistry(), started: time.Now()}
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		admin.NewBuildInfo(readBuildInfo().Version))
	router, err := newRouter(cfg.Outbox)
	if err != nil {
		return nil, err
	}
	if err := s.newSources(router); err != nil {
		return nil, err
	}
	if s.sink, s.store, err = newDelivery(cfg, log, s.registry); err != nil {
		return nil, err
	}
	dead, err := s.deadLetters()
	if err != nil {
		return nil, err
	}
	var reopen func(context.Context) error
	if sink, ok := s.sink.(*kafka.Reopening); ok {
		reopen = sink.Reopen
	}
	var sink cdc.Sink = s.sink
	if s.schemas, err = newSchemas(cfg, sink, cfg.Delivery.Guarantee == config.ExactlyOnce, log); err != nil {
		return nil, err
	}
	if s.schemas != nil {
		sink = s.schemas
	}
	sink, store, err := s.traced(sink)
	if err != nil {
		return nil, err
	}
	source, store, err := s.guardCopies(s.snapshot, store)
	if err != nil {
		return nil, err
	}
	s.pipeline = cdc.NewPipeline(cdc.Config{
		Source: source, Sink: sink, Store: store, Route: router.Route, DeadLetters: dead, Check: s.check(), Standby: s.source.Standby, Reopen: reopen,
		Transactional:        cfg.Delivery.Guarantee == config.ExactlyOnce,
		DrainTimeout:         cfg.Delivery.DrainTimeout,
		CheckpointInterval:   cfg.Checkpoint.Interval,
		MaxUnconfirmedEvents: cfg.Delivery.MaxUnconfirmedEvents,
		RetryInitial:         cfg.Delivery.Retry.Initial,
		RetryMax:             cfg.Delivery.Retry.Max,
		Logger:               log,
	})
	s.bookmarks = bookmark.NewMetrics(log)
	s.registry.MustRegister(s.bookmarks, admin.NewCollector(cfg.Postgres.Slot, s.pipeline.Status), admin.NewCircuits(s.circuits), s.snapshotLeft())
	return s, nil
}

// deadLetters joins the dead-letter topic to the pipeline, if there is to be one.
func (s *service) deadLetters() (*cdc.DeadLetters, error) {
	if s.cfg.Delivery.Poison != config.PoisonDeadLetter {
		return nil, nil
	}
	var err error
	if s.letters, err = newLetterReader(s.cfg, s.log); err != nil {
		return nil, err
	}
	topic := s.cfg.DeadLetters()
	return &cdc.DeadLetters{
		Topic: topic, Slot: s.cfg.Postgres.Slot, Log: s.letters, Max: s.cfg.Delivery.MaxDeadLetters, MaxParked: s.cfg.Delivery.MaxParkedEvents, Decode: deadletter.Decode,
		Encode: func(l *cdc.Letter, r *cdc.Record) { deadletter.Encode(topic, l, r) },
	}, nil
}

func (s *service) close() {
	if sink, ok := s.sink.(*kafka.Reopening); ok {
		sink.Close()
	}
	if s.letters != nil {
		s.letters.Close()
	}
	s.flushSpans()
	s.lastMark(context.Background())
	if err := s.store.Close(); err != nil {
		s.log.Debug("close checkpoint store", "error", err)
	}
}

// run streams until ctx is done or something fails that cannot be mended by
// trying again. The admin server ends last, so that a probe sees the drain.
func (s *service) run(ctx context.Context) error {
	defer s.close()
	actx, stopAdmin := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAdmin()
	g, gctx := errgroup.WithContext(actx)
	if s.cfg.Admin.Listen != "" {
		g.Go(func() error { return admin.Serve(gctx, s.adminConfig(), s.listening) })
	}
	g.Go(func() error { return s.sink.Watch(gctx) })
	g.Go(func() error {
		nctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(gctx, cancel)()
		return s.notify(nctx)
	})
	g.Go(func() error { return (&upkeep{s: s, noTables: !keepsTables(s.cfg)}).run(gctx) })
	if keepsTables(s.cfg) {
		g.Go(func() error { return (&upkeep{s: s, purges: true}).run(gctx) }) // which may take hours
	}
	g.Go(func() error { return (&ahead{s: s}).run(gctx) })
	if s.guard != nil {
		g.Go(func() error { return s.guard.Run(gctx) })
	}
	g.Go(func() error {
		defer stopAdmin()
		pctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(gctx, cancel)() // the admin server has failed
		return s.pipeline.Run(pctx)
	})
	return g.Wait()
}

// keepsTables reports whether the database holds walpost's own tables: exactly-once notes there
// that it is used. Where the checkpoint is elsewhere nothing is written there but what was asked
// for.
func keepsTables(cfg config.Config) bool {
	store := cfg.Checkpoint.Store
	return store == config.StorePostgres || store == config.StoreKafka || cfg.Replay.Window > 0 || cfg.Purge.OlderThan > 0
}

func (s *service) listening(addr net.Addr) {
	s.log.Info("admin server listening", "address", addr.String())
}

func (s *service) adminConfig() admin.Config {
	return admin.Config{
		Listen: s.cfg.Admin.Listen, Ready: s.ready, Report: s.report, Settings: s.cfg.Effective(),
		Letters: newLetters(s.cfg), Token: string(s.cfg.Admin.Token), Gatherer: s.registry, Logger: s.log,
	}
}

func (s *service) report(ctx context.Context) (admin.Report, error) {
	p := s.cfg.Postgres
	r := admin.Report{
		Version: readBuildInfo().Version, Slot: p.Slot, Publication: p.Publication, Shard: p.Shard.String(),
		Started: s.started, Circuits: map[string]string{}, Recent: s.recent.Lines(), LettersHere: newLetters(s.cfg) != nil,
	}
	for component, state := range s.circuits() {
		r.Circuits[component] = state.String()
	}
	if p := s.snapshot.Progress(); p != nil {
		r.Snapshot = &admin.Snapshot{Chunks: p.Chunks, Of: p.Of, Rows: p.Rows}
	}
	word, err := s.ready(ctx)
	r.Ready, r.Reason = err == nil, word
	if err != nil {
		r.Reason = err.Error()
	}
	return r, r.Take(s.pipeline.Status(), s.registry, time.Now())
}

// circuits are the states of the ways to both servers. A standby that waits has found
// its database.
func (s *service) circuits() map[string]circuit.State {
	status := s.pipeline.Status()
	if status.Standby {
		status.Circuit = circuit.Closed
	}
	return map[string]circuit.State{"postgres": status.Circuit, "kafka": s.sink.Circuit()}
}

func (s *service) ready(ctx context.Context) (string, error) {
	status, kafkaErr := s.pipeline.Status(), s.sink.Healthy(ctx)
	if s.letters != nil && (status.State != cdc.Streaming || status.HeldForRetry) { // which goes on once they are read
		kafkaErr = cmp.Or(s.letters.Healthy(), kafkaErr)
	}
	if s.schemas != nil {
		kafkaErr = cmp.Or(s.schemas.Healthy(), kafkaErr)
	}
	return admin.Condition{
		Pipeline: status, Postgres: s.source.Healthy(), Kafka: kafkaErr,
		MaxLag: s.cfg.Admin.MaxLag, Now: time.Now(),
	}.Ready()
}

func newRouter(o config.Outbox) (*outbox.Router, error) {
	return outbox.NewRouter(outbox.Config{
		ID: o.ID, Key: o.Key, Route: o.Route, Payload: o.Payload, Timestamp: o.Timestamp,
		Place: o.Place, MissingIgnored: o.PlaceMissing == config.PlaceMissingIgnore,
		Topic: o.Topic, RouteRegex: o.RouteRegex, PositionHeaders: o.PositionHeaders,
		KeyFormat: outbox.Format(o.KeyFormat), ValueFormat: outbox.Format(o.ValueFormat),
		ExpandJSON: o.ExpandJSON, TombstoneOnEmpty: o.TombstoneOnEmpty, SchemaName: o.SchemaName, SchemaVersion: o.SchemaVersion,
		CloudEvents: o.Headers == config.HeadersCloudEvents, CloudEventsSource: o.CloudEventsSource,
	})
}

func sourceConfig(cfg config.Config, router *outbox.Router, log *slog.Logger, reg prometheus.Registerer) pgsource.Config {
	var tables []pgsource.Table
	for _, t := range cfg.Outbox.Tables {
		tables = append(tables, pgsource.Table(t))
	}
	p := cfg.Postgres
	return pgsource.Config{
		DSN: p.ConnString(), Slot: p.Slot, Publication: p.Publication, Tables: tables,
		Columns: router.Columns(), Binary: outbox.BinarySafe, Messages: messages(cfg, router),
		Describe: cfg.Outbox.KeyFormat == config.FormatJSONSchema || cfg.Outbox.ValueFormat == config.FormatJSONSchema,
		Filtered: p.Shard.Count > 0, RefuseUpdates: cfg.Outbox.Update == config.UpdateStop,
		CreateSlot:  p.CreateSlot && cfg.Checkpoint.Store != config.StoreSlot,
		Failover:    pgsource.Failover(p.Failover),
		WaitForSlot: p.WaitForSlot, StatusInterval: p.StatusInterval, PullAbove: pullAbove(p.PullAbove),
		MaxTxMemory: int64(cfg.Delivery.MaxTxMemory), SpillDir: cfg.Delivery.SpillDir,
		Registerer: reg, Logger: log,
	}
}

// messages says how messages become events, or nil. Of shards the first reads them.
func messages(cfg config.Config, router *outbox.Router) *pgsource.Messages {
	prefix := cfg.Messages.Prefix
	if prefix == "" || cfg.Postgres.Shard.Index > 0 {
		return nil
	}
	rel := router.MessageRelation(prefix)
	return &pgsource.Messages{Prefix: prefix, Relation: rel, Values: outbox.MessageValues(rel, cfg.Outbox.Payload)}
}

// pullAbove makes the setting's word for never the source's.
func pullAbove(b config.Bytes) int64 {
	if b == 0 {
		return -1
	}
	return int64(b)
}

func newLetterReader(cfg config.Config, log *slog.Logger) (*kafka.Reader, error) {
	k, err := kafkaConfig(cfg, log, nil)
	if err != nil {
		return nil, err
	}
	return kafka.NewReader(k, cfg.DeadLetters(), deadletter.Partition)
}

// newLogger writes to w what the configuration asks for.
func newLogger(cfg config.Log, w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: cfg.Level}
	if cfg.Format == config.LogJSON {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
