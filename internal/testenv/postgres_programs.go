package testenv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	embedded "github.com/fergusstrange/embedded-postgres"
)

// programDirs are the usual folders of Postgres' programs.
var programDirs = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/usr/libexec/postgresql*",
	"/usr/local/pgsql/bin",
	"/usr/local/opt/postgresql*/bin",
	"/opt/homebrew/opt/postgresql*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// findPostgres returns the folder of the newest installed Postgres of that
// major version, or of any for "".
func findPostgres(ctx context.Context, major string) (string, error) {
	var best string
	var newest release
	for _, dir := range installedPostgres() {
		found, err := programRelease(ctx, filepath.Join(dir, "postgres"))
		if err != nil || (major != "" && strconv.Itoa(found.major) != major) {
			continue
		}
		if found.compare(newest) > 0 {
			best, newest = dir, found
		}
	}
	if best == "" {
		return "", fmt.Errorf("%w: no programs of Postgres %s", ErrUnavailable, major)
	}
	return best, nil
}

// installedPostgres returns the folders that have what a server needs.
func installedPostgres() []string {
	var dirs []string
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	for _, pattern := range programDirs {
		found, _ := filepath.Glob(filepath.Join(pattern, "initdb")) // the patterns are well formed
		for _, initdb := range found {
			dirs = append(dirs, filepath.Dir(initdb))
		}
	}
	return dirs
}

// release is a version of Postgres, as in 15.18.
type release struct{ major, minor int }

func (r release) compare(other release) int {
	return cmp.Or(cmp.Compare(r.major, other.major), cmp.Compare(r.minor, other.minor))
}

// programRelease asks a postgres program for its version.
func programRelease(ctx context.Context, path string) (release, error) {
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return release{}, fmt.Errorf("run %s: %w", path, err)
	}
	return parseRelease(string(out))
}

// parseRelease reads the version from "postgres (PostgreSQL) 15.18 (Debian)".
// A version that is not released yet, as 19beta1, is an error.
func parseRelease(line string) (r release, err error) {
	if fields := strings.Fields(line); len(fields) > 2 {
		major, minor, _ := strings.Cut(fields[2], ".")
		r.major, err = strconv.Atoi(major)
		if err == nil {
			r.minor, err = strconv.Atoi(minor)
		}
		if err == nil {
			return r, nil
		}
	}
	return release{}, fmt.Errorf("read version of Postgres from %q", line)
}

// embeddedVersions are the versions that can be downloaded, by major version.
var embeddedVersions = map[string]embedded.PostgresVersion{
	"14": embedded.V14, "15": embedded.V15, "16": embedded.V16, "17": embedded.V17, "18": embedded.V18,
}

// newestEmbedded is the major version that is downloaded unless one is asked for.
const newestEmbedded = "18"

// embeddedPostgres returns the folder of the programs of a downloaded Postgres,
// which it keeps in the cache.
func embeddedPostgres(ctx context.Context, major string) (string, error) {
	if major == "" {
		major = newestEmbedded
	}
	version, ok := embeddedVersions[major]
	if !ok {
		return "", fmt.Errorf("%w: no Postgres %s to download", ErrUnavailable, major)
	}
	dir, err := cached(ctx, "postgres-"+string(version), func(_ context.Context, dir string) error {
		return download(version, dir)
	})
	return filepath.Join(dir, "bin"), err
}

// download fetches that Postgres and unpacks it into dir. It cannot be
// interrupted.
//
// It uses the library's Start for its first half only, since what follows
// cannot work as root. A data path that ends in a dot is one that os.RemoveAll
// always refuses, which ends Start before it runs any program. It makes the
// runtime path once everything is unpacked, and not earlier.
func download(version embedded.PostgresVersion, dir string) error {
	archive, unpacked := filepath.Join(dir, "archive"), filepath.Join(dir, "unpacked")
	err := embedded.NewDatabase(embedded.DefaultConfig().
		Version(version).
		Port(0). // always free
		Logger(io.Discard).
		CachePath(archive).
		BinariesPath(dir).
		RuntimePath(unpacked).
		DataPath(unpacked + "/.")).Start()
	if !isDir(unpacked) {
		return fmt.Errorf("download Postgres %s: %w", version, err)
	}
	return errors.Join(removeAll(archive, unpacked), openToAll(dir))
}
