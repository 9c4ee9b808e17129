// Package pgsource reads one logical replication slot of the pgoutput plugin:
// it connects, checks that a start would lose nothing, owns the slot, streams
// the inserts of the outbox tables, and confirms what was saved.
//
// Postgres 14 to 18. The protocol:
// https://www.postgresql.org/docs/current/protocol-replication.html
package pgsource

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walpost/walpost/pkg/cdc"
)

// Source opens streams of one slot. It implements [cdc.Source].
type Source struct {
	cfg     Config
	conn    *pgx.ConnConfig
	metrics *metrics

	// The constants of these names, but smaller in tests.
	spoolSize               int64
	stallLimit              time.Duration
	firstChunk, maxRedecode cdc.LSN // of a pull

	// Owned by Open and by the stream that it returned, of which there is one
	// at a time.
	connected   atomic.Bool // some session was had
	opened      bool        // some Open has succeeded
	textOnly    bool        // a column came that binary format is not understood for
	streamNext  bool        // the next stream must not begin with a pull
	warned      map[warning]bool
	filtered    bool      // a row filter was warned of
	synchronous string    // the setting that was warned of
	noticed     time.Time // when the server's warning was last logged

	ownerPID uint32 // the server's process that owned the slot for us last

	partitioned atomic.Bool // an outbox table had partitions when it was last looked at, or before

	waiting atomic.Pointer[slotInUse] // nil unless Open waits for the slot
	stoodBy atomic.Int64              // when Open last was a standby, as [cdc.Stamp]
	contact atomic.Int64              // when the server last answered an open stream, as [cdc.Stamp]; zero while there is none
	running atomic.Pointer[Stream]    // the open stream, once it runs
}

// New returns a source. It does not connect.
func New(cfg Config) (*Source, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	conn, err := pgx.ParseConfig(cfg.DSN)
	if err != nil {
		return nil, err
	}
	conn.DialFunc = impatient(conn.DialFunc)
	return &Source{
		cfg: cfg, conn: conn, metrics: newMetrics(cfg.Registerer), filtered: cfg.Filtered, warned: map[warning]bool{},
		spoolSize: spoolSize, stallLimit: stallLimit, firstChunk: firstChunk, maxRedecode: maxRedecode,
	}, nil
}

// Standby reports whether Open waits for a slot that another walpost owns, and when it
// last did; zero if never. Safe to call from any goroutine.
func (s *Source) Standby() (now bool, last time.Time) {
	if inUse := s.waiting.Load(); inUse != nil && inUse.standby {
		return true, time.Now()
	}
	if at := s.stoodBy.Load(); at != 0 {
		last = cdc.Stamped(at)
	}
	return false, last
}

// maxQuiet is how long the server may leave an open stream without an answer, and the
// source still count as healthy. It is asked three times in that time.
const maxQuiet = 8 * time.Second

// Healthy returns an error if a stream is open and the server has not answered on one
// of its connections for some seconds, and if something that is no other walpost keeps
// Open from owning the slot. Safe to call from any goroutine.
func (s *Source) Healthy() error {
	if inUse := s.waiting.Load(); inUse != nil && !inUse.standby {
		return fmt.Errorf("postgres: slot %q is in use by %s", s.cfg.Slot, inUse.holder)
	}
	last := s.contact.Load()
	if quiet := time.Since(cdc.Stamped(last)); last != 0 && quiet > maxQuiet {
		return fmt.Errorf("postgres: no answer for %s", quiet.Round(time.Second))
	}
	if st := s.running.Load(); st != nil {
		if quiet := st.repl.Load().reader.silence(); quiet > maxQuiet {
			return fmt.Errorf("postgres: no answer on the stream for %s", quiet.Round(time.Second))
		}
	}
	return nil
}

// Check connects as Open would, and refuses a server or a publication from which events would be
// lost, and a way to the server that takes no replication. It looks at no slot, and changes nothing.
func (s *Source) Check(ctx context.Context) error {
	conn, err := s.connectControl(ctx)
	if err != nil {
		return err
	}
	defer closeConn(conn.PgConn())
	return answered(ctx, func(ctx context.Context) error {
		if err := s.checkServer(ctx, conn); err != nil {
			return err
		}
		if _, err := s.checkPublication(ctx, conn); err != nil {
			return err
		}
		return s.checkReplication(ctx)
	})
}

// checkReplication opens a replication connection for a moment. That none is free now is no
// fault of the way.
func (s *Source) checkReplication(ctx context.Context) error {
	r, err := s.connectReplication(ctx)
	var pgErr *pgconn.PgError
	var refused *cdc.RefusedError
	switch {
	case err == nil:
		closeConn(r.conn)
		return nil
	case errors.As(err, &pgErr) && pgErr.Code == codeTooManyConnections:
		return nil
	case errors.As(err, &refused):
		return err
	}
	return cdc.Refuse("point postgres.dsn at Postgres itself, since a pooler takes no replication connection, and look into its pg_hba.conf", "open a replication connection: %w", err)
}

// Open implements [cdc.Source].
func (s *Source) Open(ctx context.Context, position func(context.Context, cdc.Position) (cdc.Position, error)) (cdc.Stream, error) {
	stream, err := s.open(ctx, position)
	var refused *cdc.RefusedError
	switch {
	case err == nil:
		s.metrics.opened()
		return stream, nil
	case ctx.Err() == nil && !errors.As(err, &refused):
		s.metrics.retries.Inc()
	}
	return nil, err
}

func (s *Source) open(ctx context.Context, position func(context.Context, cdc.Position) (cdc.Position, error)) (*Stream, error) {
	control, err := s.openControl(ctx)
	if err != nil {
		return nil, err
	}
	stream, err := s.openStream(ctx, control, position)
	if err != nil {
		closeConn(control.PgConn())
		return nil, err
	}
	return stream, nil
}

// openControl opens the ordinary session that holds the lock on the slot.
func (s *Source) openControl(ctx context.Context) (*pgx.Conn, error) {
	control, err := s.connectControl(ctx)
	if err != nil {
		return nil, err
	}
	err = answered(ctx, func(ctx context.Context) error { return s.checkServer(ctx, control) })
	if err == nil {
		err = s.own(ctx, control)
	}
	if err != nil {
		closeConn(control.PgConn())
		return nil, err
	}
	return control, nil
}

// openStream does what comes after the slot is owned, up to the replication
// command itself: that is Run's.
func (s *Source) openStream(ctx context.Context, control *pgx.Conn, position func(context.Context, cdc.Position) (cdc.Position, error)) (*Stream, error) {
	repl, err := s.connectReplication(ctx)
	if err != nil {
		return nil, err
	}
	st := &Stream{
		src: s, cfg: s.cfg, control: control, senderTimeout: repl.senderTimeout,
		stopped: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	st.repl.Store(repl)
	st.in = reader{
		relations: map[uint32]*relation{}, others: map[uint32]bool{},
		pending: inProgress{
			max: s.cfg.MaxTxMemory, dir: s.cfg.SpillDir, txs: map[uint32]*streamedTx{},
			spilled: func(n int) { s.metrics.spilled.Add(float64(n)) },
		},
	}
	if err := st.prepare(ctx, position); err != nil {
		closeConn(repl.conn)
		return nil, err
	}
	st.hold()
	s.metrics.connected.Set(1)
	s.opened = true
	return st, nil
}

// prepare asks for the position, judges it, and creates the slot for a first
// start.
func (st *Stream) prepare(ctx context.Context, position func(context.Context, cdc.Position) (cdc.Position, error)) error {
	s := st.src
	var (
		binary bool
		slot   *SlotState
		server serverState
		saved  cdc.Position
	)
	err := answered(ctx, func(ctx context.Context) (err error) {
		if err = endWhenFrozen(ctx, st.control, st.senderTimeout); err != nil {
			return err
		}
		if binary, err = s.checkSettings(ctx, st.control); err != nil {
			return err
		}
		if slot, err = ReadSlot(ctx, st.control, s.cfg.Slot); err != nil {
			return err
		}
		server, err = st.repl.Load().identify(ctx)
		return err
	})
	if err != nil {
		return err
	}
	err = st.whileOwned(ctx, func(ctx context.Context) (err error) {
		saved, err = position(ctx, server.Position)
		return err
	})
	if err != nil {
		return err
	}
	err = answered(ctx, func(ctx context.Context) (err error) {
		server.history, err = st.repl.Load().history(ctx, saved, server.Position)
		return err
	})
	if err != nil {
		return err
	}
	start, err := st.checkStart(ctx, saved, server, slot)
	if err != nil {
		return err
	}
	switch {
	case slot != nil:
	case s.cfg.Exported == nil:
		start, err = s.createSlot(ctx, st.control)
	default:
		start, err = st.createExported(ctx)
	}
	if err != nil {
		return err
	}
	st.begin(cdc.Position{SystemID: server.SystemID, Timeline: server.Timeline, LSN: start}, slot, server.LSN)
	st.binary = binary && !s.textOnly
	return nil
}

// checkStart is the source's, and looks at other slots where a first start finds none.
func (st *Stream) checkStart(ctx context.Context, saved cdc.Position, server serverState, slot *SlotState) (cdc.LSN, error) {
	s := st.src
	start, err := s.checkStart(saved, server, slot)
	if slot != nil || !saved.IsZero() {
		return start, err
	}
	return start, answered(ctx, func(ctx context.Context) error {
		if err != nil {
			return NoSlot(ctx, st.control, s.cfg.Slot, err)
		}
		return RefuseBeside(ctx, st.control, s.cfg.Slot, "and beside those of another number of shards it would publish each event once more")
	})
}

// begin sets where the stream starts, and whether with a pull. The slot is nil if it was
// made just now.
func (st *Stream) begin(at cdc.Position, slot *SlotState, end cdc.LSN) {
	s, start := st.src, at.LSN
	st.start = at
	st.in.at = start
	st.received.Store(uint64(start))
	st.confirmed.Store(uint64(start))
	if slot != nil {
		st.confirmed.Store(uint64(slot.ConfirmedFlush))
	}
	st.backlog.above = cdc.LSN(max(0, s.cfg.PullAbove))
	if a := st.backlog.above; a > 0 && end > start && end-start > a && !s.streamNext {
		st.backlog.behind.Store(true)
	}
	s.streamNext = false
}

// answerTimeout bounds what the server is asked before the stream runs. On a
// connection that died without a word an answer would be waited for as long as the
// kernel tries, which is many minutes, also when the network is whole again.
const answerTimeout = 10 * time.Second

// answered calls f with a context that ends after answerTimeout.
func answered(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return f(ctx)
}

// Ping implements [cdc.Source]. Like pg_isready it asks only whether the server
// would talk: a refused password is an answer.
func (s *Source) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, &s.conn.Config)
	if err == nil {
		closeConn(conn)
		return nil
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code != codeCannotConnectNow && pgErr.Code != codeAdminShutdown {
		return nil
	}
	return fmt.Errorf("ping: %w", err)
}

const pingTimeout = 2 * time.Second
