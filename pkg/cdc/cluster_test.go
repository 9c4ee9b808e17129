package cdc_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/checkpoint/checkpointtest"
)

// cluster is a Kafka of few words: what its clients write in a transaction is seen
// when that is committed. It panics when a client breaks a rule.
type cluster struct {
	mu       sync.Mutex // guards the rest
	seen     []cdc.Record
	cp       cdc.Checkpoint
	producer *client // who acquired last
	commits  int
	calls    int
	delay    time.Duration // of each save
	fault    func(call int, op op) checkpointtest.Fault

	absent   atomic.Bool                // what the records of the key "absent" wait for
	refusing bool                       // a record that is lost is not taken, rather than given up
	refuses  func(*cdc.Record) bool     // for good, once it was taken
	onCommit func(records []cdc.Record) // called with mu held
}

// op is a kind of external call.
type op string

const (
	opLoad    op = "load"
	opAcquire op = "acquire"
	opSave    op = "save"
	opProduce op = "produce"
)

func newCluster() *cluster {
	c := &cluster{refuses: func(r *cdc.Record) bool { return string(r.Key) == "refused" }, onCommit: func([]cdc.Record) {}}
	c.heal()
	return c
}

func (c *cluster) heal() {
	c.setFault(func(int, op) checkpointtest.Fault { return checkpointtest.None })
}

func (c *cluster) setFault(fault func(call int, op op) checkpointtest.Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault, c.calls = fault, 0
}

// Checkpoint returns what is committed.
func (c *cluster) Checkpoint() cdc.Checkpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cp
}

func (c *cluster) records() []cdc.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen
}

func (c *cluster) committed() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.commits
}

func (c *cluster) open() *client { return &client{cluster: c} }

// abort ends the open transaction, as for its age.
func (c *cluster) abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.producer.txn, c.producer = nil, nil
}

// overtake has another process acquire.
func (c *cluster) overtake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cp.Epoch++
}

// client is the two faces of a transactional sink and store, as a process has them.
type client struct {
	cluster *cluster

	// Guarded by cluster.mu.
	txn     []cdc.Record
	held    map[*cdc.Record]func(*cdc.Record, error) // not answered
	spoiled error
	epoch   int64
	told    bool // of a wait, in this transaction
}

var (
	_ cdc.Sink  = (*client)(nil)
	_ cdc.Store = (*client)(nil)
)

// do applies effect, unless the call is to have none, and tells so, unless it is
// not to be told.
func (cl *client) do(ctx context.Context, o op, effect func() error) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	c := cl.cluster
	c.mu.Lock()
	c.calls++
	fault := c.fault(c.calls, o)
	var err error
	if fault != checkpointtest.Lost && fault != checkpointtest.Silent {
		err = effect()
	}
	c.mu.Unlock()
	switch fault {
	case checkpointtest.Lost, checkpointtest.Persisted:
		return checkpointtest.ErrFault
	case checkpointtest.Silent, checkpointtest.PersistedSilent:
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return err
}

func (cl *client) Load(ctx context.Context) (cp cdc.Checkpoint, err error) {
	err = cl.do(ctx, opLoad, func() error { cp = cl.cluster.cp; return nil })
	return cp, err
}

func (cl *client) Acquire(ctx context.Context) (cp cdc.Checkpoint, err error) {
	cl.answer(errors.New("transaction is over"))
	err = cl.do(ctx, opAcquire, func() error {
		c := cl.cluster
		if c.producer != nil {
			c.producer.txn = nil
		}
		c.producer, c.cp.Epoch = cl, c.cp.Epoch+1
		cl.spoiled, cl.epoch, cp = nil, c.cp.Epoch, c.cp
		return nil
	})
	if err != nil {
		return cdc.Checkpoint{}, cl.spoil(err)
	}
	return cp, nil
}

// answer gives all records up that were not answered.
func (cl *client) answer(err error) {
	c := cl.cluster
	c.mu.Lock()
	held := cl.held
	cl.held = nil
	c.mu.Unlock()
	for r, done := range held {
		done(r, err)
	}
}

func (cl *client) spoil(err error) error {
	cl.cluster.mu.Lock()
	defer cl.cluster.mu.Unlock()
	cl.spoiled = err
	return err
}

func (cl *client) Save(ctx context.Context, pos cdc.Position) error {
	c := cl.cluster
	c.mu.Lock()
	spoiled, held := cl.spoiled, len(cl.held)
	c.mu.Unlock()
	if spoiled != nil {
		return spoiled
	}
	if held > 0 {
		panic("cdc: saved with records in flight")
	}
	select {
	case <-time.After(c.delay):
	case <-ctx.Done():
		return cl.spoil(context.Cause(ctx))
	}
	err := cl.do(ctx, opSave, func() error {
		switch {
		case c.producer != cl:
			return cdc.ErrFenced
		case pos.LSN < c.cp.LSN:
			panic(fmt.Sprintf("cdc: saved %s after %s", pos.LSN, c.cp.LSN))
		}
		c.seen = append(c.seen, cl.txn...)
		c.onCommit(cl.txn)
		cl.txn, cl.told = nil, false
		c.cp.Position = pos
		c.commits++
		return nil
	})
	if err != nil {
		return cl.spoil(err)
	}
	return nil
}

func (cl *client) Produce(ctx context.Context, r *cdc.Record, done func(*cdc.Record, error)) error {
	c := cl.cluster
	if string(r.Key) == "absent" {
		if err := cl.await(ctx); err != nil {
			return err
		}
	}
	c.mu.Lock()
	if cl.spoiled != nil {
		defer c.mu.Unlock()
		return cl.spoiled
	}
	if cl.epoch == 0 {
		panic("cdc: produced before Acquire")
	}
	c.calls++
	fault := c.fault(c.calls, opProduce)
	if fault != checkpointtest.Lost && fault != checkpointtest.Silent {
		cl.txn = append(cl.txn, cloneRecord(r))
	}
	var err error
	switch fault {
	case checkpointtest.Silent, checkpointtest.PersistedSilent:
		if cl.held == nil {
			cl.held = map[*cdc.Record]func(*cdc.Record, error){}
		}
		cl.held[r] = done
		c.mu.Unlock()
		return nil
	case checkpointtest.Lost, checkpointtest.Persisted:
		err = checkpointtest.ErrFault
		cl.spoiled = err
		if c.refusing {
			c.mu.Unlock()
			return err
		}
	}
	if c.refuses(r) {
		err = cdc.Poison(cdc.PoisonRefused, "refused by the test")
		cl.spoiled = errors.New("transaction is spoilt")
	}
	c.mu.Unlock()
	done(r, err)
	return nil
}

// await waits for what is absent. With records in the transaction it says so first, once.
func (cl *client) await(ctx context.Context) error {
	for c := cl.cluster; c.absent.Load(); {
		c.mu.Lock()
		tell := len(cl.txn) > 0 && !cl.told
		cl.told = true
		c.mu.Unlock()
		if tell {
			return cdc.ErrWait
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Flush waits for what will never be answered.
func (cl *client) Flush(ctx context.Context) error {
	cl.cluster.mu.Lock()
	held := len(cl.held)
	cl.cluster.mu.Unlock()
	if held == 0 {
		return nil
	}
	<-ctx.Done()
	return context.Cause(ctx)
}
