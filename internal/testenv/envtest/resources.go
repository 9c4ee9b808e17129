package envtest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/internal/testenv"
)

// Database is an empty database of one test.
type Database struct {
	Name      string
	DSN       string // the superuser's, over TCP
	SocketDSN string // over a Unix socket; "" if there is none
}

// cleanupTimeout bounds what is done after a test.
const cleanupTimeout = 30 * time.Second

// NewDatabase makes a database on the shared Postgres. It is dropped after the
// test, with its slots.
func NewDatabase(t testing.TB) Database {
	t.Helper()
	return NewDatabaseOn(t, Postgres(t))
}

// NewDatabaseOn makes a database on s, which must run when the test ends.
func NewDatabaseOn(t testing.TB, s *testenv.PostgresServer) Database {
	t.Helper()
	db := Database{Name: Name(t)}
	var err, serr error
	db.DSN, err = testenv.DatabaseDSN(s.DSN(), db.Name)
	if s.SocketDSN() != "" {
		db.SocketDSN, serr = testenv.DatabaseDSN(s.SocketDSN(), db.Name)
	}
	if err := errors.Join(err, serr); err != nil {
		t.Fatal(err)
	}
	if err := onServer(t.Context(), s, "CREATE DATABASE "+pgx.Identifier{db.Name}.Sanitize()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		if err := dropDatabase(ctx, s, db.Name); err != nil {
			t.Errorf("drop database %s: %v", db.Name, err)
		}
	})
	return db
}

// Connect returns a connection, closed after the test.
func (db Database) Connect(t testing.TB) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), db.DSN)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// Exec runs statements, without parameters, on a connection of its own.
func (db Database) Exec(t testing.TB, sql string) {
	t.Helper()
	if err := execute(t.Context(), db.DSN, sql); err != nil {
		t.Fatal(err)
	}
}

func onServer(ctx context.Context, s *testenv.PostgresServer, sql string, args ...any) error {
	return execute(ctx, s.DSN(), sql, args...)
}

func execute(ctx context.Context, dsn, sql string, args ...any) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql, args...)
	return errors.Join(err, conn.Close(ctx))
}

// dropDatabase ends what uses the database, slots first: they are in its way.
func dropDatabase(ctx context.Context, s *testenv.PostgresServer, name string) error {
	const (
		endSenders = `SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots WHERE database = $1 AND active`
		dropSlots  = `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1`
	)
	return errors.Join(
		onServer(ctx, s, endSenders, name),
		onServer(ctx, s, dropSlots, name),
		onServer(ctx, s, "DROP DATABASE "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"))
}

// CreateTopic makes a topic with a name of its own, deleted after the test, and
// returns its name. Configs are the topic's settings, or nil.
func CreateTopic(t testing.TB, addrs []string, partitions int32, configs map[string]*string) string {
	t.Helper()
	admin := Admin(t, addrs)
	name := Name(t)
	if _, err := admin.CreateTopic(t.Context(), partitions, 1, configs, name); err != nil {
		t.Fatalf("create topic %s: %v", name, err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		if err := deleteTopic(ctx, addrs, name); err != nil {
			t.Logf("delete topic %s: %v", name, err) // the broker may have been stopped by the test
		}
	})
	return name
}

// Admin returns a client for administration, closed after the test.
func Admin(t testing.TB, addrs []string) *kadm.Client {
	t.Helper()
	client := Client(t, addrs)
	return kadm.NewClient(client)
}

// Client returns a client, closed after the test.
func Client(t testing.TB, addrs []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addrs...)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func deleteTopic(ctx context.Context, addrs []string, name string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.RetryTimeout(5*time.Second))
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	defer client.Close()
	_, err = kadm.NewClient(client).DeleteTopic(ctx, name)
	return err
}
