package replay

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walpost/walpost/internal/bookmark"
	"github.com/walpost/walpost/pkg/cdc"
)

var relation = &cdc.Relation{Schema: "public", Name: "outbox", Columns: []cdc.Column{{Name: "key"}, {Name: "type"}}}

func event(key, kind string, at time.Time) *cdc.Event {
	e := &cdc.Event{Relation: relation, Transaction: cdc.Transaction{CommitTime: at}, Values: []cdc.Value{{Format: cdc.Text, Data: []byte(key)}, {Format: cdc.Text, Data: []byte(kind)}}}
	if kind == "" {
		e.Values[1] = cdc.Value{Format: cdc.Null}
	}
	return e
}

// plain makes a record as a router would; the key "poison" is one.
func plain(ev *cdc.Event) (*cdc.Record, error) {
	key := string(ev.Values[0].Data)
	if key == "poison" {
		return nil, cdc.Poison(cdc.PoisonKey, "no key")
	}
	r := cdc.NewRecord()
	r.Topic, r.Key, r.CommitTime, r.Timestamp = "t."+key[:1], []byte(key), ev.Transaction.CommitTime, ev.Transaction.CommitTime
	r.Headers = append(r.Headers, cdc.Header{Key: "id", Value: []byte("1")})
	return r, nil
}

func TestRoute(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, c := range map[string]struct {
		opts Options
		ev   *cdc.Event
		want bool
	}{
		"all":                 {Options{}, event("a1", "x", at), true},
		"key":                 {Options{Key: "a1"}, event("a1", "x", at), true},
		"another key":         {Options{Key: "a"}, event("a1", "x", at), false},
		"type":                {Options{Type: "x"}, event("a1", "x", at), true},
		"another type":        {Options{Type: "y"}, event("a1", "x", at), false},
		"no type":             {Options{Type: "y"}, event("a1", "", at), false},
		"topic":               {Options{Topic: "t.a"}, event("a1", "x", at), true},
		"another topic":       {Options{Topic: "t.b"}, event("a1", "x", at), false},
		"since then":          {Options{Since: at}, event("a1", "x", at), true},
		"later":               {Options{Since: at.Add(1)}, event("a1", "x", at), false},
		"until then":          {Options{Until: at}, event("a1", "x", at), false},
		"before":              {Options{Until: at.Add(1)}, event("a1", "x", at), true},
		"a poison row":        {Options{}, event("poison", "x", at), false},
		"one of two is wrong": {Options{Key: "a1", Type: "y"}, event("a1", "x", at), false},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewRoute(t.Context(), Plan{ID: "17", Options: c.opts}, nil, plain)
			rec, err := r.Route(c.ev)
			if got := err == nil; got != c.want || !got && (!errors.Is(err, cdc.ErrSkip) || rec != nil) {
				t.Fatalf("got %v, %v", rec, err)
			}
			counts := r.Counts()
			if c.want && (counts.Published != 1 || counts.Topics["t.a"] != 1) || !c.want && counts.Passed+counts.Poison != 1 {
				t.Errorf("counted %+v", counts)
			}
			if rec != nil && (len(rec.Headers) != 2 || rec.Headers[1].Key != Header || string(rec.Headers[1].Value) != "17" || !rec.Timestamp.Equal(at)) {
				t.Errorf("got %+v", rec)
			}
		})
	}
	t.Run("into another topic, now", func(t *testing.T) {
		r := NewRoute(t.Context(), Plan{Options: Options{Into: "elsewhere", Now: true}}, nil, plain)
		if rec, err := r.Route(event("a1", "x", at)); err != nil || rec.Topic != "elsewhere" || time.Since(rec.Timestamp) > time.Minute {
			t.Errorf("got %+v, %v", rec, err)
		}
	})
	t.Run("no such column", func(t *testing.T) {
		ev := event("a1", "x", at)
		ev.Relation, ev.Values = &cdc.Relation{Schema: "s", Name: "t", Columns: relation.Columns[:1]}, ev.Values[:1]
		var refused *cdc.RefusedError
		if _, err := NewRoute(t.Context(), Plan{Options: Options{Type: "x"}}, nil, plain).Route(ev); !errors.As(err, &refused) {
			t.Errorf("got %v", err)
		}
	})
}

// The rate holds over time, and a wait for it ends with the context.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := NewRoute(ctx, Plan{Options: Options{Rate: 100}}, nil, plain)
		begun := time.Now()
		for range 500 {
			if _, err := r.Route(event("a1", "x", begun)); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begun); took < 4900*time.Millisecond || took > 5100*time.Millisecond {
			t.Errorf("500 events at 100/s took %s", took)
		}
		slow := NewRoute(ctx, Plan{Options: Options{Rate: 0.001}}, nil, plain)
		time.AfterFunc(time.Second, cancel)
		for range 2 {
			if _, err := slow.Route(event("a1", "x", begun)); err != nil {
				t.Fatal(err)
			}
		}
		if time.Since(begun) > 10*time.Second {
			t.Error("the wait did not end with the context")
		}
	})
}

func TestParsePoint(t *testing.T) {
	kept := []bookmark.Bookmark{{Name: "here", LSN: 7}}
	for text, want := range map[string]point{
		"16/B374D848":               {lsn: 0x16_B374D848},
		"2026-01-31T14:00:00Z":      {time: time.Date(2026, 1, 31, 14, 0, 0, 0, time.UTC)},
		"2026-01-31 14:00:00+02:00": {time: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)},
		"2026-01-31 14:00":          {time: time.Date(2026, 1, 31, 14, 0, 0, 0, time.UTC)},
		"2026-01-31":                {time: time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)},
		"here":                      {bookmark: &kept[0]},
	} {
		got, err := parsePoint(text, kept)
		if err != nil || got.lsn != want.lsn || !got.time.Equal(want.time) || got.bookmark != want.bookmark {
			t.Errorf("%s: got %+v, %v", text, got, err)
		}
	}
	if got, err := parsePoint("-90m", nil); err != nil || time.Since(got.time).Round(time.Minute) != 90*time.Minute {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, text := range []string{"", "there", "16/", "-", "-1x", "yesterday"} {
		if got, err := parsePoint(text, kept); err == nil {
			t.Errorf("%q: got %+v, want an error", text, got)
		}
	}
}

// Of the bookmarks that keep what is asked for the nearest is read.
func TestChoose(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	early := at.Add(-time.Hour)
	kept := []bookmark.Bookmark{
		{Slot: "lost", LSN: 20}, {Slot: "first", LSN: 10, Since: &early, Usable: true}, {Slot: "second", LSN: 30, Since: &at, Usable: true},
	}
	for name, c := range map[string]struct {
		plan Plan
		slot string
		from cdc.LSN
	}{
		"between":              {Plan{From: 25}, "first", 25},
		"at the second":        {Plan{From: 30}, "second", 30},
		"before all":           {Plan{From: 5}, "", 5},
		"a time by the log":    {Plan{From: 12, Options: Options{Since: at.Add(-time.Minute)}}, "first", 12},
		"a time without a log": {Plan{Options: Options{Since: at.Add(-time.Minute)}}, "first", 10},
		"a time after both":    {Plan{Options: Options{Since: at.Add(time.Minute)}}, "second", 30},
		"a time before all":    {Plan{Options: Options{Since: early.Add(-1)}}, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			if slot := c.plan.choose(kept); slot != c.slot || c.plan.From != c.from {
				t.Errorf("got %q from %s, want %q from %s", slot, c.plan.From, c.slot, c.from)
			}
		})
	}
}
