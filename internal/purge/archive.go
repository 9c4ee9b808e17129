package purge

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// archive writes rows to files of JSON lines, one file for each table and run. For Parquet
// each is written anew when all is in it: a Parquet file can be read only once it is whole,
// and rows are to be on disk before their deletion is committed.
type archive struct {
	dir     string
	bucket  *bucket // where files go once they are whole; nil for nowhere
	parquet bool
	stamp   string
	files   map[string]*os.File
	columns map[string][]column // with parquet
	rows    int64
}

// newArchive returns one that writes nothing if there is no folder for it.
func newArchive(ctx context.Context, cfg Config) (*archive, error) {
	a := &archive{
		dir: cfg.ArchiveDir, parquet: cfg.Parquet, stamp: time.Now().UTC().Format("20060102T150405.000000"),
		files: map[string]*os.File{}, columns: map[string][]column{},
	}
	if a.dir == "" || cfg.Dry {
		return a, nil
	}
	if info, err := os.Stat(a.dir); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("archive to %s: %w", a.dir, errors.Join(err, errors.New("want a folder")))
	}
	if cfg.Bucket == "" {
		return a, nil
	}
	var err error
	if a.bucket, err = openBucket(cfg.Bucket); err == nil {
		err = a.bucket.check(ctx)
	}
	return a, err
}

// open prepares for rows of a table, which must be there still.
func (a *archive) open(ctx context.Context, conn *pgx.Conn, t pgx.Identifier) (err error) {
	name := strings.Join(t, ".")
	if a.parquet && a.columns[name] == nil {
		a.columns[name], err = columnsOf(ctx, conn, t)
	}
	return err
}

// write appends the rows, and returns when they are on disk.
func (a *archive) write(t pgx.Identifier, lines []string) error {
	name := strings.Join(t, ".")
	f := a.files[name]
	if f == nil {
		var err error
		path := filepath.Join(a.dir, fmt.Sprintf("%s-%s.ndjson", strings.ReplaceAll(name, string(filepath.Separator), "_"), a.stamp))
		if f, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err != nil {
			return err
		}
		a.files[name] = f
		if err := syncDir(a.dir); err != nil {
			return err
		}
	}
	w := bufio.NewWriter(f)
	for _, l := range lines {
		if _, err := w.WriteString(l + "\n"); err != nil {
			return err
		}
	}
	if err := errors.Join(w.Flush(), f.Sync()); err != nil {
		return err
	}
	a.rows += int64(len(lines))
	return nil
}

// syncDir makes the entry of a new file durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// close ends the files, and moves them to the bucket if there is one. What cannot be written
// as Parquet is left as JSON lines, and whole.
func (a *archive) close(ctx context.Context) error {
	var (
		errs  []error
		whole []string
	)
	for name, f := range a.files {
		errs = append(errs, f.Close())
		file := f.Name()
		if a.parquet {
			target, err := toParquet(file, a.columns[name])
			if err != nil {
				errs = append(errs, fmt.Errorf("write %s as Parquet, which stays as it is: %w", file, err))
			} else {
				file = target
			}
		}
		whole = append(whole, file)
	}
	if a.parquet && len(a.files) > 0 {
		errs = append(errs, syncDir(a.dir))
	}
	if a.bucket == nil {
		return errors.Join(errs...)
	}
	left, err := strays(a.dir, whole)
	return errors.Join(append(errs, err, a.bucket.move(ctx, append(whole, left...)))...)
}
