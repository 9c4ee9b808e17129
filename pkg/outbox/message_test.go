package outbox

import (
	"testing"

	"github.com/walpost/walpost/pkg/cdc"
)

// messageRecord routes a message as it is in WAL.
func messageRecord(t *testing.T, cfg Config, content []byte) (*cdc.Record, error) {
	t.Helper()
	r := newRouter(t, cfg)
	rel := r.MessageRelation("walpost")
	values := MessageValues(rel, DefaultPayload)(content, nil)
	return r.Route(&cdc.Event{Transaction: cdc.Transaction{CommitLSN: 1, CommitTime: committed}, Relation: rel, Values: values, Ordinal: 1})
}

func TestMessages(t *testing.T) {
	placed := Config{Place: []string{"type:header:eventType", "p:partition"}}
	for _, tt := range []struct {
		name, content, want string
		cfg                 Config
	}{
		{"JSON", `{"id": "a", "aggregatetype": "order", "aggregateid": "k", "payload": {"b": [1.50]}, "x": 1}`, `outbox.event.order key="k" value="{\"b\": [1.50]}" id="a"`, Config{}},
		{"Numbers", `{"id": 7, "aggregatetype": "order", "aggregateid": 1.50, "payload": true}`, `outbox.event.order key="1.50" value="true" id="7"`, Config{}},
		{"Null", `{"id": "a", "aggregatetype": "order", "aggregateid": "k", "payload": null}`, `outbox.event.order key="k" value=null id="a"`, Config{}},
		{"Text", `{"id": "a", "aggregatetype": "order", "aggregateid": "k", "payload": "ß\u00e9\ud83d\ude00"}`, `outbox.event.order key="k" value="ßé😀" id="a"`, Config{}},
		{"Placed", `{"id": "a", "aggregatetype": "order", "aggregateid": "k", "type": "T", "p": 3}`, `outbox.event.order key="k" value=null id="a" eventType="T" partition=3`, placed},
		{"Compact", "\x01\x02id\x02a\x0daggregatetype\x06order\x0baggregateid\x02k\x07payload\x00", `outbox.event.order key="k" value=null id="a"`, Config{}},
	} {
		rec, err := messageRecord(t, tt.cfg, []byte(tt.content))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := show(rec); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
	for _, bad := range []string{"", "null", "[1]", `{"id": 1} x`, "\x01", "\x01\x05id", "\x01\x02id\x09a", `{"id": "a", "aggregatetype": "order"}`} {
		rec, err := messageRecord(t, Config{}, []byte(bad))
		if err == nil {
			t.Errorf("%q is published as %s", bad, show(rec))
		} else if rec == nil {
			t.Errorf("%q: %v, without a record for the dead letters", bad, err)
		}
	}
}
