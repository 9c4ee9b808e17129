package outbox

import (
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

func TestMain(m *testing.M) { os.Exit(envtest.Main(m)) }

var committed = time.Date(2024, 2, 29, 7, 4, 56, 789012000, time.UTC)

// cell is a column and its value.
type cell struct {
	name     string
	typ      uint32
	modifier int32
	value    cdc.Value
}

func cellText(name string, typ uint32, s string) cell {
	return cell{name, typ, -1, cdc.Value{Format: cdc.Text, Data: []byte(s)}}
}

func cellNull(name string, typ uint32) cell {
	return cell{name, typ, -1, cdc.Value{Format: cdc.Null}}
}

func cellBinary(name string, typ uint32, b ...byte) cell {
	return cell{name, typ, -1, cdc.Value{Format: cdc.Binary, Data: b}}
}

const testID = "00000084-0000-4000-8000-000000000005"

// event makes an event of the default table's row, in which the cells replace
// columns of their name or come behind them.
func event(cells ...cell) *cdc.Event {
	row := []cell{
		cellText("id", pgtype.UUIDOID, testID),
		cellText("aggregatetype", pgtype.VarcharOID, "order"),
		cellText("aggregateid", pgtype.VarcharOID, "42"),
		cellText("type", pgtype.VarcharOID, "OrderCreated"),
		cellText("payload", pgtype.JSONBOID, `{"a": 1}`),
	}
	for _, c := range cells {
		replaced := false
		for i := range row {
			if row[i].name == c.name {
				row[i], replaced = c, true
			}
		}
		if !replaced {
			row = append(row, c)
		}
	}
	return eventOf(row...)
}

func eventOf(row ...cell) *cdc.Event {
	rel := &cdc.Relation{OID: 16384, Schema: "public", Name: "outbox"}
	ev := &cdc.Event{Transaction: cdc.Transaction{XID: 7, CommitLSN: 0x16B374D848, CommitTime: committed}, Relation: rel, LSN: 0x16B374D000}
	for _, c := range row {
		rel.Columns = append(rel.Columns, cdc.Column{Name: c.name, Type: c.typ, Modifier: c.modifier})
		ev.Values = append(ev.Values, c.value)
	}
	return ev
}

func newRouter(t testing.TB, cfg Config) *Router {
	t.Helper()
	r, err := NewRouter(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func route(t testing.TB, cfg Config, ev *cdc.Event) *cdc.Record {
	t.Helper()
	rec, err := newRouter(t, cfg).Route(ev)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}
