package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
	sqlfiles "github.com/walpost/walpost/sql"
)

func TestMain(m *testing.M) { os.Exit(envtest.Main(m)) }

// walpost runs a command line and returns what it printed and its exit code.
func walpost(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, nil, &out, &errs)
	return out.String(), errs.String(), code
}

// dropRole drops a role after the test.
func dropRole(t *testing.T, db envtest.Database, role string) {
	t.Helper()
	quoted := pgx.Identifier{role}.Sanitize()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, db.DSN)
		if err != nil {
			t.Errorf("drop role %s: %v", quoted, err)
			return
		}
		defer conn.Close(ctx)
		for _, sql := range []string{"DROP OWNED BY ", "DROP ROLE "} {
			if _, err := conn.Exec(ctx, sql+quoted); err != nil {
				t.Errorf("drop role %s: %v", quoted, err)
			}
		}
	})
}

// TestInitStates says of each object whether it was created or was there.
func TestInitStates(t *testing.T) {
	db, name := envtest.NewDatabase(t), envtest.Name(t)
	dropRole(t, db, name)
	db.Exec(t, "CREATE TABLE public.audit (id uuid PRIMARY KEY)")
	args := []string{"init", "--dsn", db.DSN, "--slot", name, "--role", name, "--outbox.table", "public.audit,public.outbox"}
	want := func(others string) string {
		return fmt.Sprintf("exists   table public.audit\n%[1]s  table public.outbox\n%[1]s  publication walpost\n%[1]s  table walpost.checkpoint\n%[1]s  table walpost.checkpoint_log\n%[1]s  table walpost.replay\n%[1]s  table walpost.snapshot\n%[1]s  role %[2]s\n%[1]s  slot %[2]s\n", others, name)
	}
	for _, state := range []string{"created", "exists "} {
		stdout, stderr, code := walpost(t, args...)
		if code != exitOK || stderr != "" || stdout != want(state) {
			t.Errorf("exit %d\n%s%swant\n%s", code, stdout, stderr, want(state))
		}
	}
	stdout, _, _ := walpost(t, append(args, "--output", "json")...)
	var results []initResult
	if err := json.Unmarshal([]byte(stdout), &results); err != nil || len(results) != 9 {
		t.Fatalf("%v: %s", err, stdout)
	}
	if got, want := results[8], (initResult{File: sqlfiles.Slot, Kind: "slot", Name: name, State: stateExists}); got != want {
		t.Errorf("the slot is reported as %+v, want %+v", got, want)
	}
}

// TestInitPartitioned makes a table with partitions once, and refuses one that is there and
// has none.
func TestInitPartitioned(t *testing.T) {
	db, name := envtest.NewDatabase(t), envtest.Name(t)
	args := []string{"init", "--dsn", db.DSN, "--slot", name, "--partitioned", "week"}
	for _, state := range []string{"created", "exists "} {
		stdout, stderr, code := walpost(t, args...)
		for _, object := range []string{"table public.outbox", "function walpost.make_partitions", "function walpost.detach_partition", "function walpost.drop_partition"} {
			if !strings.Contains(stdout, state+"  "+object+"\n") {
				t.Errorf("exit %d, no %s %s in\n%s%s", code, state, object, stdout, stderr)
			}
		}
	}
	if stdout, stderr, code := walpost(t, args[:len(args)-2]...); code != exitOK {
		t.Errorf("without --partitioned: exit %d\n%s%s", code, stdout, stderr)
	}
	db.Exec(t, "CREATE TABLE public.plain (id uuid PRIMARY KEY, created_at timestamptz)")
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--partitioned", "day"}, exitFailed, "table outbox exists, and is not partitioned by day for walpost"},
		{[]string{"--partitioned", "day", "--outbox.table", "public.plain"}, exitFailed, "walpost: hint: leave --partitioned out"},
		{[]string{"--partitioned", "month"}, exitInvalid, `partitioned "month": want day or week`},
		{[]string{"--partitioned", "day", "--no-table"}, exitInvalid, "give one of the two"},
		{[]string{"--partitioned", "day", "--outbox.table", "public." + strings.Repeat("x", 54)}, exitInvalid, "leaves no room"},
	} {
		if _, stderr, code := walpost(t, append([]string{"init", "--dsn", db.DSN, "--slot", name}, tt.args...)...); code != tt.code || !strings.Contains(stderr, tt.want) {
			t.Errorf("%q: exit %d, want %d\n%s want %q", tt.args, code, tt.code, stderr, tt.want)
		}
	}
}

// TestInitUpdates brings tables and functions of an earlier version to the present one, those of
// --partitioned without it too, and leaves those of a later one alone.
func TestInitUpdates(t *testing.T) {
	db, name := envtest.NewDatabase(t), envtest.Name(t)
	args := []string{"init", "--dsn", db.DSN, "--slot", name}
	if _, stderr, code := walpost(t, append(args, "--partitioned", "day", "--messages.prefix", "app")...); code != exitOK {
		t.Fatal(stderr)
	}
	objects := map[string]string{"table walpost.checkpoint": "TABLE walpost.checkpoint", "function walpost.drop_partition": "FUNCTION walpost.drop_partition"}
	for _, object := range objects {
		db.Exec(t, "COMMENT ON "+object+" IS NULL")
	}
	for _, state := range []string{"updated", "exists "} {
		stdout, stderr, code := walpost(t, append(args, "--checkpoint.store", "slot")...)
		if code != exitOK || (state == "updated") != strings.Contains(stdout, "updated  ") {
			t.Errorf("exit %d, want %s\n%s%s", code, state, stdout, stderr)
		}
		for object := range objects {
			if state == "updated" && !strings.Contains(stdout, "updated  "+object+"\n") {
				t.Errorf("no updated %s in\n%s", object, stdout)
			}
		}
	}
	db.Exec(t, "COMMENT ON TABLE walpost.checkpoint IS 'tables of version 99'")
	_, stderr, code := walpost(t, args...)
	if code != exitFailed || !strings.Contains(stderr, "are of version 99, and this walpost knows version 1 at most") || !strings.Contains(stderr, "walpost: hint: run walpost init of the walpost that has made them") {
		t.Errorf("exit %d\n%s", code, stderr)
	}
}

// TestInitFails gives exit codes, hints, and what had been done by then.
func TestInitFails(t *testing.T) {
	db := envtest.NewDatabase(t)
	for _, test := range []struct {
		name   string
		args   []string
		code   int
		stdout string
		hint   string
	}{
		{"NoTable", []string{"--dsn", db.DSN, "--no-table"}, exitFailed, "failed   publication walpost\n", "create the outbox table first"},
		{"NoSchema", []string{"--dsn", db.DSN, "--outbox.table", "nowhere.outbox"}, exitFailed, "failed   table nowhere.outbox\n", "create the schema"},
		{"NoDatabase", []string{"--dsn", strings.Replace(db.DSN, db.Name, db.Name+"_missing", 1)}, exitFailed, "", "name the outbox's database"},
		{"NoServer", []string{"--dsn", "host=127.0.0.1 port=1"}, exitFailed, "", "check postgres.dsn"},
		{"LongRole", []string{"--dsn", db.DSN, "--role", strings.Repeat("r", 64)}, exitInvalid, "", "see walpost init --help"},
	} {
		t.Run(test.name, func(t *testing.T) {
			stdout, stderr, code := walpost(t, append([]string{"init"}, test.args...)...)
			if code != test.code || stdout != test.stdout || !strings.Contains(stderr, "walpost: hint: "+test.hint) {
				t.Errorf("exit %d, want %d\nstdout %q, want %q\nstderr %s want hint %q", code, test.code, stdout, test.stdout, stderr, test.hint)
			}
		})
	}
	stdout, _, code := walpost(t, "init", "--dsn", "host=127.0.0.1 port=1", "-o", "json")
	if code != exitFailed || strings.TrimSpace(stdout) != "[]" {
		t.Errorf("exit %d, stdout %q, want %d and an empty list", code, stdout, exitFailed)
	}
}

// TestInitPrint applies what is printed with psql, twice, with names that need
// every kind of quoting.
func TestInitPrint(t *testing.T) {
	psql, err := exec.LookPath("psql")
	if err != nil {
		t.Skip(err)
	}
	db, slot := envtest.NewDatabase(t), envtest.Name(t)
	role := `Ro"le's \` + slot
	dropRole(t, db, role)
	db.Exec(t, `CREATE SCHEMA "Sch""ema"`)
	args := []string{"init", "--slot", slot, "--role", role, "--publication", `Pub "x"`, "--outbox.table", `"Sch""ema"."we""ird.Näme"`}
	printed, stderr, code := walpost(t, append(args, "--print")...)
	if code != exitOK {
		t.Fatalf("exit %d\n%s", code, stderr)
	}
	file := filepath.Join(t.TempDir(), "outbox.sql")
	if err := os.WriteFile(file, []byte(printed), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		cmd := exec.CommandContext(t.Context(), psql, "-X", "-v", "ON_ERROR_STOP=1", "-d", db.DSN, "-f", file)
		if out, err := cmd.CombinedOutput(); err != nil || bytes.Contains(out, []byte("ERROR")) {
			t.Fatalf("psql: %v\n%s", err, out)
		}
	}
	stdout, stderr, code := walpost(t, append(args, "--dsn", db.DSN)...)
	want := "exists   table \"Sch\"\"ema\".\"we\"\"ird.Näme\"\nexists   publication \"Pub \"\"x\"\"\"\nexists   table walpost.checkpoint\nexists   table walpost.checkpoint_log\nexists   table walpost.replay\nexists   table walpost.snapshot\n" +
		"exists   role \"Ro\"\"le's \\" + slot + "\"\nexists   slot " + slot + "\n"
	if code != exitOK || stdout != want {
		t.Errorf("exit %d\n%s%swant\n%s", code, stdout, stderr, want)
	}
}

// slotStep returns the step that makes a slot, and a session to apply it in.
func slotStep(t *testing.T, dsn, slot string) (*pgx.Conn, []sqlfiles.Step) {
	t.Helper()
	steps, err := sqlfiles.Render(sqlfiles.Names{Slot: slot}, sqlfiles.Slot)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeConn(context.WithoutCancel(t.Context()), conn) })
	return conn, steps
}

// TestInitBlocked has a transaction in the way of the slot: it is named after the
// limit, and nothing goes on in the server.
func TestInitBlocked(t *testing.T) {
	db, slot := envtest.NewDatabase(t), envtest.Name(t)
	other := db.Connect(t)
	if _, err := other.Exec(t.Context(), "BEGIN; SELECT txid_current()"); err != nil {
		t.Fatal(err)
	}
	conn, steps := slotStep(t, db.DSN, slot)
	start := time.Now()
	results, err := applySteps(t.Context(), conn, steps, 500*time.Millisecond)
	if got := time.Since(start); got > 10*time.Second {
		t.Errorf("took %s, want about the limit", got)
	}
	var refused *cdc.RefusedError
	if !errors.As(err, &refused) || refused.Hint == "" || !strings.Contains(err.Error(), fmt.Sprint("pid ", other.PgConn().PID())) {
		t.Errorf("applySteps() = %v, want the blocker's pid and a hint", err)
	}
	if len(results) != 1 || results[0].State != stateFailed {
		t.Errorf("results %+v, want one that failed", results)
	}
	if _, err := other.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if found, err := steps[0].Objects[0].Exists(t.Context(), other); err != nil || found {
		t.Errorf("the slot exists: %t, %v; want it given up", found, err)
	}
}

// TestInitConnectTimeout bounds the wait for a server that does not answer.
func TestInitConnectTimeout(t *testing.T) {
	for dsn, want := range map[string]time.Duration{
		"host=db": connectTimeout, "host=db connect_timeout=3": 3 * time.Second, "host=db connect_timeout=60": connectTimeout,
	} {
		cfg, err := connConfig(dsn)
		if err != nil || cfg.ConnectTimeout != want {
			t.Errorf("%s: connect timeout %s, %v, want %s", dsn, cfg.ConnectTimeout, err, want)
		}
	}
}

// Neither statements nor the slot's wait are cut off by limits of the role: both have bounds here.
func TestInitBeyondLimits(t *testing.T) {
	db, slot := envtest.NewDatabase(t), envtest.Name(t)
	writer := db.Connect(t)
	db.Exec(t, "ALTER DATABASE "+db.Name+" SET statement_timeout = '100ms'")
	db.Exec(t, "ALTER DATABASE "+db.Name+" SET lock_timeout = '100ms'")
	conn, steps := slotStep(t, db.DSN, slot)
	if _, err := conn.Exec(t.Context(), "SELECT pg_sleep(0.3)"); err != nil {
		t.Error(err)
	}
	if _, err := writer.Exec(t.Context(), "BEGIN; SELECT txid_current()"); err != nil {
		t.Fatal(err)
	}
	_, err := applySteps(t.Context(), conn, steps, 500*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint("pid ", writer.PgConn().PID())) {
		t.Errorf("applySteps() = %v, want it to wait for its own limit, and the blocker's pid", err)
	}
}
