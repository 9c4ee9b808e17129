package outbox

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walpost/walpost/pkg/cdc"
)

// What can be read of a row that is poison comes with it, and what cannot is named.
func TestSalvage(t *testing.T) {
	const id, value = ` id="` + testID + `"`, `value="{\"a\": 1}"`
	tests := []struct {
		name, want, missing string
		cfg                 Config
		ev                  *cdc.Event
	}{
		{name: "NullKey", ev: event(cellNull("aggregateid", pgtype.TextOID)), want: "outbox.event.order key=null " + value + id},
		{name: "NullRoute", ev: event(cellNull("aggregatetype", pgtype.TextOID)), want: ` key="42" ` + value + id},
		{
			name: "InfiniteTime", cfg: Config{Timestamp: "at"}, ev: event(cellText("at", pgtype.TimestampOID, "infinity")),
			want: `outbox.event.order key="42" ` + value + id, missing: "timestamp",
		},
		{
			name: "TimeOfAnotherType", cfg: Config{Timestamp: "at"}, ev: event(cellText("at", pgtype.TextOID, "soon")),
			want: `outbox.event.order key="42" ` + value + id, missing: "timestamp",
		},
		{
			name: "NegativePartition", cfg: Config{Place: []string{"p:partition", "type:header"}}, ev: event(cellText("p", pgtype.Int4OID, "-1")),
			want: `outbox.event.order key="42" ` + value + id + ` type="OrderCreated"`, missing: "partition",
		},
		{
			name: "NoPayload", cfg: Config{Payload: "body", Place: []string{"nothing:header"}}, ev: event(),
			want: `outbox.event.order key="42" value=null` + id + " nothing=null", missing: "header nothing,value",
		},
		{name: "NoKey", cfg: Config{Key: "k", ID: "i"}, ev: event(), want: "outbox.event.order key=null " + value + " id=null", missing: "id,key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rec, err := newRouter(t, tt.cfg).Route(tt.ev)
			var poison *cdc.PoisonError
			if !errors.As(err, &poison) || rec == nil {
				t.Fatalf("Route() = %v, %v, want a record and poison", rec, err)
			}
			if got := show(rec); got != tt.want || poison.Missing != tt.missing {
				t.Errorf("got\n%s without %q, want\n%s without %q", got, poison.Missing, tt.want, tt.missing)
			}
		})
	}
}
