package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/internal/inspect"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
)

// bundleTimeout bounds each part of a bundle.
const bundleTimeout = 10 * time.Second

// part is a file of a bundle. What cannot be had is told in its place.
type part struct {
	name string
	make func(ctx context.Context) ([]byte, error)
}

// writeBundle writes what somebody needs who helps from afar, as a tar.gz without secrets:
// connection strings and passwords are masked, and no payload or key is ever logged.
func writeBundle(ctx context.Context, cfg config.Config, checks []inspect.Check, path string) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return cdc.Refuse("give a file that does not exist yet, in a folder that does", "write bundle: %w", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	zipped := gzip.NewWriter(f)
	archive := tar.NewWriter(zipped)
	dir := strings.TrimSuffix(strings.TrimSuffix(filepath.Base(path), ".gz"), ".tar")
	for _, p := range bundleParts(cfg, checks) {
		pctx, cancel := context.WithTimeout(ctx, bundleTimeout)
		data, perr := p.make(pctx)
		cancel()
		if perr != nil {
			data = []byte("not to be had: " + cdc.OneLine(perr) + "\n")
		}
		head := &tar.Header{Name: dir + "/" + p.name, Mode: 0o600, Size: int64(len(data)), ModTime: time.Now()}
		if err := archive.WriteHeader(head); err != nil {
			return fmt.Errorf("write bundle: %w", err)
		}
		if _, err := archive.Write(data); err != nil {
			return fmt.Errorf("write bundle: %w", err)
		}
	}
	return errors.Join(archive.Close(), zipped.Close())
}

func bundleParts(cfg config.Config, checks []inspect.Check) []part {
	return []part{
		{"version.json", func(context.Context) ([]byte, error) { return indented(readBuildInfo()) }},
		{"doctor.json", func(context.Context) ([]byte, error) { return indented(checks) }},
		{"config.yaml", func(context.Context) ([]byte, error) { return cfg.Effective().YAML() }},
		{"status.json", func(ctx context.Context) ([]byte, error) {
			s, err := lookAtStatus(ctx, cfg, nil)
			if err != nil {
				return nil, err
			}
			return indented(s)
		}},
		{"postgres.json", func(ctx context.Context) ([]byte, error) { return aboutPostgres(ctx, cfg) }},
		{"instance/status.json", func(ctx context.Context) ([]byte, error) { return askInstance(ctx, cfg, "status") }},
		{"instance/readyz.txt", func(ctx context.Context) ([]byte, error) { return askInstance(ctx, cfg, "readyz") }},
		{"instance/metrics.txt", func(ctx context.Context) ([]byte, error) { return askInstance(ctx, cfg, "metrics") }},
	}
}

func indented(v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	return append(data, '\n'), err
}

// aboutPostgres is what the server says of its settings that matter here, its slots, its
// standbys and what is open. It has no text of any statement.
func aboutPostgres(ctx context.Context, cfg config.Config) ([]byte, error) {
	conn, err := connect(ctx, cfg.Postgres.ConnString())
	if err != nil {
		return nil, err
	}
	defer closeConn(ctx, conn)
	const query = `WITH RECURSIVE leaf AS (SELECT oid FROM pg_class WHERE relkind IN ('r', 'p') AND oid >= 16384),` + pgsource.Published + `
		SELECT jsonb_pretty(jsonb_build_object(
		'version', version(), 'now', clock_timestamp(), 'started', pg_postmaster_start_time(),
		'settings', (SELECT jsonb_object_agg(name, setting || coalesce(' ' || unit, '')) FROM pg_settings WHERE name ~
			'^(wal_|max_(wal|slot|repl|worker|conn)|logical_|synchron|idle_|tcp_|statement_timeout|lock_timeout|hot_standby|track_commit|autovacuum$|shared_buffers|temp_file)'),
		'slots', (SELECT jsonb_agg(to_jsonb(s)) FROM pg_replication_slots s),
		'senders', (SELECT jsonb_agg(to_jsonb(r)) FROM pg_stat_replication r),
		'sessions', (SELECT jsonb_agg(jsonb_build_object('pid', pid, 'role', usename, 'application', application_name, 'type', backend_type, 'state', state,
			'wait', wait_event_type || '/' || wait_event, 'xact_start', xact_start, 'backend_xid', backend_xid::text, 'backend_xmin', backend_xmin::text)) FROM pg_stat_activity WHERE datname = current_database()),
		'publication_tables', (SELECT jsonb_agg(DISTINCT jsonb_build_object('table', via::regclass::text, 'columns', columns, 'row_filter', filter IS NOT NULL)) FROM published)))`
	var text string
	if err := conn.QueryRow(ctx, query, cfg.Postgres.Publication).Scan(&text); err != nil {
		return nil, err
	}
	return []byte(text + "\n"), nil
}

// askInstance returns what the instance at admin.listen answers.
func askInstance(ctx context.Context, cfg config.Config, path string) ([]byte, error) {
	if cfg.Admin.Listen == "" {
		return nil, errors.New("admin.listen is empty")
	}
	data, err := inspect.Fetch(ctx, cfg.Admin.Listen, path)
	if len(data) > 0 { // also of /readyz with why it is not
		return data, nil
	}
	return nil, err
}
