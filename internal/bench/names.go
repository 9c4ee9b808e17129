package bench

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Prefix begins the name of everything that a bench makes.
const Prefix = "walpost_bench_"

// Names are what a bench has made on the servers: the text is the name of its schema,
// publication, slot and topic.
type Names string

// Schema is the schema that holds the table.
func (n Names) Schema() string { return string(n) }

// Table is the name of the table in the schema.
func (n Names) Table() string { return "outbox" }

// Publication is the publication of the table.
func (n Names) Publication() string { return string(n) }

// Slot is the replication slot.
func (n Names) Slot() string { return string(n) }

// Topic is where the events go.
func (n Names) Topic() string { return string(n) }

// Progress is the topic that keeps the position with exactly-once.
func (n Names) Progress() string { return string(n) + progressSuffix }

const progressSuffix = ".progress"

func (n Names) qualified() string { return pgx.Identifier{n.Schema(), n.Table()}.Sanitize() }

// family begins the names of all benches of one database, so that what was left in a
// Kafka cluster is not taken for that of another database, where a bench may be running.
type family string

// familyOf makes it of the cluster's identity and the database's.
func familyOf(ctx context.Context, conn *pgx.Conn) (family, error) {
	const query = `SELECT system_identifier::text || '/' || oid FROM pg_control_system(), pg_database WHERE datname = current_database()`
	var identity string
	if err := conn.QueryRow(ctx, query).Scan(&identity); err != nil {
		return "", fmt.Errorf("identify the database: %w", err)
	}
	sum := sha256.Sum256([]byte(identity))
	return family(Prefix + hex.EncodeToString(sum[:3]) + "_"), nil
}

// member returns names that no other run has.
func (f family) member() Names { return Names(string(f) + strings.ToLower(rand.Text()[:6])) }

var memberName = regexp.MustCompile(`^` + Prefix + `[0-9a-f]{6}_[a-z0-9]{6}$`)

// members returns those of names that are of the family, once each.
func (f family) members(names []string) []Names {
	var found []Names
	for _, name := range names {
		name = strings.TrimSuffix(name, progressSuffix)
		if strings.HasPrefix(name, string(f)) && memberName.MatchString(name) {
			found = append(found, Names(name))
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// own takes the lock that shows that a run is not over, and reports whether it is free.
// It is held until the session ends.
func own(ctx context.Context, conn *pgx.Conn, name string) (bool, error) {
	var free bool
	err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock(hashtextextended($1, 0))", name).Scan(&free)
	if err != nil {
		return false, fmt.Errorf("lock %s: %w", name, err)
	}
	return free, nil
}

// abandoned returns what runs that were killed have left, and holds their locks.
func abandoned(ctx context.Context, conn *pgx.Conn, cl *kgo.Client, f family) ([]Names, error) {
	const query = `
		SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database() AND NOT temporary
		UNION SELECT pubname FROM pg_publication
		UNION SELECT nspname FROM pg_namespace`
	rows, err := conn.Query(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("look for leftovers: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for leftovers: %w", err)
	}
	slots, err := checkpointed(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("look for leftovers: %w", err)
	}
	names = append(names, slots...)
	kctx, cancel := context.WithTimeout(ctx, kafkaTimeout)
	defer cancel()
	topics, err := kadm.NewClient(cl).ListTopics(kctx)
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	var left []Names
	for _, n := range f.members(append(names, topics.Names()...)) {
		free, err := own(ctx, conn, string(n))
		if err != nil {
			return nil, err
		}
		if free {
			left = append(left, n)
		}
	}
	return left, nil
}

// checkpointed returns the slots that have a row in walpost's table, as far as the role
// may see them.
func checkpointed(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	const readable = `
		SELECT count(*) > 0 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = 'walpost' AND c.relname = 'checkpoint' AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')`
	var ok bool
	if err := conn.QueryRow(ctx, readable).Scan(&ok); err != nil || !ok {
		return nil, err
	}
	rows, err := conn.Query(ctx, "SELECT slot FROM walpost.checkpoint")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func list(names []Names) string {
	texts := make([]string, len(names))
	for i, n := range names {
		texts[i] = string(n)
	}
	return strings.Join(texts, ", ")
}

// hangUp ends a session in which nothing is left to be done.
func hangUp(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}
