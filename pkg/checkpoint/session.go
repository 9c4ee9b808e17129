package checkpoint

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// closeTimeout bounds the farewell to the server.
const closeTimeout = time.Second

// session is a connection that is made when it is needed and made anew after
// anything has gone wrong on it. It is safe for concurrent use: calls take turns.
type session struct {
	config *pgx.ConnConfig
	turn   chan struct{} // holds a token while a call runs; guards the rest
	conn   *pgx.Conn     // nil until the first call and after a failure
	closed bool
}

func newSession(dsn string) (*session, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	// One round trip for a statement and nothing left on the server, so that a
	// pooler may give each transaction to another server process.
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	config.StatementCacheCapacity, config.DescriptionCacheCapacity = 0, 0
	// The one setting that poolers let pass at the start of a connection.
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "walpost"
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	return &session{config: config, turn: make(chan struct{}, 1)}, nil
}

// connectTimeout bounds the making of a connection, unless the DSN does.
const connectTimeout = 10 * time.Second

// doAnew is do on a new connection. It begins what comes after an interruption: the
// connection that is there may have died of the same cause without a word, and
// would fail what is asked of it, or never answer.
func (s *session) doAnew(ctx context.Context, f func(*pgx.Conn) error) error {
	return s.take(ctx, func() error {
		_ = s.disconnect() // nothing hangs on the goodbye
		return s.call(ctx, f)
	})
}

// do calls f with the connection. If f fails the connection is not used again,
// for nobody knows what state it is in; what was sent may yet be carried out.
func (s *session) do(ctx context.Context, f func(*pgx.Conn) error) error {
	return s.take(ctx, func() error { return s.call(ctx, f) })
}

// take waits for its turn.
func (s *session) take(ctx context.Context, f func() error) error {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-s.turn }()
	return f()
}

func (s *session) call(ctx context.Context, f func(*pgx.Conn) error) error {
	if err := s.connect(ctx); err != nil {
		return because(ctx, err)
	}
	if err := f(s.conn); err != nil {
		_ = s.disconnect() // err says more
		return because(ctx, err)
	}
	return nil
}

func (s *session) connect(ctx context.Context) error {
	if s.closed {
		return errClosed
	}
	if s.conn != nil && !s.conn.IsClosed() {
		return nil
	}
	conn, err := pgx.ConnectConfig(ctx, s.config)
	if err != nil {
		return err
	}
	s.conn = conn
	return nil
}

func (s *session) disconnect() error {
	if s.conn == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := s.conn.Close(ctx)
	s.conn = nil
	return err
}

// close waits for the call that runs and ends the session.
func (s *session) close() error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.closed = true
	return s.disconnect()
}
