package harness

import (
	"context"
	"crypto/md5" //nolint:gosec // compares bytes; nobody attacks
	"encoding/hex"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Digest stands for a payload's bytes.
type Digest [md5.Size]byte

// Entry is what one committed event must look like in Kafka.
type Entry struct {
	Key   string
	Seq   int64 // rises in commit order for each key
	Value Digest
	Null  bool // the payload is NULL

	Seen int // how often it arrived; kept by Check
}

// Ledger holds every committed event by its id.
type Ledger map[uuid.UUID]*Entry

// ReadLedger takes the ledger from the table itself, where Postgres has printed
// and digested the payloads. payload is an SQL expression for the payload's
// bytes, as in payload::text or payload. The table has a column seq.
func ReadLedger(ctx context.Context, conn *pgx.Conn, table, payload string) (Ledger, error) {
	query := fmt.Sprintf("SELECT id::text, aggregateid, seq, md5(%s), payload IS NULL FROM %s", payload, table)
	rows, err := conn.Query(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("read ledger: %w", err)
	}
	ledger := Ledger{}
	keys := map[string]string{} // one copy of each key
	var (
		id, key string
		sum     *string
		seq     int64
		null    bool
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &key, &seq, &sum, &null}, func() error {
		if _, ok := keys[key]; !ok {
			keys[key] = key
		}
		e := &Entry{Key: keys[key], Seq: seq, Null: null}
		if sum != nil {
			if _, err := hex.Decode(e.Value[:], []byte(*sum)); err != nil {
				return err
			}
		}
		u, err := uuid.Parse(id)
		ledger[u] = e
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read ledger: %w", err)
	}
	return ledger, nil
}

// Add takes over the entries of other.
func (l Ledger) Add(other Ledger) {
	for id, e := range other {
		l[id] = e
	}
}
