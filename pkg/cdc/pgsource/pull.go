package pgsource

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgoutput"
)

// A walsender sends each message by itself, three for a transaction of one row,
// and a reader that keeps up is woken for each. The same messages come several
// times faster as the result of a query on a copy of the slot. So a backlog is
// pulled, in chunks of WAL; the stream takes over where the last chunk ends. What comes
// waits in a file to be handed over, so that the server goes on with the next chunk, and
// its query does not last for as long as the sink takes.

// errBehind says that what follows should be pulled.
var errBehind = errors.New("the stream is behind")

// errGuarded says that standbys must have what is sent from the slot, which a copy of the
// slot would not wait for.
var errGuarded = errors.New("synchronized_standby_slots guards the slot")

// backlog sees when the stream has fallen behind.
type backlog struct {
	above  cdc.LSN     // how far the stream may be behind; zero: as far as it likes
	behind atomic.Bool // there is enough to pull

	// Owned by the goroutine that reads.
	off    bool          // not to be pulled any more in this stream
	paused time.Duration // the last pause after a failure; zero: the last pull was none
	until  time.Time     // end of that pause

	lastReceived cdc.LSN // of the last look; owned by watch, as lastTotal is
	lastTotal    int64
}

// What keeps a backlog from being pulled may pass: a server without a free slot or with a
// full disk, an old transaction that is open. So it is tried again after a pause, and after
// pauses twice as long each up to the last.
const (
	firstPullPause = time.Minute
	lastPullPause  = time.Hour
)

// pause has what follows streamed for a while.
func (b *backlog) pause(now time.Time) {
	b.paused = min(max(2*b.paused, firstPullPause), lastPullPause)
	b.until = now.Add(b.paused)
}

// minStreamShare is the part of the WAL that what comes must come to, or pulling would
// take longer. It is above minPullShare, so that there is no going to and fro.
const minStreamShare = 3

// observe is called from time to time with the end of WAL, what was received of it
// and how many bytes have come from the server. A stream that is behind although
// little comes is waiting for the server to decode, or for the sink.
func (b *backlog) observe(end, received cdc.LSN, total int64) {
	came, covered := total-b.lastTotal, int64(received-min(received, b.lastReceived))
	if b.above > 0 && end > received && end-received > b.above && came > int64(b.above)/4 && came > covered/minStreamShare {
		b.behind.Store(true)
	}
	b.lastReceived, b.lastTotal = received, total
}

// open reports whether what is behind may be pulled.
func (b *backlog) open(now time.Time) bool { return !b.off && !now.Before(b.until) }

// shouldPull reports whether what follows is to be pulled.
func (st *Stream) shouldPull() bool {
	return st.backlog.behind.Load() && st.backlog.open(time.Now())
}

// atRest reports whether everything that was begun has been handed over.
func (in *reader) atRest() bool {
	return !in.open && !in.loose && !in.dec.InStream() && len(in.pending.txs) == 0
}

// pull hands over the backlog, and returns nil where the stream has to go on.
func (st *Stream) pull(ctx context.Context, h cdc.Handler) error {
	st.backlog.behind.Store(false)
	p, err := st.openPuller(ctx, true)
	if err == nil {
		st.cfg.Logger.Info("pulling a backlog", "from_lsn", st.in.at.String(), "bytes", uint64(p.end-st.in.at))
		err = st.pullAll(ctx, h, p, st.fetch)
	}
	if err == nil {
		st.backlog.paused = 0
		st.cfg.Logger.Info("backlog pulled", "lsn", st.in.at.String(), "bytes", p.pulled)
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var refused *cdc.RefusedError
	var pgErr *pgconn.PgError
	var spoolErr *spoolError
	switch {
	case errors.Is(err, errGuarded):
		st.cfg.Logger.Info("the backlog is streamed, not pulled", "because", err)
		st.backlog.off = true
		return nil
	case errors.Is(err, errRedecoded):
		st.cfg.Logger.Warn("pulling is slow, since the server decodes much again for each chunk: streaming instead; an old transaction may be open",
			"restart_lsn", p.restart.String(), "lsn", p.at.String())
		st.backlog.pause(time.Now())
		return nil
	case errors.Is(err, errStalled) && !st.in.begun:
		st.cfg.Logger.Info("the rest of the backlog is streamed", "because", err)
		st.in.open = false
		return nil
	case (errors.As(err, &pgErr) && pgErr.Code != codeAdminShutdown || errors.As(err, &spoolErr)) && !errors.As(err, &refused) && !st.in.begun:
		st.cfg.Logger.Warn("cannot pull the backlog, streaming it instead", "error", err)
		st.backlog.pause(time.Now())
		st.in.open = false
		return nil
	}
	st.src.streamNext = errors.Is(err, errStalled) || pgErr != nil || spoolErr != nil
	return fmt.Errorf("pull from a copy of slot %q: %w", st.cfg.Slot, err)
}

// Frames of the spool, by their first byte.
const (
	frameRow = 'r' // a row of the query
	frameEnd = 'e' // of a chunk: the position of the copy as 8 bytes
)

// pullAll calls fetch in a goroutine of its own, which also closes p, and hands over what
// that brings.
func (st *Stream) pullAll(ctx context.Context, h cdc.Handler, p *puller, fetch func(context.Context, *puller, *spool) error) error {
	s, err := newSpool(st.cfg.SpillDir, st.src.spoolSize, st.src.stallLimit)
	if err != nil {
		p.close(false)
		return err
	}
	defer s.close()
	if err := st.listen(p.conn); err != nil {
		p.close(false)
		return err
	}
	st.puller.Store(p)
	go func() {
		err := fetch(ctx, p, s)
		st.puller.Store(nil)
		_ = st.listen(nil) // stopped meanwhile: then ctx is done
		p.close(err != nil)
		s.end(err)
	}()
	err = eachFrame(bufio.NewReaderSize(s, readBuffer), func(frame []byte) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if frame[0] == frameRow {
			return st.copyRow(ctx, h, frame[1:])
		}
		lsn := cdc.LSN(binary.BigEndian.Uint64(frame[1:]))
		st.seen(lsn)
		return st.idle(h, lsn)
	})
	s.abandon()
	_ = p.conn.Conn().SetReadDeadline(time.Unix(1, 0)) // ends what the goroutine may still wait for
	<-s.ended
	return err
}

func (st *Stream) copyRow(ctx context.Context, h cdc.Handler, data []byte) error {
	x, ok, err := pgoutput.DecodeCopyRow(data)
	if err != nil || !ok {
		return err
	}
	st.seen(x.WALStart)
	return st.message(ctx, h, &x)
}
