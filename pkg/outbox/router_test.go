package outbox

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walpost/walpost/pkg/cdc"
)

// show prints a record so that null and empty differ.
func show(r *cdc.Record) string {
	value := func(b []byte) string {
		if b == nil {
			return "null"
		}
		return fmt.Sprintf("%q", b)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s key=%s value=%s", r.Topic, value(r.Key), value(r.Value))
	for _, h := range r.Headers {
		fmt.Fprintf(&b, " %s=%s", h.Key, value(h.Value))
	}
	if r.Partition >= 0 {
		fmt.Fprintf(&b, " partition=%d", r.Partition)
	}
	if !r.Timestamp.Equal(r.CommitTime) {
		fmt.Fprintf(&b, " time=%s", r.Timestamp.UTC().Format(time.RFC3339Nano))
	}
	return b.String()
}

func TestRoute(t *testing.T) {
	const id = ` id="` + testID + `"`
	tests := []struct {
		name string
		cfg  Config
		ev   *cdc.Event
		want string
	}{
		{"Default", Config{}, event(), `outbox.event.order key="42" value="{\"a\": 1}"` + id},
		{"AnyOrder", Config{}, eventOf(
			cellText("extra", 600, "(1,2)"), cellText("payload", pgtype.TextOID, "p"), cellText("aggregateid", pgtype.TextOID, "k"),
			cellText("id", pgtype.UUIDOID, testID), cellText("aggregatetype", pgtype.TextOID, "t"),
		), `outbox.event.t key="k" value="p"` + id},
		{"NullPayload", Config{}, event(cellNull("payload", pgtype.JSONBOID)), `outbox.event.order key="42" value=null` + id},
		{"EmptyPayload", Config{}, event(cellText("payload", pgtype.TextOID, "")), `outbox.event.order key="42" value=""` + id},
		{"EmptyBytea", Config{}, event(cellText("payload", pgtype.ByteaOID, `\x`)), `outbox.event.order key="42" value=""` + id},
		{"JSONBNull", Config{}, event(cellText("payload", pgtype.JSONBOID, "null")), `outbox.event.order key="42" value="null"` + id},
		{"BinaryJSONB", Config{}, event(cellBinary("payload", pgtype.JSONBOID, 1, '{', '}')), `outbox.event.order key="42" value="{}"` + id},
		{"EmptyKey", Config{}, event(cellText("aggregateid", pgtype.TextOID, "")), `outbox.event.order key="" value="{\"a\": 1}"` + id},
		{"ByteaKey", Config{}, event(cellText("aggregateid", pgtype.ByteaOID, `\x00ff41`)), `outbox.event.order key="\x00\xffA" value="{\"a\": 1}"` + id},
		{"NullID", Config{}, event(cellNull("id", pgtype.UUIDOID)), `outbox.event.order key="42" value="{\"a\": 1}" id=null`},
		{"EmptyRoute", Config{}, event(cellText("aggregatetype", pgtype.TextOID, "")), `outbox.event. key="42" value="{\"a\": 1}"` + id},
		{"NumberRoute", Config{}, event(cellBinary("aggregatetype", pgtype.Int2OID, 0xff, 0xfe)), `outbox.event.-2 key="42" value="{\"a\": 1}"` + id},
		{
			"Headers",
			Config{Place: []string{"type:header:eventType", " n : HEADER , b:header", "n:header:again", "nil:header", "id:header"}},
			event(cellText("n", pgtype.Int4OID, "-5"), cellText("b", pgtype.ByteaOID, `\x000102ff`), cellNull("nil", pgtype.TextOID)),
			`outbox.event.order key="42" value="{\"a\": 1}"` + id + ` eventType="OrderCreated" n="-5" b="AAEC/w==" again="-5" nil=null` + id,
		},
		{
			"EscapedBytea",
			Config{Place: []string{"b:header"}},
			event(cellText("b", pgtype.ByteaOID, `\000a\\\377`), cellText("payload", pgtype.ByteaOID, `\000a\\\377`)),
			`outbox.event.order key="42" value="\x00a\\\xff"` + id + ` b="AGFc/w=="`,
		},
		{"Partition", Config{Place: []string{"p:partition"}}, event(cellText("p", pgtype.Int4OID, "3")), `outbox.event.order key="42" value="{\"a\": 1}"` + id + ` partition=3`},
		{"NullPartition", Config{Place: []string{"p:partition"}}, event(cellNull("p", pgtype.Int4OID)), `outbox.event.order key="42" value="{\"a\": 1}"` + id},
		{
			"Timestamp",
			Config{Timestamp: "at"},
			event(cellText("at", pgtype.TimestampOID, "2001-02-03 04:05:06.9996")),
			`outbox.event.order key="42" value="{\"a\": 1}"` + id + ` time=2001-02-03T04:05:06.999Z`,
		},
		{
			"ZonedTimestamp",
			Config{Timestamp: "at"},
			event(cellText("at", pgtype.TimestamptzOID, "2001-02-03 04:05:06-03:30")),
			`outbox.event.order key="42" value="{\"a\": 1}"` + id + ` time=2001-02-03T07:35:06Z`,
		},
		{"NullTimestamp", Config{Timestamp: "at"}, event(cellNull("at", pgtype.TimestampOID)), `outbox.event.order key="42" value="{\"a\": 1}"` + id},
		{
			"OtherColumns",
			Config{ID: "a", Key: "b", Route: "c", Payload: "d", Topic: "t-${routedByValue}"},
			eventOf(cellText("a", pgtype.Int8OID, "9"), cellText("b", pgtype.TextOID, "k"), cellText("c", pgtype.TextOID, "r"), cellText("d", pgtype.NumericOID, "1.50")),
			`t-r key="k" value="1.50" id="9"`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rec := route(t, tt.cfg, tt.ev)
			if got := show(rec); got != tt.want {
				t.Errorf("Route() =\n%s, want\n%s", got, tt.want)
			}
			if !rec.CommitTime.Equal(committed) {
				t.Errorf("CommitTime = %s, want %s", rec.CommitTime, committed)
			}
			if !bytes.Equal(rec.ID, rec.Headers[0].Value) {
				t.Errorf("ID = %q, want the header's %q", rec.ID, rec.Headers[0].Value)
			}
		})
	}
}

func TestRoutePoison(t *testing.T) {
	tests := []struct {
		name   string
		cfg    Config
		ev     *cdc.Event
		reason cdc.PoisonReason
		id     string
		want   string // part of the message
	}{
		{"NullKey", Config{}, event(cellNull("aggregateid", pgtype.TextOID)), cdc.PoisonKey, testID, `"aggregateid" of table public.outbox, the key, is NULL`},
		{"NullRoute", Config{}, event(cellNull("aggregatetype", pgtype.TextOID)), cdc.PoisonTopic, testID, `"aggregatetype" of table public.outbox, which names the topic, is NULL`},
		{"NoPayload", Config{Payload: "body"}, event(), cdc.PoisonRow, testID, `table public.outbox has no column "body", which outbox.payload names; it has id, aggregatetype`},
		{"NoID", Config{ID: "uuid"}, event(), cdc.PoisonRow, "", `no column "uuid"`},
		{"NoPlaced", Config{Place: []string{"x:header"}}, event(), cdc.PoisonRow, testID, `no column "x", which outbox.place names`},
		{"SmallPartition", Config{Place: []string{"p:partition"}}, event(cellText("p", pgtype.Int2OID, "1")), cdc.PoisonRow, testID, `has the type 21 in pg_type: want integer`},
		{"NegativePartition", Config{Place: []string{"p:partition"}}, event(cellBinary("p", pgtype.Int4OID, 0xff, 0xff, 0xff, 0xff)), cdc.PoisonRow, testID, `there is no partition -1`},
		{"TextTimestamp", Config{Timestamp: "at"}, event(cellText("at", pgtype.TextOID, "now")), cdc.PoisonRow, testID, `want timestamp or timestamptz`},
		{"InfiniteTimestamp", Config{Timestamp: "at"}, event(cellText("at", pgtype.TimestampOID, "infinity")), cdc.PoisonRow, testID, `infinite or before 1970`},
		{"TimestampThatIsKafkasWordForNone", Config{Timestamp: "at"}, event(cellText("at", pgtype.TimestamptzOID, "1969-12-31 23:59:59.999+00")), cdc.PoisonRow, testID, `infinite or before 1970`},
		{"OldTimestamp", Config{Timestamp: "at"}, event(cellText("at", pgtype.TimestampOID, "1969-12-31 23:59:59.999999")), cdc.PoisonRow, testID, `infinite or before 1970`},
		{"BadTimestamp", Config{Timestamp: "at"}, event(cellText("at", pgtype.TimestampOID, "29/02/2024")), cdc.PoisonRow, testID, `DateStyle ISO`},
		{"BadBytea", Config{}, event(cellText("payload", pgtype.ByteaOID, `\xzz`)), cdc.PoisonRow, testID, `hex format`},
		{"BadEscape", Config{}, event(cellText("payload", pgtype.ByteaOID, `a\9`)), cdc.PoisonRow, testID, `escape format`},
		{"BadJSONB", Config{}, event(cellBinary("payload", pgtype.JSONBOID, 2, '{', '}')), cdc.PoisonRow, testID, `version 1`},
		{"BinaryNumericKey", Config{}, event(cellBinary("aggregateid", pgtype.NumericOID, 0, 0)), cdc.PoisonKey, testID, `binary form of the type is not known`},
		{"BinaryIDOfWrongLength", Config{}, event(cellBinary("id", pgtype.UUIDOID, 1, 2)), cdc.PoisonRow, "", `another length`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rec, err := newRouter(t, tt.cfg).Route(tt.ev)
			var poison *cdc.PoisonError
			if !errors.As(err, &poison) {
				t.Fatalf("Route() = %v, %v, want a PoisonError", rec, err)
			}
			if poison.Reason != tt.reason || poison.ID != tt.id || poison.Table != "public.outbox" {
				t.Errorf("got reason %q, id %q, table %q, want %q, %q, public.outbox", poison.Reason, poison.ID, poison.Table, tt.reason, tt.id)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("message %q does not contain %q", err, tt.want)
			}
		})
	}
}

func TestRouteImpossibleRow(t *testing.T) {
	unchanged := event(cell{"payload", pgtype.TextOID, -1, cdc.Value{Format: cdc.Unchanged}})
	short := event()
	short.Values = short.Values[:3]
	unknown := event(cell{"payload", pgtype.TextOID, -1, cdc.Value{Format: 'x'}})
	for name, ev := range map[string]*cdc.Event{"Unchanged": unchanged, "TooFewValues": short, "UnknownFormat": unknown} {
		t.Run(name, func(t *testing.T) {
			rec, err := newRouter(t, Config{}).Route(ev)
			var poison *cdc.PoisonError
			if err == nil || errors.As(err, &poison) {
				t.Errorf("Route() = %v, %v, want an error that is no PoisonError", rec, err)
			}
		})
	}
}

// A poison row must leave nothing behind in the router: the plan's error is
// shared by all rows of the relation.
func TestRoutePoisonNamesItsRow(t *testing.T) {
	r := newRouter(t, Config{Payload: "body"})
	first := event()
	second := *first
	second.Values = append([]cdc.Value{{Format: cdc.Null}}, first.Values[1:]...)
	_, err1 := r.Route(first)
	_, err2 := r.Route(&second)
	var p1, p2 *cdc.PoisonError
	if !errors.As(err1, &p1) || !errors.As(err2, &p2) {
		t.Fatalf("Route() = %v and %v, want two PoisonErrors", err1, err2)
	}
	if p1.ID != testID || p2.ID != "" {
		t.Errorf("ids %q and %q, want %q and none", p1.ID, p2.ID, testID)
	}
}

func TestRouteNewShape(t *testing.T) {
	r := newRouter(t, Config{})
	for _, ev := range []*cdc.Event{
		event(),
		eventOf(cellText("payload", pgtype.TextOID, `{"a": 1}`), cellText("id", pgtype.UUIDOID, testID),
			cellText("aggregateid", pgtype.TextOID, "42"), cellText("aggregatetype", pgtype.TextOID, "order")),
		event(),
	} {
		rec, err := r.Route(ev)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := show(rec), `outbox.event.order key="42" value="{\"a\": 1}" id="`+testID+`"`; got != want {
			t.Errorf("Route() = %s, want %s", got, want)
		}
		rec.Free()
	}
	if got := len(r.plans); got != 1 {
		t.Errorf("%d plans for one table, want 1", got)
	}
	for oid := range uint32(2 * maxPlans) {
		ev := event()
		ev.Relation.OID = oid
		if _, err := r.Route(ev); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(r.plans); got > maxPlans {
		t.Errorf("%d plans are kept, want at most %d", got, maxPlans)
	}
}

func TestRouterColumns(t *testing.T) {
	got := newRouter(t, Config{Key: "k", Timestamp: "at", Place: []string{"type:header,id:header:again", "p:partition"}}).Columns()
	if want := []string{"aggregatetype", "at", "id", "k", "p", "payload", "type"}; !slices.Equal(got, want) {
		t.Errorf("Columns() = %q, want %q", got, want)
	}
}

func benchmarkEvent() *cdc.Event {
	return event(cellText("payload", pgtype.TextOID, strings.Repeat("x", 300)),
		cellText("created_at", pgtype.TimestamptzOID, "2024-02-29 07:04:56.789012+00"))
}

// All bytes of a record are in its buffer from the first on: growing it would
// have left some behind in an older one.
func TestRouteFillsOneBuffer(t *testing.T) {
	big := bytes.Repeat([]byte(`\\\377x`), 20_000)
	hex := append([]byte(`\x`), bytes.Repeat([]byte("7f"), 50_000)...)
	for name, b := range map[string]cell{
		"Escape": cellText("b", pgtype.ByteaOID, string(big)),
		"Plain":  cellText("b", pgtype.ByteaOID, strings.Repeat("x", 100_000)),
		"Hex":    cellText("b", pgtype.ByteaOID, string(hex)),
		"Binary": cellBinary("b", pgtype.ByteaOID, big...),
		"Text":   cellText("b", pgtype.TextOID, string(big)),
	} {
		t.Run(name, func(t *testing.T) {
			rec := route(t, Config{Place: []string{"b:header", "type:header"}}, event(b))
			for _, got := range [][]byte{rec.ID, rec.Key, rec.Value, rec.Headers[1].Value, rec.Headers[2].Value} {
				if !within(got, rec.Buf) {
					t.Errorf("%.20q lies outside of the record's buffer", got)
				}
			}
		})
	}
}

func TestRouteAllocatesNothing(t *testing.T) {
	tests := map[string]struct {
		cfg Config
		ev  *cdc.Event
	}{
		"Text": {Config{}, benchmarkEvent()},
		"Placed": {Config{Timestamp: "created_at", Place: []string{"type:header", "created_at:header", "b:header", "p:partition"}}, event(
			cellText("created_at", pgtype.TimestamptzOID, "2024-02-29 07:04:56.789012+00"), cellText("b", pgtype.ByteaOID, `\x000102`), cellText("p", pgtype.Int4OID, "7"),
		)},
		"Binary": {Config{Place: []string{"n:header", "b:header"}}, event(
			cellBinary("id", pgtype.UUIDOID, []byte("0123456789abcdef")...), cellBinary("n", pgtype.Int8OID, 1, 2, 3, 4, 5, 6, 7, 8),
			cellBinary("b", pgtype.ByteaOID, 1, 2, 3),
		)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRouter(t, tt.cfg)
			step := func() {
				rec, err := r.Route(tt.ev)
				if err != nil {
					t.Fatal(err)
				}
				rec.Free()
			}
			step()
			if got := testing.AllocsPerRun(1000, step); got != 0 {
				t.Errorf("Route allocates %v times, want 0", got)
			}
		})
	}
}

func BenchmarkRoute(b *testing.B) {
	r, ev := newRouter(b, Config{}), benchmarkEvent()
	b.ReportAllocs()
	for b.Loop() {
		rec, err := r.Route(ev)
		if err != nil {
			b.Fatal(err)
		}
		rec.Free()
	}
}

func TestPositionHeaders(t *testing.T) {
	ev := event()
	before := show(route(t, Config{}, ev))
	ev.Transaction.CommitLSN, ev.Ordinal = 0xA6B374D848, 17
	got := show(route(t, Config{PositionHeaders: true}, ev))
	if want := before + ` walpost-lsn="A6/B374D848" walpost-seq="17"`; got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
}
