package config_test

import (
	"os"
	"strings"
	"testing"

	"github.com/walpost/walpost/internal/config"
)

const (
	tableBegin = "<!-- configuration: made by config.MarkdownTable, checked by a test -->\n"
	tableEnd   = "<!-- end of configuration -->"
)

// The README's table is what the program takes. WALPOST_TEST_UPDATE=1 writes it.
func TestReadme(t *testing.T) {
	const path = "../../README.md"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), tableBegin)
	table, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatal("README.md has no place for the configuration table")
	}
	want := config.MarkdownTable()
	if os.Getenv("WALPOST_TEST_UPDATE") == "1" {
		text := before + tableBegin + want + tableEnd + after
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if table != want {
		t.Error("the configuration table in README.md is not what config.MarkdownTable makes: run the test with WALPOST_TEST_UPDATE=1")
	}
}
