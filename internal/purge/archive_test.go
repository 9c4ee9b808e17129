package purge

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/testenv/envtest"
)

func TestMain(m *testing.M) { os.Exit(envtest.Main(m)) }

// What a query has sent before it failed is taken back from the file: the rows are still in
// the table.
func TestArchiveTakesBackWhatFailed(t *testing.T) {
	conn := envtest.NewDatabase(t).Connect(t)
	a, err := newArchive(t.Context(), Config{ArchiveDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	const long = 2000 // rows, of which many are written before the last
	write := func(last string) (int64, error) {
		rows, err := conn.Query(t.Context(), `SELECT CASE WHEN n < $1 THEN to_jsonb(repeat('x', 1000))::text ELSE `+last+` END FROM generate_series(1, $1::int) n`, long)
		if err != nil {
			t.Fatal(err)
		}
		return a.write(pgx.Identifier{"public", "t"}, rows)
	}
	if n, err := write("'{}'"); n != long || err != nil {
		t.Fatalf("%d rows, %v", n, err)
	}
	if n, err := write("(1 / (n - $1))::text"); n != 0 || err == nil {
		t.Errorf("%d rows, %v, want none and that of the query", n, err)
	}
	if n, err := write("'[]'"); n != long || err != nil {
		t.Errorf("%d rows, %v: the file cannot be gone on with", n, err)
	}
	if err := a.close(t.Context()); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(a.dir, "public.t-*.ndjson"))
	if len(files) != 1 {
		t.Fatalf("files %v, want one", files)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	if len(lines) != 2*long || a.rows != 2*long || lines[long-1] != "{}" || lines[2*long-1] != "[]" {
		t.Errorf("%d lines and %d rows, want %d", len(lines), a.rows, 2*long)
	}
	for i, l := range lines {
		if len(l) != 1002 && i%long != long-1 {
			t.Fatalf("line %d is of %d bytes", i, len(l))
		}
	}
}
