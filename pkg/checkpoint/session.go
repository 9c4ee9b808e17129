package checkpoint

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// callTimeout bounds a call, and with it the making of a connection. A
	// server that has frozen breaks no connection, and would be waited for
	// without end and without a word.
	callTimeout = 10 * time.Second

	// closeTimeout bounds the farewell to the server.
	closeTimeout = time.Second
)

var errNoAnswer = errors.New("the server does not answer")

// session is a connection that is made when it is needed and made anew after
// anything has gone wrong on it. It is safe for concurrent use: calls take turns.
type session struct {
	config *pgx.ConnConfig
	limit  time.Duration // of a call
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
	return &session{config: config, limit: callTimeout, turn: make(chan struct{}, 1)}, nil
}

// doAnew is do on a new connection. It begins what comes after an interruption: the
// connection that is there may have died of the same cause without a word, and
// would fail what is asked of it, or never answer.
func (s *session) doAnew(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	return s.take(ctx, func(ctx context.Context) error {
		_ = s.disconnect() // nothing hangs on the goodbye
		return s.call(ctx, f)
	})
}

// do calls f with the connection and a context that ends at the call's limit. If
// f fails the connection is not used again, for nobody knows what state it is in;
// what was sent may yet be carried out.
func (s *session) do(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	return s.take(ctx, func(ctx context.Context) error { return s.call(ctx, f) })
}

// take waits for its turn, and then bounds f.
func (s *session) take(ctx context.Context, f func(context.Context) error) error {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-s.turn }()
	ctx, cancel := context.WithTimeoutCause(ctx, s.limit, errNoAnswer)
	defer cancel()
	return f(ctx)
}

func (s *session) call(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	if err := s.connect(ctx); err != nil {
		return because(ctx, err)
	}
	if err := f(ctx, s.conn); err != nil {
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
