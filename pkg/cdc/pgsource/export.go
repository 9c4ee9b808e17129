package pgsource

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walpost/walpost/pkg/cdc"
)

// Exported is a slot that was created together with a snapshot: what the snapshot sees was
// committed before LSN, and the slot brings all that was committed after.
type Exported struct {
	LSN      cdc.LSN
	Snapshot string // for SET TRANSACTION SNAPSHOT, until Release

	// Release ends the session that holds the snapshot. It must be called once.
	Release func()
}

// createExported creates the slot with a snapshot, and hands that over. Either may take longer
// than the session that owns the slot may be idle.
func (st *Stream) createExported(ctx context.Context) (cdc.LSN, error) {
	version, err := serverVersion(ctx, st.control)
	if err != nil {
		return 0, err
	}
	var e Exported
	err = st.whileOwned(ctx, func(ctx context.Context) (err error) {
		if e, err = st.src.createExported(ctx, version); err != nil {
			return err
		}
		return st.cfg.Exported(ctx, e)
	})
	return e.LSN, err
}

// createExported creates the slot and exports a snapshot, in a replication session of its own:
// the snapshot ends with the session's next command.
// https://www.postgresql.org/docs/current/protocol-replication.html#PROTOCOL-REPLICATION-CREATE-REPLICATION-SLOT
func (s *Source) createExported(ctx context.Context, version int) (Exported, error) {
	options := "(SNAPSHOT 'export')"
	switch {
	case version < 150000:
		options = "EXPORT_SNAPSHOT"
	case s.cfg.Failover == FailoverOn || s.cfg.Failover == FailoverAuto && version >= 170000:
		options = "(SNAPSHOT 'export', FAILOVER true)"
	}
	repl, err := s.connectReplication(ctx)
	if err != nil {
		return Exported{}, err
	}
	cctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	command := fmt.Sprintf("CREATE_REPLICATION_SLOT %s LOGICAL pgoutput %s", pgx.Identifier{s.cfg.Slot}.Sanitize(), options)
	if err := lift(cctx, repl.conn, "lock_timeout"); err != nil { // it waits in a lock for each transaction
		closeConn(repl.conn)
		return Exported{}, err
	}
	results, err := repl.conn.Exec(cctx, command).ReadAll()
	if err != nil {
		closeConn(repl.conn)
		return Exported{}, s.createError(ctx, err, cctx.Err() != nil && ctx.Err() == nil)
	}
	e := Exported{Release: func() { closeConn(repl.conn) }}
	if err := e.read(results); err != nil {
		e.Release()
		return Exported{}, fmt.Errorf("create slot %q: %w", s.cfg.Slot, err)
	}
	s.cfg.Logger.Info("slot created, with a snapshot of what is older", "slot", s.cfg.Slot, "lsn", e.LSN.String())
	return e, nil
}

// read takes what the command returns: slot_name, consistent_point, snapshot_name and
// output_plugin.
func (e *Exported) read(results []*pgconn.Result) (err error) {
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < 3 {
		return errors.New("the server's answer is not understood")
	}
	row := results[0].Rows[0]
	e.Snapshot = string(row[2])
	e.LSN, err = cdc.ParseLSN(string(row[1]))
	return err
}

// DropSlot drops the slot, which nothing must be reading.
func DropSlot(ctx context.Context, conn *pgx.Conn, name string) error {
	if _, err := conn.Exec(ctx, "SELECT pg_drop_replication_slot($1)", name); err != nil {
		return fmt.Errorf("drop slot %q: %w", name, err)
	}
	return nil
}
