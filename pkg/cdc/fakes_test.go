package cdc_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// scriptTx is a committed transaction of a scripted server.
type scriptTx struct {
	keys []string // one event each; none is an idle position
	end  cdc.LSN  // the commit record lies at end-1
}

// event is the name of the n-th event, which is also its payload.
func (tx scriptTx) event(n int) string { return fmt.Sprintf("%s/%s/%d", tx.keys[n], tx.end, n+1) }

// server is a Postgres of few words: it sends whole transactions that end after
// the start position, as a slot does, and fails the test when a position is
// confirmed that the store does not hold.
type server struct {
	t     *testing.T
	store interface{ Checkpoint() cdc.Checkpoint }
	cdc.Position
	pace time.Duration // before each row

	mu        sync.Mutex // guards all below
	txs       []scriptTx
	breaks    map[string]bool // events before which the connection breaks, once
	confirmed cdc.LSN
	opens     int
	refuse    error // what Open returns
	fail      error // the same, for what may pass
	onBreak   func()
	onReopen  func() // called at each Open but the first
	hold      string // an end LSN whose commit never comes
	unclean   error  // what a stopped stream ends with
	grew      chan struct{}
}

func newServer(t *testing.T, store interface{ Checkpoint() cdc.Checkpoint }, txs ...scriptTx) *server {
	return &server{
		t: t, store: store, txs: txs, breaks: map[string]bool{}, grew: make(chan struct{}),
		Position: cdc.Position{SystemID: 7, Timeline: 1, LSN: 1 << 40},
	}
}

var errBroken = errors.New("connection reset")

func (s *server) Ping(context.Context) error { return nil }

func (s *server) Open(ctx context.Context, position func(context.Context, cdc.Position) (cdc.Position, error)) (cdc.Stream, error) {
	s.mu.Lock()
	s.opens++
	refuse := cmp.Or(s.refuse, s.fail)
	if s.opens > 1 && s.onReopen != nil {
		s.onReopen()
	}
	s.mu.Unlock()
	if refuse != nil {
		return nil, refuse
	}
	start, err := position(ctx, s.Position)
	if err != nil {
		return nil, err
	}
	if start.IsZero() {
		start = cdc.Position{SystemID: s.SystemID, Timeline: s.Timeline, LSN: 1}
	}
	return &scriptStream{server: s, start: start, stopped: make(chan struct{})}, nil
}

// commit appends transactions to the script of a running server.
func (s *server) commit(txs ...scriptTx) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.txs = append(s.txs, txs...)
	close(s.grew)
	s.grew = make(chan struct{})
}

func (s *server) next(after cdc.LSN) (scriptTx, bool, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, tx := range s.txs {
		if tx.end > after {
			return tx, true, nil
		}
	}
	return scriptTx{}, false, s.grew
}

func (s *server) breaksAt(event string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.breaks[event]
	delete(s.breaks, event)
	if b && s.onBreak != nil {
		s.onBreak()
	}
	return b
}

type scriptStream struct {
	*server
	start    cdc.Position
	stopOnce sync.Once
	stopped  chan struct{}
}

func (st *scriptStream) Start() cdc.Position { return st.start }
func (st *scriptStream) Stop()               { st.stopOnce.Do(func() { close(st.stopped) }) }
func (st *scriptStream) Close() error        { return nil }

func (st *scriptStream) Confirm(lsn cdc.LSN) {
	if saved := st.store.Checkpoint().LSN; lsn > saved {
		st.t.Errorf("confirmed %s, but the checkpoint is %s", lsn, saved)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.confirmed = max(st.confirmed, lsn)
}

func (st *scriptStream) Run(ctx context.Context, h cdc.Handler) error {
	hctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-st.stopped:
			cancel()
		case <-hctx.Done():
		}
	}()
	err := st.send(hctx, h)
	select {
	case <-st.stopped: // hctx may be on its way to its end
	default:
		if hctx.Err() == nil {
			return err
		}
	}
	<-ctx.Done()
	return st.unclean
}

func (st *scriptStream) send(ctx context.Context, h cdc.Handler) error {
	for at := st.start.LSN; ctx.Err() == nil; {
		tx, ok, grew := st.next(at)
		if !ok {
			select {
			case <-grew:
			case <-ctx.Done():
			}
			continue
		}
		if err := st.play(ctx, tx, h); err != nil {
			return err
		}
		at = tx.end
	}
	return ctx.Err()
}

func (st *scriptStream) play(ctx context.Context, tx scriptTx, h cdc.Handler) error {
	if tx.keys == nil {
		h.Idle(tx.end)
		return nil
	}
	info := cdc.Transaction{XID: uint32(tx.end), CommitLSN: tx.end - 1, CommitTime: time.Now()}
	if err := h.Begin(info); err != nil {
		return err
	}
	for n := range tx.keys {
		if st.breaksAt(tx.event(n)) {
			return errBroken
		}
		time.Sleep(st.pace)
		ev := &cdc.Event{
			Transaction: info, Relation: table,
			Values: []cdc.Value{{Format: cdc.Text, Data: []byte(tx.keys[n])}, {Format: cdc.Text, Data: []byte(tx.event(n))}},
		}
		if err := h.Insert(ctx, ev); err != nil {
			return err
		}
	}
	if st.hold == tx.end.String() {
		<-ctx.Done()
		return ctx.Err()
	}
	if st.breaksAt(tx.end.String()) {
		return errBroken
	}
	return h.Commit(tx.end)
}

var table = &cdc.Relation{Schema: "public", Name: "outbox", Columns: []cdc.Column{{Name: "key"}, {Name: "payload"}}}

// route makes a record of a scripted event. The key "poison" is refused.
func route(ev *cdc.Event) (*cdc.Record, error) {
	if string(ev.Values[0].Data) == "poison" {
		return nil, cdc.Poison(cdc.PoisonKey, "poisoned by the test")
	}
	r := cdc.NewRecord()
	r.Topic = "t"
	r.Buf = append(append(r.Buf, ev.Values[0].Data...), ev.Values[1].Data...)
	n := len(ev.Values[0].Data)
	r.Key, r.Value = r.Buf[:n:n], r.Buf[n:]
	r.ID = r.Value
	return r, nil
}
