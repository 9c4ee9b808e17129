package pgsource

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walpost/walpost/pkg/cdc"
)

// SQLSTATEs that decide what happens next.
// https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	codeInvalidAuthorization  = "28000"
	codeInvalidPassword       = "28P01"
	codeInvalidCatalogName    = "3D000"
	codeInsufficientPrivilege = "42501"
	codeTooManyConnections    = "53300"
	codeObjectInUse           = "55006"
	codeAdminShutdown         = "57P01"
	codeCannotConnectNow      = "57P03"
	codeQueryCanceled         = "57014"
)

const (
	connectTimeout = 10 * time.Second

	// dialTimeout bounds a dial alone: one whose first packets were lost would be
	// tried again by the kernel later and later.
	dialTimeout = 3 * time.Second

	// closeTimeout bounds the goodbye to a server that does not listen.
	closeTimeout = time.Second

	// maxSenderTimeout is the longest wal_sender_timeout that our sessions have:
	// for as long, one that is cut off from the network keeps the slot from a
	// standby. Zero, the server's word for never, would keep it for ever.
	maxSenderTimeout = 10 * time.Second

	// maxDecodingMemory is the most logical_decoding_work_mem, in kB, that the stream's
	// session has. The walsender works through what it keeps there only when the
	// transaction ends or the memory is full: of a bulk job in another table it would
	// keep a few hundred thousand rows, and what comes after would wait for them.
	maxDecodingMemory = 4 << 10
)

// impatient bounds dials.
func impatient(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		return dial(ctx, network, addr)
	}
}

// connectControl opens an ordinary session.
func (s *Source) connectControl(ctx context.Context) (*pgx.Conn, error) {
	cfg := s.conn.Copy()
	setDefault(cfg.RuntimeParams, "application_name", "walpost")
	cfg.RuntimeParams["client_encoding"] = "UTF8"
	cfg.RuntimeParams["datestyle"] = "ISO" // all that the driver reads
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	cfg.ConnectTimeout = min(connectTimeout, nonZero(cfg.ConnectTimeout, connectTimeout))
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, s.connectError(err)
	}
	s.connected.Store(true)
	if err := answered(ctx, func(ctx context.Context) error {
		return lift(ctx, conn.PgConn(), "statement_timeout", "transaction_timeout")
	}); err != nil {
		closeConn(conn.PgConn())
		return nil, err
	}
	return conn, nil
}

// replication is a connection to a walsender.
type replication struct {
	conn          *pgconn.PgConn
	reader        *socketReader
	senderTimeout time.Duration // the session's wal_sender_timeout, never zero
}

// connectReplication opens a session in replication mode.
func (s *Source) connectReplication(ctx context.Context) (*replication, error) {
	conn, reader, err := s.connectDecoding(ctx, "database")
	if err != nil {
		return nil, err
	}
	r := &replication{conn: conn, reader: reader}
	err = answered(ctx, func(ctx context.Context) (err error) {
		if r.senderTimeout, err = setSenderTimeout(ctx, r.conn); err != nil {
			return err
		}
		return boundDecodingMemory(ctx, r.conn)
	})
	if err != nil {
		closeConn(r.conn)
		return nil, err
	}
	return r, nil
}

// connectDecoding opens a session in which the plugin is to run: in replication
// mode, or an ordinary one if that is empty. Settings that shape text output are
// set here, since the session would take them from the role or the database.
func (s *Source) connectDecoding(ctx context.Context, mode string) (*pgconn.PgConn, *socketReader, error) {
	cfg := s.conn.Config.Copy()
	setDefault(cfg.RuntimeParams, "application_name", "walpost")
	for name, value := range map[string]string{
		"client_encoding": "UTF8", // what the server converts text to, whatever the database's own is
		"datestyle":       "ISO", "intervalstyle": "postgres", "extra_float_digits": "1", "bytea_output": "hex", "timezone": "UTC",
		"client_min_messages": "warning", // from 18 on a warning says that a publication is not there
	} {
		cfg.RuntimeParams[name] = value
	}
	if mode != "" {
		cfg.RuntimeParams["replication"] = mode
	}
	cfg.ConnectTimeout = min(connectTimeout, nonZero(cfg.ConnectTimeout, connectTimeout))
	reader := &socketReader{}
	cfg.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, c net.Conn) (net.Conn, error) {
		if sc, ok := c.(syscall.Conn); ok {
			reader.raw, _ = sc.SyscallConn() // without it a backlog is read as it comes
		}
		return c, nil
	}
	cfg.BuildFrontend = func(in io.Reader, out io.Writer) *pgproto3.Frontend {
		reader.src = in
		if _, encrypted := out.(*tls.Conn); encrypted {
			reader.raw = nil // what waits in the socket may be less than a record, for which a read would wait
		}
		return pgproto3.NewFrontend(reader, out)
	}
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, nil, s.connectError(err)
	}
	err = answered(ctx, func(ctx context.Context) error {
		return lift(ctx, conn, "statement_timeout", "transaction_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout")
	})
	if err != nil {
		closeConn(conn)
		return nil, nil, err
	}
	return conn, reader, nil
}

// lift takes limits of the role, the database and the server from the session: those of the
// settings that the server has. One that decodes waits
// for what comes before the stream, for as long as an exported snapshot is used, and for the sink;
// the ordinary one moves the slot, and makes it. What they do has bounds of its own.
// A transaction is decoded in a transaction of the server's own, which transaction_timeout, of
// Postgres 17, would end with the session.
// https://github.com/postgres/postgres/blob/REL_17_STABLE/src/backend/replication/logical/reorderbuffer.c
func lift(ctx context.Context, conn *pgconn.PgConn, settings ...string) error {
	query := "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ('" + strings.Join(settings, "', '") + "')"
	if _, err := conn.Exec(ctx, query).ReadAll(); err != nil {
		return fmt.Errorf("lift the session's timeouts: %w", err)
	}
	return nil
}

// connectError tells what only an operator can mend from what may pass. Once a
// session was had, everything may pass: credentials are known to be right.
func (s *Source) connectError(err error) error {
	var pgErr *pgconn.PgError
	answered, hint := errors.As(err, &pgErr), certificateHint(err)
	if !answered && hint == "" || s.connected.Load() && (!answered || pgErr.Code != codeInsufficientPrivilege) {
		return fmt.Errorf("connect to Postgres: %w", err)
	}
	where := fmt.Sprintf("role %q, database %q, %s:%d", s.conn.User, s.conn.Database, s.conn.Host, s.conn.Port)
	if !answered {
		return cdc.Refuse(hint, "connect to Postgres (%s): %w", where, err)
	}
	switch pgErr.Code {
	case codeInsufficientPrivilege:
		return cdc.Refuse("ALTER ROLE "+pgx.Identifier{s.conn.User}.Sanitize()+" REPLICATION, or what your provider has in its place",
			"connect to Postgres (%s): %w", where, pgErr)
	case codeInvalidPassword, codeInvalidAuthorization:
		return cdc.Refuse("check postgres.dsn, its password, and the server's pg_hba.conf", "connect to Postgres (%s): %w", where, pgErr)
	case codeInvalidCatalogName:
		return cdc.Refuse("name the outbox's database in postgres.dsn", "connect to Postgres (%s): %w", where, pgErr)
	}
	return fmt.Errorf("connect to Postgres (%s): %w", where, err)
}

// certificateHint says what to do about a handshake in which one side has not taken
// the other's certificate. It is empty for any other error.
func certificateHint(err error) string {
	var (
		refused   *tls.CertificateVerificationError
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		name      x509.HostnameError
		alert     *net.OpError
	)
	switch {
	case errors.As(err, &name):
		return "connect to a host that the server's certificate is for, or give the server one for this host"
	case errors.As(err, &refused), errors.As(err, &authority), errors.As(err, &invalid):
		return "check sslrootcert in postgres.dsn, and the server's certificate"
	case errors.As(err, &alert) && alert.Op == "remote error": // what crypto/tls calls an alert of the other side
		return "check sslcert and sslkey in postgres.dsn: the server ended the TLS handshake"
	}
	return ""
}

// setSenderTimeout returns the session's wal_sender_timeout, which it bounds. It leaves
// tcp_user_timeout alone: that would end the connection of a reader that takes nothing
// for a while, as in an outage of the sink.
func setSenderTimeout(ctx context.Context, conn *pgconn.PgConn) (time.Duration, error) {
	const query = "SELECT setting FROM pg_settings WHERE name = 'wal_sender_timeout'"
	row, err := queryRow(ctx, conn, query, 1)
	if err != nil {
		return 0, fmt.Errorf("read wal_sender_timeout: %w", err)
	}
	ms, err := strconv.ParseInt(row[0], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read wal_sender_timeout: %w", err)
	}
	limit := maxSenderTimeout.Milliseconds()
	if ms == 0 || ms > limit {
		ms = limit
	}
	if _, err := conn.Exec(ctx, fmt.Sprintf("SET wal_sender_timeout = %d", ms)).ReadAll(); err != nil {
		return 0, fmt.Errorf("set wal_sender_timeout: %w", err)
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// boundDecodingMemory makes the server hand over a large transaction in parts that are
// small enough.
func boundDecodingMemory(ctx context.Context, conn *pgconn.PgConn) error {
	query := fmt.Sprintf("SELECT set_config(name, '%d', false) FROM pg_settings WHERE name = 'logical_decoding_work_mem' AND setting::bigint > %[1]d", maxDecodingMemory)
	if _, err := conn.Exec(ctx, query).ReadAll(); err != nil {
		return fmt.Errorf("set logical_decoding_work_mem: %w", err)
	}
	return nil
}

// endWhenFrozen makes the server end the session when it has been idle for as
// long as the server would wait for a sign of life on the stream. A live
// instance never leaves it so long; a frozen one must not hold the lock on the
// slot for ever.
func endWhenFrozen(ctx context.Context, conn *pgx.Conn, limit time.Duration) error {
	ms := strconv.FormatInt(limit.Milliseconds(), 10)
	if _, err := conn.Exec(ctx, "SELECT set_config('idle_session_timeout', $1, false), set_config('tcp_user_timeout', $1, false)", ms); err != nil {
		return fmt.Errorf("set idle_session_timeout: %w", err)
	}
	return nil
}

// queryRow runs a query of one row in the simple protocol, the only one that a
// walsender has.
func queryRow(ctx context.Context, conn *pgconn.PgConn, query string, columns int) ([]string, error) {
	results, err := conn.Exec(ctx, query).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != columns {
		return nil, fmt.Errorf("query %q: want one row of %d columns", query, columns)
	}
	row := make([]string, columns)
	for i, v := range results[0].Rows[0] {
		row[i] = string(v)
	}
	return row, nil
}

// serverState is what a start position is judged by.
type serverState struct {
	cdc.Position                  // LSN is the end of WAL
	history      []timelineSwitch // how the server came to its timeline
}

// timelineSwitch says that a timeline was left at a position.
type timelineSwitch struct {
	timeline uint32
	end      cdc.LSN
}

// identify returns who the server is and how far its WAL is flushed.
func (r *replication) identify(ctx context.Context) (serverState, error) {
	id, err := pglogrepl.IdentifySystem(ctx, r.conn)
	if err != nil {
		return serverState{}, fmt.Errorf("identify system: %w", err)
	}
	system, err := strconv.ParseUint(id.SystemID, 10, 64)
	if err != nil {
		return serverState{}, fmt.Errorf("identify system: %w", err)
	}
	return serverState{Position: cdc.Position{SystemID: system, Timeline: uint32(id.Timeline), LSN: cdc.LSN(id.XLogPos)}}, nil
}

// history returns the switches that led to the server's timeline, if the saved
// position is of an older one.
func (r *replication) history(ctx context.Context, saved, server cdc.Position) ([]timelineSwitch, error) {
	if saved.IsZero() || saved.SystemID != server.SystemID || saved.Timeline >= server.Timeline {
		return nil, nil
	}
	res, err := pglogrepl.TimelineHistory(ctx, r.conn, int32(server.Timeline))
	if err != nil {
		return nil, fmt.Errorf("read history of timeline %d: %w", server.Timeline, err)
	}
	return parseHistory(string(res.Content))
}

func closeConn(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = conn.Close(ctx) // nothing hangs on the goodbye
}

func setDefault(params map[string]string, name, value string) {
	if params[name] == "" {
		params[name] = value
	}
}

func nonZero(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}
