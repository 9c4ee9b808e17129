package pgsource

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgoutput"
)

// inProgress keeps what the server streams of transactions that have not
// committed yet. Beyond max bytes the largest goes to a file.
type inProgress struct {
	max     int64
	dir     string
	spilled func(bytes int)

	used int64 // bytes of memory, of all transactions
	txs  map[uint32]*streamedTx
}

// streamedTx is one such transaction: messages in the order in which they came,
// first those in the file, then those in memory.
type streamedTx struct {
	chunks  [][]byte // whole frames each: length as 4 bytes, and the message
	size    int64    // memory of chunks, in bytes
	file    *os.File // nil until spilled; has no name
	aborted []uint32 // subtransactions; in memory to the end
}

// A transaction's first chunk has the capacity minChunk and each further one twice that
// of the one before, up to maxChunk, or what one message needs.
const (
	minChunk = 4 << 10
	maxChunk = 64 << 10
)

const (
	// frameHead is the length that precedes a message.
	frameHead = 4

	// abortSize is what the number of an aborted subtransaction takes.
	abortSize = 4
)

// add keeps a copy of a message of the transaction.
func (p *inProgress) add(xid uint32, msg []byte) error {
	tx := p.txs[xid]
	if tx == nil {
		tx = &streamedTx{}
		p.txs[xid] = tx
	}
	p.used += tx.append(msg)
	if p.used <= p.max {
		return nil
	}
	return p.spill()
}

// append keeps a copy of msg and returns how much memory that has taken anew.
func (tx *streamedTx) append(msg []byte) (grown int64) {
	need := frameHead + len(msg)
	n := len(tx.chunks)
	if n == 0 || cap(tx.chunks[n-1])-len(tx.chunks[n-1]) < need {
		size := minChunk
		if n > 0 {
			size = min(2*cap(tx.chunks[n-1]), maxChunk)
		}
		tx.chunks = append(tx.chunks, make([]byte, 0, max(size, need)))
		grown = int64(cap(tx.chunks[n]))
		tx.size += grown
		n++
	}
	c := binary.BigEndian.AppendUint32(tx.chunks[n-1], uint32(len(msg)))
	tx.chunks[n-1] = append(c, msg...)
	return grown
}

// spill moves the largest transaction's memory to its file.
func (p *inProgress) spill() error {
	var xid uint32
	var tx *streamedTx
	for x, t := range p.txs {
		if tx == nil || t.size > tx.size {
			xid, tx = x, t
		}
	}
	if err := tx.spill(p.dir); err != nil {
		return fmt.Errorf("spill transaction %d to %s: %w", xid, p.dir, err)
	}
	p.used -= tx.size
	p.spilled(int(tx.size))
	tx.chunks, tx.size = nil, 0
	return nil
}

func (tx *streamedTx) spill(dir string) error {
	if tx.file == nil {
		f, err := os.CreateTemp(dir, "walpost-*.spill")
		if err != nil {
			return err
		}
		tx.file = f
		// Without a name it goes when the process goes.
		if err := os.Remove(f.Name()); err != nil {
			return err
		}
	}
	for _, c := range tx.chunks {
		if _, err := tx.file.Write(c); err != nil {
			return err
		}
	}
	return nil
}

// abort drops a subtransaction, or all if sub is the transaction itself.
func (p *inProgress) abort(xid, sub uint32) {
	tx := p.txs[xid]
	switch {
	case tx == nil:
	case sub == xid:
		p.drop(xid)
	default:
		tx.aborted = append(tx.aborted, sub)
		p.used += abortSize
	}
}

func (p *inProgress) drop(xid uint32) {
	if tx := p.txs[xid]; tx != nil {
		p.used -= tx.size + abortSize*int64(len(tx.aborted))
		tx.close()
		delete(p.txs, xid)
	}
}

func (p *inProgress) close() {
	for xid := range p.txs {
		p.drop(xid)
	}
}

func (tx *streamedTx) close() {
	if tx.file != nil {
		_ = tx.file.Close() // nothing in it is needed any more
	}
}

// each calls fn for each message in order. msg is valid during the call.
func (tx *streamedTx) each(fn func(msg []byte) error) error {
	if tx.file != nil {
		if _, err := tx.file.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("read spilled transaction: %w", err)
		}
		if err := eachFrame(bufio.NewReaderSize(tx.file, maxChunk), fn); err != nil {
			return err
		}
	}
	for _, c := range tx.chunks {
		for len(c) > 0 {
			n := frameHead + int(binary.BigEndian.Uint32(c))
			if err := fn(c[frameHead:n]); err != nil {
				return err
			}
			c = c[n:]
		}
	}
	return nil
}

// eachFrame calls fn for what each frame of r holds. The bytes are valid during the call.
func eachFrame(r io.Reader, fn func(msg []byte) error) error {
	var head [frameHead]byte
	var buf []byte
	for {
		if _, err := io.ReadFull(r, head[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		n := int(binary.BigEndian.Uint32(head[:]))
		if n > cap(buf) {
			buf = make([]byte, n)
		}
		if _, err := io.ReadFull(r, buf[:n]); err != nil {
			return err
		}
		if err := fn(buf[:n]); err != nil {
			return err
		}
	}
}

// putAside keeps a message of the open stream block, unless it can be none of
// ours: an insert into another table, or what is no event at all.
func (st *Stream) putAside(ctx context.Context, msg []byte) error {
	in := &st.in
	kind, _, err := pgoutput.PeekStreamed(msg)
	if err != nil {
		return err
	}
	switch kind {
	case pgoutput.KindRelation:
		m, err := in.dec.DecodeStreamed(msg)
		if err != nil {
			return err
		}
		if err := st.noteStreamed(ctx, m.(*pgoutput.Relation).Relation); err != nil {
			return err
		}
	case pgoutput.KindInsert:
		m, err := in.dec.DecodeStreamed(msg)
		if err != nil {
			return err
		}
		if other := in.others[m.(*pgoutput.Insert).RelationID]; other {
			return nil
		}
	default:
		return nil
	}
	return in.pending.add(in.xid, msg)
}

// noteStreamed remembers a table that is certainly none of ours, so that a bulk
// job on it is not kept. A table with the columns of an outbox is kept: it may
// become a partition in the same transaction, or another may have changed it. Which
// it is, is judged at the commit.
func (st *Stream) noteStreamed(ctx context.Context, rel *cdc.Relation) error {
	if known, ok := st.in.relations[rel.OID]; ok && known.outbox || st.isConfigured(rel) || st.hasColumns(rel) {
		st.in.others[rel.OID] = false
		return nil
	}
	found, err := st.lookUp(ctx, rel.OID)
	st.in.others[rel.OID] = err == nil && !found.partition
	return err
}

// streamCommit hands over a transaction that was streamed. Descriptions of
// tables take effect in their place, whatever subtransaction they came in: the
// server counts them as sent. Rows of aborted subtransactions are left out.
func (st *Stream) streamCommit(ctx context.Context, h cdc.Handler, m *pgoutput.StreamCommit) error {
	in := &st.in
	xid, end := m.XID, m.EndLSN
	in.event.Transaction, in.event.LSN, in.begun = m.Transaction, m.CommitLSN, false
	tx := in.pending.txs[xid]
	if tx == nil {
		return st.commit(h, end)
	}
	slices.Sort(tx.aborted)
	err := tx.each(func(msg []byte) error {
		m, err := in.dec.DecodeStreamed(msg)
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *pgoutput.Relation:
			return st.upsert(ctx, m.Relation)
		case *pgoutput.Insert:
			if _, aborted := slices.BinarySearch(tx.aborted, m.XID); !aborted {
				return st.insert(ctx, h, m)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	in.pending.drop(xid)
	return st.commit(h, end)
}
