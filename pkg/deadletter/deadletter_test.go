package deadletter_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/deadletter"
)

var at = time.Date(2026, 11, 24, 10, 20, 30, 456_789_012, time.UTC)

func event() *cdc.Record {
	r := cdc.NewRecord()
	r.Topic, r.Key, r.Value, r.ID = "orders", []byte("k"), []byte{0, 0xff}, []byte("id-1")
	r.Headers = []cdc.Header{{Key: "id", Value: []byte("id-1")}, {Key: "null"}, {Key: deadletter.HeaderKind, Value: []byte("forged")}}
	r.CommitLSN, r.Ordinal, r.CommitTime, r.Timestamp = 0x16B374D848, 3, at.Add(-time.Hour), at.Add(-2*time.Hour)
	return r
}

func show(l *cdc.Letter) string {
	c := *l
	var ev string
	if c.Event != nil {
		r := *c.Event
		r.Buf = nil
		ev = fmt.Sprintf("%+v key nil %t value nil %t", r, r.Key == nil, r.Value == nil)
		for _, h := range r.Headers {
			ev += fmt.Sprintf(" %s nil %t", h.Key, h.Value == nil)
		}
		c.Event = nil
	}
	body, err := json.Marshal([]any{c.Settled, c.Request, c.Answer})
	c.Settled, c.Request, c.Answer = nil, nil, nil
	return fmt.Sprintf("%+v %s %v event %s", c, body, err, ev)
}

// What is encoded is decoded to the same, and an event keeps its bytes.
func TestRoundTrip(t *testing.T) {
	history := cdc.Position{SystemID: 1<<63 + 7, Timeline: 2}
	keyless, partitioned, bare := event(), event(), event()
	keyless.Key, keyless.ID, keyless.Value = nil, nil, nil
	partitioned.Partition = 7
	bare.Topic, bare.Key, bare.Headers, bare.Timestamp = "", []byte{}, nil, time.Time{}
	tests := map[string]cdc.Letter{
		"Dead":        {Kind: cdc.LetterDead, Event: event(), History: history, Table: `public.we"ird`, Reason: cdc.PoisonOversize, Error: "too large"},
		"Parked":      {Kind: cdc.LetterParked, Event: event(), History: history, Table: "t"},
		"Keyless":     {Kind: cdc.LetterDead, Event: keyless, Reason: cdc.PoisonKey, Error: "NULL"},
		"Partitioned": {Kind: cdc.LetterDead, Event: partitioned, Reason: cdc.PoisonRow, Missing: "timestamp,payload"},
		"Bare":        {Kind: cdc.LetterDead, Event: bare, Reason: cdc.PoisonTopic},
		"Claim":       {Kind: cdc.LetterClaim},
		"Settled":     {Kind: cdc.LetterSettled, Settled: &cdc.Settled{Topic: "t", Key: []byte("k"), Dead: &cdc.DeadLetter{ID: "x", Time: at}, Parked: 3}},
		"Freed":       {Kind: cdc.LetterSettled, Settled: &cdc.Settled{Topic: "t", Key: []byte{}, Offset: 7}},
		"Request":     {Kind: cdc.LetterRequest, Request: &cdc.Request{ID: "r", Action: cdc.Discard, Key: []byte{}, WithParked: true}},
		"Answer":      {Kind: cdc.LetterAnswer, Answer: &cdc.Answer{Request: "r", Published: 4, StillDead: []cdc.Lot{{Topic: "t"}}}},
	}
	for name, want := range tests {
		t.Run(name, func(t *testing.T) {
			want.Slot, want.Owner, want.Time = "walpost", "me", at
			r := cdc.NewRecord()
			l := want
			if want.Event != nil {
				c := *want.Event
				c.Headers = slices.Clone(c.Headers)
				r, l.Event = &c, &c
			}
			deadletter.Encode("dlq", &l, r)
			if r.Topic != "dlq" || r.Partition != deadletter.Partition || !r.Timestamp.Equal(cdc.NoTimestamp) {
				t.Errorf("record goes to %s[%d] at %s", r.Topic, r.Partition, r.Timestamp)
			}
			got, err := deadletter.Decode(r)
			if err != nil {
				t.Fatal(err)
			}
			if show(got) != show(&want) {
				t.Errorf("got\n%s, want\n%s", show(got), show(&want))
			}
		})
	}
}

// A long error is cut: the headers must fit where the row does.
func TestLongError(t *testing.T) {
	r := event()
	l := &cdc.Letter{Kind: cdc.LetterDead, Event: r, Error: strings.Repeat("x", 1<<20)}
	deadletter.Encode("dlq", l, r)
	got, err := deadletter.Decode(r)
	if err != nil || len(got.Error) != 2000 {
		t.Errorf("error of %d bytes, %v, want 2000", len(got.Error), err)
	}
}

func TestForeign(t *testing.T) {
	for name, headers := range map[string][]cdc.Header{
		"NoHeader":    nil,
		"UnknownKind": {{Key: deadletter.HeaderKind, Value: []byte("undead")}},
		"NoPosition":  {{Key: deadletter.HeaderKind, Value: []byte("dead")}},
		"NoJSON":      {{Key: deadletter.HeaderKind, Value: []byte("request")}},
	} {
		t.Run(name, func(t *testing.T) {
			if l, err := deadletter.Decode(&cdc.Record{Headers: headers}); err == nil {
				t.Errorf("Decode() = %+v, want an error", l)
			}
		})
	}
}

// FuzzDecode wants no panic, and what is decoded to be the same once encoded and
// decoded again.
func FuzzDecode(f *testing.F) {
	r := event()
	deadletter.Encode("dlq", &cdc.Letter{Kind: cdc.LetterDead, Slot: "s", Owner: "o", Time: at, Event: r}, r)
	f.Add("dead", []byte("v"), []byte("k"), "1", "0/1", "7", at.Format(time.RFC3339Nano))
	f.Add("settled", []byte(`{"topic":"t","key":"aw==","dead":{}}`), []byte(nil), "", "", "", "")
	f.Add("request", []byte(`{"id":"t","all":true}`), []byte(nil), "", "", "", "2026-01-01T00:00:00Z")
	f.Fuzz(func(t *testing.T, kind string, value, key []byte, system, lsn, ordinal, when string) {
		r := &cdc.Record{Key: key, Value: value, Partition: -1, Headers: []cdc.Header{
			{Key: "id", Value: value},
			{Key: deadletter.HeaderKind, Value: []byte(kind)},
			{Key: deadletter.HeaderSystem, Value: []byte(system)},
			{Key: deadletter.HeaderTimeline, Value: []byte(ordinal)},
			{Key: deadletter.HeaderLSN, Value: []byte(lsn)},
			{Key: deadletter.HeaderOrdinal, Value: []byte(ordinal)},
			{Key: deadletter.HeaderTime, Value: []byte(when)},
			{Key: deadletter.HeaderPartition, Value: []byte(system)},
		}}
		first, err := deadletter.Decode(r)
		if err != nil {
			return
		}
		again, copied := cdc.NewRecord(), *first
		if first.Event != nil {
			c := *first.Event
			c.Headers = slices.Clone(c.Headers)
			again, copied.Event = &c, &c
		}
		deadletter.Encode("dlq", &copied, again)
		if first.Event != nil && (!bytes.Equal(again.Value, value) || !bytes.Equal(again.Key, key)) {
			t.Error("the event's bytes have changed")
		}
		second, err := deadletter.Decode(again)
		if err != nil {
			t.Fatalf("decode what was encoded: %v", err)
		}
		first.Event, second.Event = nil, nil
		if first.Time.IsZero() {
			second.Time = first.Time
		}
		if show(first) != show(second) {
			t.Errorf("got\n%s, want\n%s", show(second), show(first))
		}
	})
}
