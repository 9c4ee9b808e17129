package purge

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// archive writes rows to files of JSON lines, one file for each table and run.
type archive struct {
	dir   string
	stamp string
	files map[string]*os.File
	rows  int64
}

// newArchive returns one that writes nothing if there is no folder for it.
func newArchive(cfg Config) (*archive, error) {
	a := &archive{dir: cfg.ArchiveDir, stamp: time.Now().UTC().Format("20060102T150405.000000"), files: map[string]*os.File{}}
	if a.dir == "" || cfg.Dry {
		return a, nil
	}
	if info, err := os.Stat(a.dir); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("archive to %s: %w", a.dir, errors.Join(err, errors.New("want a folder")))
	}
	return a, nil
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

func (a *archive) close() error {
	var errs []error
	for _, f := range a.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
