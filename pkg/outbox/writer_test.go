package outbox

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/walpost/walpost/internal/testenv/envtest"
)

const createOutbox = `CREATE TABLE %s (
  id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL,
  type varchar(255) NOT NULL DEFAULT 'none', payload %s, tenant int DEFAULT 7, note text,
  n bigint GENERATED ALWAYS AS IDENTITY)`

// flavor runs a function in a transaction of one of the two libraries.
type flavor struct {
	name  string
	write func(t *testing.T, w *Writer, messages ...Message) ([]uuid.UUID, error)
}

func flavors(t *testing.T, db envtest.Database) []flavor {
	conn := db.Connect(t)
	std, err := sql.Open("pgx", db.DSN)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = std.Close() })
	return []flavor{
		{"Pgx", func(t *testing.T, w *Writer, messages ...Message) (ids []uuid.UUID, err error) {
			err = pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
				ids, err = w.Write(t.Context(), tx, messages...)
				return err
			})
			return ids, err
		}},
		{"SQL", func(t *testing.T, w *Writer, messages ...Message) ([]uuid.UUID, error) {
			tx, err := std.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			ids, err := w.WriteSQL(t.Context(), tx, messages...)
			if err != nil {
				_ = tx.Rollback()
				return nil, err
			}
			return ids, tx.Commit()
		}},
	}
}

func TestWriter(t *testing.T) {
	for i, payload := range []string{"jsonb", "text", "bytea"} {
		t.Run(payload, func(t *testing.T) {
			db := envtest.NewDatabase(t)
			db.Exec(t, fmt.Sprintf(createOutbox, "public.outbox", payload))
			for _, f := range flavors(t, db) {
				t.Run(f.name, func(t *testing.T) {
					db.Exec(t, "TRUNCATE public.outbox")
					given := uuid.MustParse(testID)
					ids, err := f.write(t, &Writer{},
						Message{ID: given, Key: "k'1", Route: "order", Type: "Created", Payload: []byte(`{"a": "\\ß"}`), Columns: map[string]any{"tenant": 9}},
						Message{Key: "k2", Route: "order", Type: "Changed", Columns: map[string]any{"note": nil}},
						Message{Key: "k3", Route: "customer", Type: "Left", Payload: []byte("{}"), Columns: map[string]any{"tenant": nil, "note": "bye"}},
					)
					if err != nil {
						t.Fatal(err)
					}
					if ids[0] != given || ids[1].Version() != 7 || ids[1] == ids[2] {
						t.Errorf("ids %v, want %s and two of version 7", ids, given)
					}
					convert := []string{"payload", "payload", "convert_from(payload, 'UTF8')"}[i]
					got := rows(t, db, "SELECT concat_ws('|', aggregateid, aggregatetype, type, coalesce("+convert+"::text, 'NULL'), coalesce(tenant::text, 'NULL'), coalesce(note, 'NULL'), id) FROM outbox ORDER BY n")
					want := []string{
						`k'1|order|Created|{"a": "\\ß"}|9|NULL|` + testID,
						"k2|order|Changed|NULL|7|NULL|" + ids[1].String(),
						"k3|customer|Left|{}|NULL|bye|" + ids[2].String(),
					}
					if !slices.Equal(got, want) {
						t.Errorf("rows\n%s, want\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
					}
				})
			}
		})
	}
}

func TestWriterOtherTable(t *testing.T) {
	db := envtest.NewDatabase(t)
	db.Exec(t, `CREATE SCHEMA "My Schema"; CREATE TABLE "My Schema"."Out.box" ("The Id" text, k int, r text, p json)`)
	w, err := NewWriter(WriterConfig{Table: `"My Schema"."Out.box"`, ID: "The Id", Key: "k", Route: "r", Payload: "p"})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range flavors(t, db) {
		t.Run(f.name, func(t *testing.T) {
			ids, err := f.write(t, w, Message{Key: "5", Route: "r", Payload: []byte(" [1 ]")})
			if err != nil {
				t.Fatal(err)
			}
			got := rows(t, db, `DELETE FROM "My Schema"."Out.box" RETURNING concat_ws('|', "The Id", k, r, p)`)
			if want := []string{ids[0].String() + "|5|r| [1 ]"}; !slices.Equal(got, want) {
				t.Errorf("rows %q, want %q", got, want)
			}
		})
	}
}

// More messages than one statement has parameters for keep their order, and
// what a transaction that is rolled back wrote is gone.
func TestWriterChunks(t *testing.T) {
	db := envtest.NewDatabase(t)
	db.Exec(t, fmt.Sprintf(createOutbox, "public.outbox", "jsonb"))
	messages := make([]Message, 2*maxParameters/5+1)
	for i := range messages {
		messages[i] = Message{Key: fmt.Sprint(i), Route: "r", Type: "t", Payload: []byte("1")}
	}
	var w Writer
	conn := db.Connect(t)
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ids, err := w.Write(t.Context(), tx, messages...)
	if err != nil {
		t.Fatal(err)
	}
	const inOrder = "SELECT concat_ws(' ', count(*), count(*) FILTER (WHERE aggregateid::int = n - 1)) FROM outbox"
	var got string
	if err := tx.QueryRow(t.Context(), inOrder).Scan(&got); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%d %d", len(messages), len(messages)); got != want || len(ids) != len(messages) {
		t.Errorf("%s rows are there and in order, and %d ids, want %s", got, len(ids), want)
	}
	if !slices.IsSortedFunc(ids, func(a, b uuid.UUID) int { return strings.Compare(a.String(), b.String()) }) {
		t.Error("ids do not rise")
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := rows(t, db, "SELECT count(*)::text FROM outbox")[0]; got != "0" {
		t.Errorf("%s rows after a rollback, want 0", got)
	}
}

func TestWriterRefuses(t *testing.T) {
	refuse := execFunc(func(context.Context, string, ...any) (int64, error) {
		t.Error("a statement was sent")
		return 0, nil
	})
	var w Writer
	_, err := w.write(t.Context(), refuse, []Message{{Key: "k", Route: "r"}, {Route: "r"}, {Key: "k"}})
	if err == nil || !strings.Contains(err.Error(), "message 1 has no key") || !strings.Contains(err.Error(), "message 2 has no route") {
		t.Errorf("write() = %v, want both problems", err)
	}
	if ids, err := w.write(t.Context(), refuse, nil); ids != nil || err != nil {
		t.Errorf("write() of nothing = %v, %v, want nothing", ids, err)
	}
	if _, err := NewWriter(WriterConfig{Table: "a.b.c"}); err == nil {
		t.Error("NewWriter takes a name of three parts")
	}
}

// rows returns the one text column of a query.
func rows(t *testing.T, db envtest.Database, query string) []string {
	t.Helper()
	result, err := db.Connect(t).Query(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(result, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return got
}
