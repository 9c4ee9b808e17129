package sqlfiles

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Object is something that a step makes unless it exists.
type Object struct {
	Kind string // table, publication, function, role or slot
	Name string // as SQL has it, quoted where that needs it

	exists string // a query with one parameter
	key    string // the parameter
}

// Exists reports whether there is such an object, whatever it looks like.
func (o Object) Exists(ctx context.Context, conn *pgx.Conn) (bool, error) {
	var found bool
	if err := conn.QueryRow(ctx, o.exists, o.key).Scan(&found); err != nil {
		return false, fmt.Errorf("look for %s %s: %w", o.Kind, o.Name, err)
	}
	return found, nil
}

// objects returns what the file makes.
func (n Names) objects(file string) []Object {
	switch file {
	case Outbox:
		tables := n.Tables
		if len(tables) == 0 {
			tables = []pgx.Identifier{{"public", "outbox"}}
		}
		var all []Object
		for _, t := range tables {
			all = append(all, tableObject(t))
		}
		return all
	case Publication:
		return []Object{named("publication", n.Publication, `SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1)`)}
	case Checkpoint:
		return []Object{
			tableObject(pgx.Identifier{"walpost", "checkpoint"}), tableObject(pgx.Identifier{"walpost", "checkpoint_log"}),
			tableObject(pgx.Identifier{"walpost", "replay"}), tableObject(pgx.Identifier{"walpost", "snapshot"}),
		}
	case Partitions:
		var all []Object
		for _, name := range []string{"make_partitions(regclass)", "detach_partition(regclass,regclass)", "drop_partition(regclass,regclass)"} {
			plain, _, _ := strings.Cut(name, "(")
			all = append(all, Object{"function", "walpost." + plain, `SELECT to_regprocedure($1) IS NOT NULL`, "walpost." + name})
		}
		return all
	case Role:
		return []Object{named("role", n.Role, `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)`)}
	case Emit:
		return []Object{{"function", "walpost.emit", `SELECT to_regprocedure($1) IS NOT NULL`, "walpost.emit(text,text,text,jsonb)"}}
	case Slot:
		return []Object{named("slot", n.Slot, `SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)`)}
	}
	return nil
}

func tableObject(t pgx.Identifier) Object {
	parts := make([]string, len(t))
	for i, part := range t {
		parts[i] = quote(part)
	}
	return Object{"table", strings.Join(parts, "."), `SELECT to_regclass($1) IS NOT NULL`, t.Sanitize()}
}

func named(kind, name, exists string) Object {
	name = cmp.Or(name, "walpost")
	return Object{kind, quote(name), exists, name}
}

var plainName = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

// quote quotes a name for people to read: a plain one is left as it is, even if
// it is a keyword.
func quote(name string) string {
	if plainName.MatchString(name) {
		return name
	}
	return pgx.Identifier{name}.Sanitize()
}
