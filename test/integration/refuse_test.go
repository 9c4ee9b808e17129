package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// refusal is a start that must be refused, with one clear message and a hint.
type refusal struct {
	name    string
	prepare func(t *testing.T, s *stage)
	args    []string
	code    int
	message string // part of the message
	hint    string // part of the hint
}

var refusals = []refusal{
	{
		name: "NoPublication", code: 1, message: `publication "walpost" does not exist`, hint: "walpost init",
		prepare: func(t *testing.T, s *stage) { s.db.Exec(t, "DROP PUBLICATION walpost") },
	},
	{
		name: "PublicationWithoutTable", code: 1, message: `publication "walpost" does not contain the outbox table "public"."outbox"`, hint: "ADD TABLE",
		prepare: func(t *testing.T, s *stage) { s.db.Exec(t, "ALTER PUBLICATION walpost DROP TABLE outbox") },
	},
	{
		name: "PublicationWithoutInserts", code: 1, message: "does not publish inserts", hint: "publish = 'insert'",
		prepare: func(t *testing.T, s *stage) { s.db.Exec(t, "ALTER PUBLICATION walpost SET (publish = 'delete')") },
	},
	{
		name: "NoTable", code: 1, message: `outbox table "public"."nothing" does not exist`, hint: "outbox.table",
		args: []string{"--outbox.table", "public.nothing"},
	},
	{
		name: "SlotOfAnotherPlugin", code: 1, message: "belongs to something else", hint: "postgres.slot",
		prepare: func(t *testing.T, s *stage) {
			s.db.Exec(t, fmt.Sprintf("SELECT pg_drop_replication_slot('%[1]s'); SELECT pg_create_logical_replication_slot('%[1]s', 'test_decoding')", s.slot))
		},
	},
	{
		name: "SlotOfAnotherDatabase", code: 1, message: "belongs to database", hint: "postgres.slot",
		prepare: func(t *testing.T, s *stage) {
			s.db.Exec(t, fmt.Sprintf("SELECT pg_drop_replication_slot('%s')", s.slot))
			envtest.NewDatabase(t).Exec(t, fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s', 'pgoutput')", s.slot))
		},
	},
	{
		name: "NoSlotAndNotToCreate", code: 1, message: "does not exist", hint: "run walpost init, or set postgres.create_slot",
		args:    []string{"--postgres.create_slot=false"},
		prepare: func(t *testing.T, s *stage) { s.dropSlot(t) },
	},
	{
		name: "NoSlotWithSlotStore", code: 1, message: "does not exist", hint: "walpost init",
		args:    []string{"--checkpoint.store", "slot"},
		prepare: func(t *testing.T, s *stage) { s.dropSlot(t) },
	},
	{
		name: "NoSlotBesideShards", code: 1, message: "publish each event once more", hint: "set postgres.shard to i/2, with i from 0 to 1",
		prepare: func(t *testing.T, s *stage) {
			s.dropSlot(t)
			s.db.Exec(t, fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s_1_of_2', 'pgoutput')", s.slot))
		},
	},
	{
		name: "SlotVanishedUnderCheckpoint", code: 1, message: "does not exist, but its checkpoint stands at", hint: "walpost replay --source table",
		prepare: func(t *testing.T, s *stage) { s.save(t, "system_id", "pg_current_wal_lsn()"); s.dropSlot(t) },
	},
	{
		name: "OtherCluster", code: 1, message: "is of another cluster", hint: "postgres.dsn",
		prepare: func(t *testing.T, s *stage) { s.save(t, "system_id + 1", "pg_current_wal_lsn()") },
	},
	{
		name: "BeyondEndOfWAL", code: 1, message: "is beyond the end of WAL", hint: "another server's",
		prepare: func(t *testing.T, s *stage) { s.save(t, "system_id", "pg_current_wal_lsn() + 1000000000") },
	},
	{
		name: "SlotAheadOfCheckpoint", code: 1, message: "beyond the saved position", hint: "something else",
		prepare: func(t *testing.T, s *stage) { s.save(t, "system_id", "'0/200000'") },
	},
	{
		name: "SlotInUse", code: 1, message: "is in use by the server process", hint: "postgres.wait_for_slot",
		args: []string{"--postgres.wait_for_slot=false"}, prepare: func(t *testing.T, s *stage) { s.occupySlot(t) },
	},
	{
		name: "RoleMayNotReplicate", code: 1, message: "connect to Postgres", hint: "REPLICATION",
		prepare: func(t *testing.T, s *stage) {
			role := envtest.Name(t)
			s.db.Exec(t, fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD 'x'; GRANT ALL ON SCHEMA walpost TO %[1]s; GRANT ALL ON walpost.checkpoint TO %[1]s", role))
			t.Cleanup(func() { s.dropRole(role) })
			s.set("POSTGRES_DSN=" + s.dsnWith(t, role, "x"))
		},
	},
	{
		name: "WrongPassword", code: 1, message: "password authentication failed", hint: "postgres.dsn",
		prepare: func(t *testing.T, s *stage) { s.set("POSTGRES_DSN=" + s.dsnWith(t, "postgres", "wrong")) },
	},
	{name: "UnknownFlag", code: 2, message: "--postgres.slott", hint: "postgres.slot", args: []string{"--postgres.slott", "x"}},
	{name: "BadValue", code: 2, message: "checkpoint.interval", hint: "", args: []string{"--checkpoint.interval", "soon"}},
	{name: "BadRegex", code: 2, message: "outbox.route_regex", hint: "", args: []string{"--outbox.route_regex", "(?=x)"}},
	{name: "UnknownPlacement", code: 2, message: "outbox.place", hint: "", args: []string{"--outbox.place", "type:footer"}},
}

// Each wrong start gives one message with a hint and its exit code, and changes
// nothing in the database.
func TestRefusedStarts(t *testing.T) {
	brokers := envtest.Kafka(t).Addrs()
	for _, r := range refusals {
		t.Run(r.name, func(t *testing.T) {
			s := newStage(t, envtest.NewDatabase(t), brokers)
			if r.prepare != nil {
				r.prepare(t, s)
			}
			before := s.state(t)
			p := s.start(append([]string{"run", "--log.level", "error"}, r.args...)...)
			if code := s.wait(p, 30*time.Second); code != r.code {
				t.Errorf("exit %d, want %d", code, r.code)
			}
			checkMessage(t, p.Log(), r.message, r.hint)
			if after := s.state(t); after != before {
				t.Errorf("the database was changed:\nbefore %s\nafter  %s", before, after)
			}
		})
	}
}

func checkMessage(t *testing.T, log, message, hint string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(log), "\n")
	if !strings.HasPrefix(lines[0], "walpost: ") || !strings.Contains(lines[0], message) {
		t.Errorf("got %q, want walpost: ... %s", lines[0], message)
	}
	if len(lines) > 2 {
		t.Errorf("got %d lines, want a message and a hint:\n%s", len(lines), log)
	}
	if hint != "" && (len(lines) < 2 || !strings.HasPrefix(lines[1], "walpost: hint: ") || !strings.Contains(lines[1], hint)) {
		t.Errorf("got %q, want a hint with %q", lines[1:], hint)
	}
}

// state is all that a start could change, but for what the server itself moves.
func (s *stage) state(t *testing.T) string {
	t.Helper()
	var state string
	const query = `SELECT jsonb_build_object(
		'slots', (SELECT jsonb_agg(s.slot_name || ' ' || s.plugin || ' ' || coalesce(s.confirmed_flush_lsn::text, '') ORDER BY slot_name)
			FROM pg_replication_slots s WHERE database = current_database()),
		'checkpoint', (SELECT jsonb_agg(c) FROM walpost.checkpoint c),
		'publications', (SELECT jsonb_agg(p ORDER BY pubname) FROM pg_publication p),
		'tables', (SELECT jsonb_agg(relname ORDER BY relname) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace))::text`
	if err := s.conn.QueryRow(t.Context(), query).Scan(&state); err != nil {
		t.Fatal(err)
	}
	return state
}

func (s *stage) dropRole(role string) {
	conn, err := pgx.Connect(context.Background(), s.db.DSN)
	if err == nil {
		_, err = conn.Exec(context.Background(), "DROP OWNED BY "+role+"; DROP ROLE "+role)
		_ = conn.Close(context.Background())
	}
	if err != nil {
		s.t.Logf("drop role %s: %v", role, err) // the test may have stopped the server
	}
}

func (s *stage) dropSlot(t *testing.T) {
	t.Helper()
	s.db.Exec(t, fmt.Sprintf("SELECT pg_drop_replication_slot('%s')", s.slot))
}

// save writes a checkpoint as an earlier walpost would have.
func (s *stage) save(t *testing.T, systemID, lsn string) {
	t.Helper()
	s.db.Exec(t, fmt.Sprintf(`INSERT INTO walpost.checkpoint (slot, epoch, owner, acquired_at, system_id, timeline, lsn, saved_at)
		SELECT '%s', 1, 'test', now(), (%s)::numeric, 1, %s, now() FROM (SELECT system_identifier::numeric AS system_id FROM pg_control_system()) c`, s.slot, systemID, lsn))
}

func (s *stage) dsnWith(t testing.TB, user, password string) string {
	t.Helper()
	cfg, err := pgx.ParseConfig(s.db.DSN)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("host=%s port=%d dbname=%s user=%s password=%s sslmode=disable", cfg.Host, cfg.Port, cfg.Database, user, password)
}

// occupySlot streams from the slot as another program would.
func (s *stage) occupySlot(t *testing.T) {
	t.Helper()
	harness.Occupy(t, s.db.DSN, s.slot, "walpost")
	harness.Eventually(t, 10*time.Second, "slot active", func() bool {
		var active bool
		err := s.conn.QueryRow(t.Context(), "SELECT active FROM pg_replication_slots WHERE slot_name = $1", s.slot).Scan(&active)
		return err == nil && active
	})
}

// A lost slot and a server that cannot do logical replication need servers of
// their own.
func TestRefusedByServer(t *testing.T) {
	t.Run("WALLevel", func(t *testing.T) {
		pg := envtest.NewPostgres(t, testenv.PostgresConfig{Settings: map[string]string{"wal_level": "replica"}})
		s := &stage{t: t, env: []string{"WALPOST_POSTGRES_DSN=" + pg.DSN(), "WALPOST_ADMIN_LISTEN="}}
		p := s.start("run", "--log.level", "error")
		if code := s.wait(p, 30*time.Second); code != 1 {
			t.Errorf("exit %d, want 1", code)
		}
		checkMessage(t, p.Log(), `wal_level is "replica"`, "wal_level = logical")
	})
	t.Run("LostSlot", func(t *testing.T) {
		pg := envtest.NewPostgres(t, testenv.PostgresConfig{Settings: map[string]string{"max_slot_wal_keep_size": "32MB", "min_wal_size": "32MB", "max_wal_size": "64MB"}})
		s := newStage(t, envtest.NewDatabaseOn(t, pg), envtest.Kafka(t).Addrs())
		p := s.start("run")
		s.fill(harness.OneRow, 1, 10)
		s.arrived(10, 30*time.Second)
		s.stop(p)
		for range 10 {
			s.db.Exec(t, "CREATE TABLE IF NOT EXISTS junk (t text); INSERT INTO junk SELECT repeat('x', 1000) FROM generate_series(1, 20000); SELECT pg_switch_wal(); CHECKPOINT")
		}
		p = s.start("run", "--log.level", "error")
		if code := s.wait(p, 30*time.Second); code != 1 {
			t.Errorf("exit %d, want 1\n%s", code, p.Log())
		}
		checkMessage(t, p.Log(), "is lost", "drop the slot")
	})
}

// Several problems are listed in one go.
func TestAllProblemsAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "walpost.yaml")
	if err := os.WriteFile(file, []byte("kafka:\n  compresion: lz4\n  linger: -1s\npostgres:\n  slot: Bad Slot\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, env: []string{"WALPOST_LOG_LEVEL=loud"}}
	p := s.start("run", "--config", file, "--delivery.drain_timeout", "never")
	if code := s.wait(p, 30*time.Second); code != 2 {
		t.Errorf("exit %d, want 2", code)
	}
	for _, want := range []string{"kafka.compresion", "did you mean", "kafka.linger", "postgres.slot", "WALPOST_LOG_LEVEL", "--delivery.drain_timeout"} {
		if !strings.Contains(p.Log(), want) {
			t.Errorf("nothing about %s in:\n%s", want, p.Log())
		}
	}
}

// What may pass by itself is no reason to stop: walpost says what it waits for,
// is not ready, confirms nothing, and goes on when it has passed.
func TestWaitsForServers(t *testing.T) {
	t.Run("MissingTopic", func(t *testing.T) {
		brokers := envtest.Kafka(t).Addrs()
		s := newStage(t, envtest.NewDatabase(t), brokers)
		topic := envtest.Name(t)
		s.set("OUTBOX_TOPIC=" + topic)
		p := s.start("run")
		s.fill(harness.OneRow, 1, 100)
		s.notReady(p, topic)
		if _, err := envtest.Admin(t, brokers).CreateTopic(t.Context(), partitions, 1, nil, topic); err != nil {
			t.Fatal(err)
		}
		s.topic = topic
		s.arrived(100, time.Minute)
		s.isReady(30 * time.Second)
		s.stop(p)
		s.check()
	})
	t.Run("UnreachableKafka", func(t *testing.T) {
		s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
		good := s.env
		s.set("KAFKA_BROKERS=" + harness.FreeAddr(t))
		p := s.start("run")
		s.fill(harness.OneRow, 1, 100)
		s.notReady(p, "")
		p.Signal(os.Interrupt)
		s.wait(p, 30*time.Second)
		s.env = good
		p = s.start("run")
		s.arrived(100, time.Minute)
		s.stop(p)
		s.check()
	})
	t.Run("UnreachablePostgres", func(t *testing.T) {
		s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
		s.set("POSTGRES_DSN=postgres://postgres@" + harness.FreeAddr(t) + "/postgres")
		p := s.start("run")
		harness.Eventually(t, 30*time.Second, "a warning", func() bool { return strings.Contains(p.Log(), "level=WARN") })
		if code, text := s.ready(); code != 503 {
			t.Errorf("/readyz = %d %s, want 503", code, text)
		}
		s.stop(p)
	})
}

// notReady waits until /readyz says 503 and the log names what is missing, and
// wants nothing confirmed.
func (s *stage) notReady(p *harness.Process, what string) {
	s.t.Helper()
	before := s.confirmed()
	harness.Eventually(s.t, 30*time.Second, "/readyz 503 and a warning", func() bool {
		code, _ := s.ready()
		return code == 503 && strings.Contains(p.Log(), "level=WARN") && strings.Contains(p.Log(), what)
	})
	time.Sleep(2 * time.Second) // longer than the checkpoint interval
	if after := s.confirmed(); after != before {
		s.t.Errorf("confirmed moved from %s to %s", before, after)
	}
}

func (s *stage) confirmed() string {
	s.t.Helper()
	var lsn string
	err := s.conn.QueryRow(s.t.Context(), "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1", s.slot).Scan(&lsn)
	if err != nil && !errors.Is(err, context.Canceled) {
		s.t.Fatal(err)
	}
	return lsn
}

// checkpoint show prints what was saved, as text and as JSON.
func TestCheckpointShow(t *testing.T) {
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	p := s.start("checkpoint", "show")
	if code := s.wait(p, 10*time.Second); code != 1 {
		t.Errorf("exit %d without a checkpoint, want 1", code)
	}
	run := s.start("run")
	s.fill(harness.OneRow, 1, 10)
	s.arrived(10, 30*time.Second)
	s.stop(run)
	lsn, _, _ := strings.Cut(s.walpost("checkpoint", "show"), "\n")
	if got := s.confirmed(); got != lsn {
		t.Errorf("checkpoint %s, confirmed %s: want them equal after a clean stop", lsn, got)
	}
	var shown struct{ LSN, Slot string }
	if err := json.Unmarshal([]byte(s.walpost("checkpoint", "show", "-o", "json")), &shown); err != nil || shown.LSN != lsn || shown.Slot != s.slot {
		t.Errorf("JSON %+v, %v: want LSN %s", shown, err, lsn)
	}
}
