package purge

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/parquet-go/parquet-go"
)

// What is in the JSON lines is in the Parquet file, in the types that Parquet has.
func TestParquet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "public.outbox-1.ndjson")
	lines := `{"id": "0193", "at": "2026-11-27T03:00:00.123456+01:00", "n": 9007199254740993, "ok": true, "x": 1.5, "price": 12.30, "payload": {"a": "ü"}, "gone": null, "tags": ["a"]}
{"id": "0194", "at": "infinity", "n": null, "ok": false, "x": "NaN", "price": "NaN", "payload": null, "gone": "no"}
`
	if err := os.WriteFile(path, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	columns := []column{
		{"at", "timestamp with time zone"},
		{"gone", "text"},
		{"id", "uuid"},
		{"n", "bigint"},
		{"ok", "boolean"},
		{"payload", "jsonb"},
		{"price", "numeric"},
		{"tags", "text[]"},
		{"x", "double precision"},
	}
	if _, err := toParquet(path, columns); err != nil {
		t.Fatal(err)
	}
	type row struct {
		At      *int64   `parquet:"at,timestamp(microsecond)"`
		Gone    *string  `parquet:"gone"`
		ID      *string  `parquet:"id"`
		N       *int64   `parquet:"n"`
		OK      *bool    `parquet:"ok"`
		Payload *string  `parquet:"payload"`
		Price   *string  `parquet:"price"`
		Tags    *string  `parquet:"tags"`
		X       *float64 `parquet:"x"`
	}
	rows, err := parquet.ReadFile[row](filepath.Join(filepath.Dir(path), "public.outbox-1.parquet"))
	if err != nil || len(rows) != 2 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	a, b := rows[0], rows[1]
	if *a.At != 1795744800123456 || a.Gone != nil || *a.ID != "0193" || *a.N != 9007199254740993 || !*a.OK || *a.Payload != `{"a": "ü"}` || *a.Price != "12.30" || *a.Tags != `["a"]` || *a.X != 1.5 {
		t.Errorf("got %+v", a)
	}
	if *b.At != math.MaxInt64 || *b.Gone != "no" || b.N != nil || *b.OK || b.Payload != nil || *b.Price != "NaN" || b.Tags != nil || !math.IsNaN(*b.X) {
		t.Errorf("got %+v", b)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(left) != 1 {
		t.Errorf("left: %v, want the Parquet file alone", left)
	}
}

// Lines that cannot be written as Parquet stay.
func TestParquetLeavesWhatItCannotWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t-1.ndjson")
	if err := os.WriteFile(path, []byte(`{"at": "0044-03-15T00:00:00+00:00 BC"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := toParquet(path, []column{{"at", "timestamp with time zone"}}); err == nil {
		t.Error("a time before Christ was written")
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(left) != 1 || left[0] != path {
		t.Errorf("left: %v, want the lines", left)
	}
}
