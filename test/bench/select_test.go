package main

import (
	"strings"
	"testing"
)

// A word that selects nothing is refused before anything is started, with the names there are.
func TestSelection(t *testing.T) {
	for _, tt := range []struct {
		name string
		settings
		want []string // nil if it is one
	}{
		{"all", settings{rates: "1000,ramp"}, nil},
		{"parts of names", settings{workloads: "one-row,8 KB", contenders: "walpost", rates: "ramp-pull"}, nil},
		{"latency only", settings{workloads: "none", rates: "1000"}, nil},
		{"backlogs only", settings{workloads: "one-row"}, nil},
		{"of growth", settings{workloads: "shards,topics", growth: true}, nil},
		{"no such backlog", settings{workloads: "one-row,nosuch", rates: "1000"}, []string{`-workloads: "nosuch" selects nothing`, "8 KB payloads", "none"}},
		{"no such growth", settings{workloads: "one-row", growth: true}, []string{`-workloads: "one-row" selects nothing`, "brokers away", "1000 topics"}},
		{"no such contender", settings{contenders: "walrus,relay", rates: "1000"}, []string{`-contenders: "walrus" selects nothing`, relayName, walpostExact}},
		{"an empty word", settings{contenders: "walpost,", rates: "1000"}, []string{`-contenders: "" selects nothing`}},
		{"no such rate", settings{rates: "1000,soon"}, []string{`-rates: "soon" is no rate`, "ramp-pull"}},
		{"no rate at all", settings{rates: "-5"}, []string{`-rates: "-5" is no rate`}},
		{"nothing", settings{workloads: "none"}, []string{"nothing is selected"}},
		{"all wrong", settings{workloads: "x1", contenders: "x2", rates: "x3"}, []string{`-workloads: "x1"`, `-contenders: "x2"`, `-rates: "x3"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := bench{settings: tt.settings}
			err := b.judge()
			if (err == nil) != (tt.want == nil) {
				t.Fatalf("got %v", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q", err, want)
				}
			}
		})
	}
}
