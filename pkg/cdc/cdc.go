// Package cdc streams committed Postgres changes to a sink, at least once, or
// exactly once with a transactional one, and in commit order per key. It is the vocabulary that sources, sinks and stores
// share, and the engine that joins them.
//
// The way of an event: a [Source] opens a [Stream], which calls a [Handler]
// for each row of each committed transaction; the handler, which is the
// [Pipeline], makes a [Record] of it, registers it with the [Tracker] and hands
// it to the [Sink]. Acknowledgements move the tracker's watermark, the
// watermark is saved in the [Store], and what is saved is confirmed to Postgres.
package cdc

import (
	"context"
	"time"
)

// Transaction is a committed transaction.
type Transaction struct {
	XID uint32

	// CommitLSN is where the commit record begins. With the timeline and an
	// event's ordinal it identifies the event for good.
	CommitLSN LSN

	// CommitTime is the server's clock at the commit.
	CommitTime time.Time
}

// Relation is a table's shape at some moment. A Relation is never changed once
// a Handler has seen it: another shape is another pointer, so a pointer may be
// the key of what was compiled for it.
type Relation struct {
	OID          uint32
	Schema, Name string
	Columns      []Column
}

// qualified is the name with its schema, for messages. It allocates, so no event that
// is well should ask for it.
func (r *Relation) qualified() string { return r.Schema + "." + r.Name }

// Column is one column of a Relation.
type Column struct {
	Name     string
	Type     uint32 // OID in pg_type
	Modifier int32  // atttypmod, -1 for none

	// Only where the source was asked for them, which the protocol does not tell:
	NotNull bool
	Labels  []string // of an enum, in their order
}

// Format says how a Value's bytes are to be read. Its constants are the bytes
// that pgoutput uses.
// https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
type Format byte

// The formats of a value.
const (
	Null      Format = 'n' // SQL NULL; no data
	Unchanged Format = 'u' // a TOASTed value that an UPDATE left alone; no data
	Text      Format = 't' // the type's text output
	Binary    Format = 'b' // the type's send function
)

// Value is one column's value.
type Value struct {
	Format Format
	Data   []byte
}

// Event is one inserted row.
type Event struct {
	Transaction Transaction
	Relation    *Relation
	Values      []Value // in the order of Relation.Columns, and as many

	// Ordinal is the row's place among the rows of its transaction that are
	// handed over, counted from 1. The [Pipeline] sets it. With the commit
	// LSN and the timeline it identifies the event for good.
	Ordinal int64

	// LSN is where the change lies in WAL. It is neither unique nor rising,
	// and good for messages only.
	LSN LSN
}

// Handler receives the events of a stream. Its methods are called from one
// goroutine. An error that a method returns ends the stream.
type Handler interface {
	// Begin opens a transaction. Transactions come in commit order, each
	// whole, and only those that have committed.
	Begin(tx Transaction) error

	// Insert is one row of the open transaction. ev and all it holds, but
	// for its Relation, are valid only during the call. Insert blocks while
	// the sink is full, until ctx is done.
	Insert(ctx context.Context, ev *Event) error

	// Commit closes the transaction, whose commit record ends at end.
	Commit(end LSN) error

	// Idle says that everything committed before lsn has been handed over.
	// It is not called inside a transaction.
	Idle(lsn LSN)
}

// Source reads a replication slot.
type Source interface {
	// Open connects, becomes the slot's only owner and returns the stream,
	// which does not flow yet. While another process owns the slot, Open
	// waits, unless the source is configured to give up.
	//
	// Once the slot is owned Open calls position with the server's identity
	// and its end of WAL. Position returns where to start, or a zero
	// Position for a first start. Open refuses, with a [RefusedError], a
	// position from which events would be lost or invented. Up to that
	// point nothing has been changed on the server. After it, and only for
	// a zero position, Open creates a missing slot.
	Open(ctx context.Context, position func(ctx context.Context, server Position) (Position, error)) (Stream, error)

	// Ping reports whether the server takes connections. It is cheap, and
	// bounded to about two seconds.
	Ping(ctx context.Context) error
}

// Stream is an open replication connection. A Stream that was opened must be
// closed, whether it ran or not.
type Stream interface {
	// Start is where Run begins: the position that was given to Open, or
	// the slot's own for a first start.
	Start() Position

	// Run calls h for each event in stream order until Stop is called and
	// ctx is done, h fails or the stream breaks. It keeps the connection
	// alive while h blocks. When ctx is done it sends the confirmed position
	// once more, ends the replication in good order, and returns nil.
	Run(ctx context.Context, h Handler) error

	// Stop makes Run hand over nothing more, and ends a blocked Insert. Run
	// goes on keeping the connection alive and sending confirmations. Safe
	// to call from any goroutine, before Run and more than once.
	Stop()

	// Confirm allows the server to forget WAL up to lsn. It does not block,
	// and ignores a position lower than an earlier one. What lies beyond
	// the highest position received in this session is withheld until the
	// session has come that far. Safe to call from any goroutine.
	Confirm(lsn LSN)

	// Close ends the connections and with them the ownership of the slot.
	Close() error
}

// Sink delivers records.
//
// A transactional sink and its store are two faces of one thing, for
// [Config.Transactional]. What differs for them:
//
//   - Records are durable, and seen, only with the Save that follows, which makes
//     them and the position durable together or not at all. done(nil) says that
//     a record is in the open transaction.
//   - A record that was given up, or a Save that failed in any way once it had
//     begun, spoils the open transaction. From then on records and saves are
//     refused until Acquire.
//   - Before Produce waits for what may be missing for long, as a topic, it may return
//     [ErrWait]: it did not take the record, and what the transaction has can be committed
//     first. Called again with that record it waits.
//   - Acquire ends the open transaction of whoever acquired before, this one
//     included, so that nothing of it is ever seen, and returns only after done
//     has been called for all records that were handed over here.
type Sink interface {
	// Produce hands r over and blocks only while the sink is full, until ctx
	// is done; ctx ends that wait and nothing else. If Produce returns an
	// error it did not take r. Otherwise r belongs to the sink until done is
	// called, exactly once: with nil once r is durable, or with the error
	// for which the sink gave up. An outage is no reason to give up.
	// Records of one key keep their order. After a record was given up, the
	// sink takes no more.
	//
	// Produce is called from one goroutine. done is called from any, must
	// not block, and must not call the sink; it is the same function for
	// every record, so that none is allocated.
	//
	// A record that can never be delivered is refused with a [PoisonError],
	// whether by Produce or through done.
	Produce(ctx context.Context, r *Record, done func(*Record, error)) error

	// Flush waits until done has been called for every record handed over,
	// or ctx is done.
	Flush(ctx context.Context) error
}

// Store keeps a checkpoint. For a transactional one see [Sink].
type Store interface {
	// Load returns the checkpoint, or a zero one if there is none. It
	// changes nothing.
	Load(ctx context.Context) (Checkpoint, error)

	// Acquire takes the checkpoint over by writing a new epoch, which it
	// returns in the checkpoint as it now is. Whoever saved before is
	// fenced from then on. Acquire creates what is missing.
	Acquire(ctx context.Context) (Checkpoint, error)

	// Save stores pos durably, or keeps what it has if that is further on.
	// It returns [ErrFenced], and stores nothing, if the checkpoint has been
	// acquired by somebody else since this Store acquired it. After any
	// other error the position may or may not have been stored.
	Save(ctx context.Context, pos Position) error
}
