package main

import (
	"path/filepath"
	"testing"
)

// Each kind of run replaces its own figures in a file, and leaves those of the other.
func TestReportKeepsTheOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "figures.json")
	write := func(growth bool, name string) {
		t.Helper()
		r := report{Machine: name, Backlogs: []backlogReport{{workload: workload{Name: name}}}}
		if err := r.write(growth, path, ""); err != nil {
			t.Fatal(err)
		}
	}
	write(true, "growth")
	write(false, "first")
	write(false, "second")
	write(true, "shards")
	got, err := readReport(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Backlogs) != 1 || got.Backlogs[0].Name != "second" || got.Growth == nil || got.Growth.Backlogs[0].Name != "shards" {
		t.Errorf("got %+v", got)
	}
}
