package purge

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
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

// writeBytes is how much of the rows is written to a file at once. No more of them is in memory
// than that and one row.
const writeBytes = 64 << 10

// write appends rows of one column, a table's as JSON, and returns how many when they are on
// disk. If it fails the file is what it was. It closes the rows.
func (a *archive) write(t pgx.Identifier, rows pgx.Rows) (n int64, err error) {
	defer rows.Close()
	if !rows.Next() {
		return 0, rows.Err()
	}
	f, err := a.file(strings.Join(t, "."))
	if err != nil {
		return 0, err
	}
	begin, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	w := bufio.NewWriterSize(f, writeBytes)
	for more := true; more && err == nil; more = rows.Next() {
		_, err = w.Write(rows.RawValues()[0]) // which is text, as it is sent
		err = errors.Join(err, w.WriteByte('\n'))
		n++
	}
	if err = errors.Join(err, rows.Err()); err == nil {
		err = errors.Join(w.Flush(), f.Sync())
	}
	if err != nil {
		return 0, errors.Join(err, f.Truncate(begin))
	}
	a.rows += n
	return n, nil
}

// file returns the one of a table. A new one is there after a crash too.
func (a *archive) file(table string) (*os.File, error) {
	if f := a.files[table]; f != nil {
		return f, nil
	}
	path := filepath.Join(a.dir, fmt.Sprintf("%s-%s.ndjson", strings.ReplaceAll(table, string(filepath.Separator), "_"), a.stamp))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	a.files[table] = f
	return f, syncDir(a.dir)
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
