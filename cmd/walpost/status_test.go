package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/walpost/walpost/internal/admin"
	"github.com/walpost/walpost/internal/inspect"
)

// The lag and the events of all shards are known only if each was reached, and no standby
// answered in its place: they are no sum of some.
func TestStatusSum(t *testing.T) {
	streams := &admin.Report{LagSeconds: 3, Processed: 1000, Unconfirmed: 10}
	for _, tt := range []struct {
		name   string
		second *admin.Report
		known  bool
	}{
		{"all", &admin.Report{LagSeconds: 2, Processed: 500, Unconfirmed: 5}, true},
		{"one of them", nil, false},
		{"a standby", &admin.Report{Standby: true}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := statusReport{Slots: []slotReport{
				{Slot: inspect.Slot{Name: "a", Exists: true}, Instance: streams},
				{Slot: inspect.Slot{Name: "b", Exists: true}, Instance: tt.second, Problem: "why"},
			}}
			s.add()
			data, err := json.Marshal(s.Sum)
			if err != nil {
				t.Fatal(err)
			}
			var text bytes.Buffer
			if err := s.print(&text); err != nil {
				t.Fatal(err)
			}
			all := text.String()[strings.Index(text.String(), "all 2"):]
			want, shown := []string{`"lag_seconds":null`, `"events_processed_total":null`, `"unconfirmed_events":null`}, "not known"
			if tt.known {
				want, shown = []string{`"lag_seconds":3,`, `"events_processed_total":1500,`, `"unconfirmed_events":15,`}, "3s"
			}
			for _, part := range want {
				if !strings.Contains(string(data), part) {
					t.Errorf("got %s, want %s", data, part)
				}
			}
			if !strings.Contains(all, shown) {
				t.Errorf("got %q, want %q", all, shown)
			}
			if told := strings.Contains(all, "instance of b not reached: why"); told != (tt.second == nil) {
				t.Errorf("got %q, want why an instance was not reached", all)
			}
		})
	}
}
