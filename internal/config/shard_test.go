package config

import (
	"strings"
	"testing"
)

func TestShard(t *testing.T) {
	for text, want := range map[string]Shard{"0/1": {0, 1}, "2/3": {2, 3}, "63/64": {63, 64}} {
		if got, err := ParseShard(text); err != nil || got != want || got.String() != text {
			t.Errorf("ParseShard(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "3", "3/3", "-1/3", "0/0", "0/65", "a/3", "1/3/", "1 /3", "1/100"} {
		if got, err := ParseShard(text); err == nil {
			t.Errorf("ParseShard(%q) = %v, want an error", text, got)
		}
	}
}

// A shard has a publication, a slot and a dead-letter topic of its own.
func TestShardNames(t *testing.T) {
	c, err := Load(nil, []string{"WALPOST_POSTGRES_SHARD=1/3", "WALPOST_POSTGRES_SLOT=orders"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Postgres.Slot != "orders_1_of_3" || c.Postgres.Publication != "walpost_1_of_3" || c.DeadLetters() != "orders_1_of_3.dead-letters" {
		t.Errorf("slot %q, publication %q, dead letters %q", c.Postgres.Slot, c.Postgres.Publication, c.DeadLetters())
	}
	_, err = Load(nil, []string{"WALPOST_POSTGRES_SHARD=1/3", "WALPOST_POSTGRES_SLOT=" + strings.Repeat("s", 60)})
	if err == nil || !strings.Contains(err.Error(), "longer than 63 bytes") {
		t.Errorf("Load() of a long slot = %v", err)
	}
}
