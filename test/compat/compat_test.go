// Package compat compares what walpost publishes with what Debezium's outbox event router
// does, byte by byte: live with Debezium itself, and always with its recorded answers.
package compat

import (
	"cmp"
	"context"
	"crypto/md5" //nolint:gosec // makes ids; nobody attacks
	"fmt"
	"os"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// modeVariable says what is compared live: "all", "some", or nothing without it.
const modeVariable = "WALPOST_TEST_COMPAT"

const (
	partitions = 5
	limit      = 3 * time.Minute
)

var binDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "walpost-compat-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binDir = dir
	code := envtest.Main(m)
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// table is a setup in the database.
type table struct {
	setup

	name string // also of publication and slots
}

func (t table) id(r row) uuid.UUID { return md5.Sum([]byte(t.setup.name + "/" + r.name)) }

// What walpost publishes is what Debezium does, but for the accepted differences.
func TestCompat(t *testing.T) {
	mode := os.Getenv(modeVariable)
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{Settings: map[string]string{"max_replication_slots": "200", "max_wal_senders": "200", "max_connections": "300"}})
	conn, err := pgx.Connect(t.Context(), pg.DSN())
	must(t, err)
	defer conn.Close(context.Background()) //nolint:errcheck // the test is over

	var all, live []table
	for i, s := range setups() {
		tab := table{s, fmt.Sprintf("o%d", i)}
		if mode == "all" || mode == "some" && s.subset {
			live = append(live, tab)
		}
		all = append(all, tab)
	}
	for _, tab := range all {
		tab.create(t, conn)
	}
	var judged map[uuid.UUID][]answer
	if len(live) > 0 {
		judged = debezium(t, conn, live, func() { insert(t, conn, all) })
	} else {
		insert(t, conn, all)
	}
	ours := walposts(t, pg.DSN(), all)
	recorded := readRecorded(t)
	if os.Getenv("WALPOST_TEST_UPDATE") == "1" && mode == "all" {
		recorded = record(t, all, judged, ours)
	}
	r := report{differs: map[string]int{}}
	for _, tab := range all {
		r.compare(t, tab, recorded, judged, ours)
	}
	r.print(t)
}

func (tab table) create(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	exec(t, conn, `DO $$ BEGIN CREATE TYPE mood AS ENUM ('sad', 'happy day'); EXCEPTION WHEN duplicate_object THEN NULL; END $$`)
	exec(t, conn, fmt.Sprintf("CREATE TABLE %[1]s (id uuid PRIMARY KEY, %[2]s); CREATE PUBLICATION %[1]s FOR TABLE %[1]s WITH (publish = '%[3]s')",
		tab.name, tab.columns, cmp.Or(tab.publish, "insert")))
	exec(t, conn, fmt.Sprintf("SELECT pg_create_logical_replication_slot('w_%s', 'pgoutput')", tab.name))
}

func insert(t *testing.T, conn *pgx.Conn, tables []table) {
	t.Helper()
	for _, tab := range tables {
		for i, r := range tab.rows {
			if r.sql != "" {
				exec(t, conn, strings.NewReplacer("$table", tab.name, "$id", "'"+tab.id(r).String()+"'").Replace(r.sql))
				continue
			}
			values := map[string]string{"id": "'" + tab.id(r).String() + "'"}
			for column, v := range defaults {
				values[column] = strings.ReplaceAll(v, "$1", fmt.Sprintf("'%d'", i))
			}
			for column, v := range r.values {
				values[column] = v
			}
			var columns, expressions []string
			for column := range values {
				columns = append(columns, column)
			}
			sort.Strings(columns)
			for _, column := range columns {
				expressions = append(expressions, values[column])
			}
			exec(t, conn, fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s)", tab.name, strings.Join(columns, ", "), strings.Join(expressions, ", ")))
		}
	}
}

// debezium runs a connector for each table, calls write, and returns what is published.
func debezium(t *testing.T, conn *pgx.Conn, tables []table, write func()) map[uuid.UUID][]answer {
	t.Helper()
	broker := envtest.NewKafka(t, testenv.KafkaConfig{Properties: map[string]string{
		"auto.create.topics.enable": "true", "num.partitions": fmt.Sprint(partitions),
	}})
	var connectors []map[string]string
	for _, tab := range tables {
		exec(t, conn, fmt.Sprintf("SELECT pg_create_logical_replication_slot('d_%s', 'pgoutput')", tab.name))
		connectors = append(connectors, testenv.DebeziumOutbox(conn.Config(), merged(map[string]string{
			"name": tab.name, "topic.prefix": tab.name, "table.include.list": "public." + tab.name, "publication.name": tab.name, "slot.name": "d_" + tab.name,
			"extended.headers.enabled": "false", "statistics.metrics.enabled": "false", "poll.interval.ms": "50",
		}, tab.debezium)))
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	s, err := testenv.StartConnect(ctx, testenv.ConnectConfig{Brokers: broker.Addrs(), Heap: "1g", Connector: connectors[0], Others: connectors[1:]})
	must(t, err)
	defer s.Close() //nolint:errcheck // the test is over
	must(t, s.Wait(ctx))
	write()
	got := collect(t, broker.Addrs(), tables, func(row) bool { return true })
	for _, tab := range tables {
		if state, err := s.StatusOf(ctx, tab.name); err != nil {
			t.Errorf("%s: the connector is %s: %v", tab.setup.name, state, err)
		}
	}
	return got
}

// walposts runs walpost for each table, and returns what is published.
func walposts(t *testing.T, dsn string, tables []table) map[uuid.UUID][]answer {
	t.Helper()
	path, err := harness.Binary(binDir)
	must(t, err)
	brokers := envtest.FakeKafka(t).ListenAddrs()
	var running []*harness.Process
	for _, tab := range tables {
		env := []string{
			"WALPOST_POSTGRES_DSN=" + dsn, "WALPOST_POSTGRES_SLOT=w_" + tab.name, "WALPOST_POSTGRES_PUBLICATION=" + tab.name,
			"WALPOST_OUTBOX_TABLE=public." + tab.name, "WALPOST_KAFKA_BROKERS=" + strings.Join(brokers, ","), "WALPOST_KAFKA_CREATE_TOPICS=true",
			fmt.Sprintf("WALPOST_KAFKA_PARTITIONS=%d", partitions), "WALPOST_ADMIN_LISTEN=", "WALPOST_CHECKPOINT_STORE=slot", "WALPOST_OUTBOX_SCHEMA_NAME=" + tab.name,
		}
		for _, kv := range tab.walpost {
			env = append(env, "WALPOST_"+kv)
		}
		running = append(running, harness.Start(t, path, env, "run"))
	}
	got := collect(t, brokers, tables, func(r row) bool { return !r.unpublished })
	for _, p := range running {
		p.Signal(syscall.SIGTERM)
		if code, err := p.Wait(t.Context()); err != nil || code != 0 {
			t.Errorf("walpost: exit %d, %v", code, err)
		}
	}
	return got
}

func exec(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
