package config

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]Bytes{
		"0": 0, "1048576": 1 << 20, "24MiB": 24 << 20, "24 mib": 24 << 20, "8MB": 8e6, " 3kb ": 3000, "2KiB": 2048,
		"1GiB": 1 << 30, "1GB": 1e9, "1TiB": 1 << 40, "1TB": 1e12, "17B": 17, "-1": -1, "9223372036854775807": math.MaxInt64,
	} {
		t.Run(text, func(t *testing.T) {
			if got, err := ParseBytes(text); err != nil || got != want {
				t.Errorf("got %d, %v, want %d", got, err, want)
			}
		})
	}
}

func TestParseBytesRefuses(t *testing.T) {
	for _, text := range []string{"", "MiB", "1.5MiB", "24M", "1e6", "0x10", "1 2", "24XB", "9223372036854775808", "8388608TiB"} {
		t.Run(text, func(t *testing.T) {
			if got, err := ParseBytes(text); err == nil {
				t.Errorf("got %d, want an error", got)
			}
		})
	}
}

func TestBytesString(t *testing.T) {
	for b, want := range map[Bytes]string{
		0: "0", 1: "1", 24 << 20: "24MiB", 8e6: "8MB", 1500: "1500", 1 << 40: "1TiB", 2e12: "2TB", 512: "512", 1024: "1KiB",
	} {
		if got := b.String(); got != want {
			t.Errorf("%d: got %s, want %s", int64(b), got, want)
		}
	}
}

func TestBytesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Bytes(rapid.Int64().Draw(t, "bytes"))
		if got, err := ParseBytes(b.String()); err != nil || got != b {
			t.Errorf("%s: got %d, %v, want %d", b, got, err, int64(b))
		}
	})
}
