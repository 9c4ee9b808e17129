package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/walpost/walpost/internal/purge"
)

// A purge that finds nothing says so.
func TestPurgeOfNothing(t *testing.T) {
	for _, r := range []purge.Result{{Dry: true}, {}} {
		var text bytes.Buffer
		if err := printPurge(&text, r); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(text.String(), "nothing to delete or drop\n") {
			t.Errorf("got %q", text.String())
		}
	}
}
