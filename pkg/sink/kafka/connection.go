package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/walpost/walpost/pkg/cdc"
)

// What brokers leave open of an answered commit (see leftOpen) must be found before the
// next transaction writes behind it, for one marker would end both. A broker that leaves
// something open has ended, and so the connections to it have: once one that was in use
// has ended, the client of an epoch makes no other, and begins no transaction, before the
// brokers have said that nothing is open.

var (
	// errUntold is why an epoch ends although nothing was found open: its partitions do
	// not answer, or whose the transaction is that is open cannot be told.
	errUntold = errors.New("kafka: a connection to a broker has ended, and what became of the last transaction is not known; beginning a new one")

	errMarkers = errors.New("kafka: the markers of the last transaction are being written")
)

const (
	// inUse is how long a connection counts as used after something was sent through
	// it. One that is closed because it is idle says nothing.
	inUse = time.Minute

	// verifyTimeout bounds the questions before a connection is made.
	verifyTimeout = 5 * time.Second
)

// verification is what an epoch knows about its connections. All methods may be called
// from any goroutine.
type verification struct {
	asking sync.Mutex // held by who asks the brokers

	mu         sync.Mutex
	commits    bool // one was sent in this epoch; guarded by mu
	committing bool // one is sent, and not answered; guarded by mu
	ended      int  // connections that have, once commits was set; guarded by mu
	verified   int  // how many of them were looked into; guarded by mu
}

// commit notes that a commit is sent. Until it is answered connections may be made, for
// it is repeated, and nothing else is done.
func (v *verification) commit() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.commits, v.committing = true, true
}

// answered notes that the commit is answered, or waited for no more.
func (v *verification) answered() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.committing = false
}

func (v *verification) connectionEnded() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.commits {
		v.ended++
	}
}

// due returns how many connections have ended if they are to be looked into, else 0.
func (v *verification) due() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.committing || v.ended == v.verified {
		return 0
	}
	return v.ended
}

func (v *verification) done(ended int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.verified = ended
}

// dial opens a connection of a client that writes in transactions.
func (s *Sink) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if err := s.verify(ctx); err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	conn, err := s.cfg.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &transactionConn{Conn: conn, verification: &s.txn.verification}, nil
}

// transactionConn tells when it ends.
type transactionConn struct {
	net.Conn

	verification *verification
	sent         atomic.Int64 // when something was last sent, as [cdc.Stamp]; 0 if nothing was
}

// Write implements [net.Conn].
func (c *transactionConn) Write(b []byte) (int, error) {
	c.sent.Store(cdc.Stamp(time.Now()))
	return c.Conn.Write(b)
}

// Close implements [net.Conn].
func (c *transactionConn) Close() error {
	if c.sent.Load() > 0 && since(&c.sent) < inUse {
		c.verification.connectionEnded()
	}
	return c.Conn.Close()
}

// verify asks, if a connection has ended, whether brokers have left a transaction of this
// epoch open. It fails while they do not say. If they have, the epoch ends.
func (s *Sink) verify(ctx context.Context) error {
	v := &s.txn.verification
	if v.due() == 0 {
		return nil
	}
	v.asking.Lock()
	defer v.asking.Unlock()
	ended := v.due()
	if ended == 0 {
		return nil
	}
	if err := s.failure(); err != nil {
		return err // the next epoch looks
	}
	err := s.askUntil(ctx)
	switch {
	case err == nil:
		v.done(ended)
	case errors.Is(err, errLeftOpen) || errors.Is(err, errUntold) && ctx.Err() == nil:
		s.tell() // first: no record may follow that would release what is held
		s.giveUp(err)
	}
	return err
}

// askUntil asks until there is an answer, for verifyTimeout at most.
func (s *Sink) askUntil(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	for tries := 1; ; tries++ {
		err := s.nothingLeftOpen(ctx)
		if err == nil || errors.Is(err, errLeftOpen) || s.pause(ctx, backoff(tries)) != nil {
			return err
		}
	}
}

// nothingLeftOpen returns errLeftOpen if brokers have left something open of a transaction
// before the one at hand, errUntold if the partitions do not tell, and another error if
// the coordinator does not.
func (s *Sink) nothingLeftOpen(ctx context.Context) error {
	asks := s.txn.asks
	d, err := asks.describeTransaction(ctx, s.txn.name)
	if tooOld(err) {
		return nil // as in leftOpen
	}
	if err != nil {
		return fmt.Errorf("ask how the last transaction ended: %w", err)
	}
	before := d.ProducerEpoch
	switch d.State {
	case "PrepareCommit", "PrepareAbort":
		return errMarkers
	case "Ongoing":
		if s.txn.sharesEpoch() {
			return errUntold
		}
	case "CompleteCommit":
		before++ // whatever is open was left
	default:
		return nil // others have aborted it, and so fenced this epoch
	}
	counts, failed := countAll(ctx, asks.client.Load(), append(s.topics.names(), s.txn.progress))
	maps.DeleteFunc(failed, func(_ string, err error) bool { return errors.Is(err, kerr.UnknownTopicOrPartition) }) // deleted
	open, unasked := asks.openIn(ctx, d.ProducerID, counts)
	if slices.ContainsFunc(open, func(p partial) bool { return p.producer.epoch < before }) {
		return errLeftOpen
	}
	maps.Copy(failed, unasked)
	for _, err := range failed {
		return fmt.Errorf("%w: %w", errUntold, err)
	}
	return nil
}
