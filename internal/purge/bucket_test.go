package purge

import (
	"bytes"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// store starts a store that speaks S3 with a bucket.
func store(t *testing.T, name string) *s3mem.Backend {
	t.Helper()
	backend := s3mem.New()
	server := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(server.Close)
	if err := backend.CreateBucket(name); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ENDPOINT_URL_S3", server.URL)
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_REGION", "us-east-1")
	return backend
}

func stored(t *testing.T, backend *s3mem.Backend, bucket, key string) string {
	t.Helper()
	o, err := backend.GetObject(bucket, key, nil)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	defer o.Contents.Close() //nolint:errcheck // it was only read
	var b bytes.Buffer
	if _, err := b.ReadFrom(o.Contents); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Whole files are moved, with those that an earlier run has left, and what others write is
// left alone.
func TestBucketMoves(t *testing.T) {
	backend, dir := store(t, "archive"), t.TempDir()
	write := func(name string, age time.Duration) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
		return path
	}
	own := write("own.ndjson", 0)
	write("old.parquet", 2*time.Hour)
	write("new.ndjson", 0)
	write("notes.txt", 2*time.Hour)
	b, err := openBucket("s3://archive/some/where")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.check(t.Context()); err != nil {
		t.Fatal(err)
	}
	left, err := strays(dir, []string{own})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.move(t.Context(), append(left, own)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"own.ndjson", "old.parquet"} {
		if got := stored(t, backend, "archive", "some/where/"+name); got != name {
			t.Errorf("%s holds %q", name, got)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("%v are left, %v, want what is new and what is none of these", entries, err)
	}
}

// A bucket that is not there is told of before anything is deleted, and a file that cannot
// be sent stays.
func TestBucketMissing(t *testing.T) {
	store(t, "archive")
	b, err := openBucket("s3://other")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.check(t.Context()); err == nil {
		t.Error("a missing bucket is taken")
	}
	path := filepath.Join(t.TempDir(), "rows.ndjson")
	if err := os.WriteFile(path, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.move(t.Context(), []string{path}); err == nil {
		t.Error("moved to a missing bucket")
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "archive", "https://archive", "s3://", "s3://user@archive", "s3://a?b=c"} {
		if _, err := openBucket(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
