// Package sqlfiles holds the SQL that makes walpost's objects in a database: for
// a DBA to read and apply with psql, and for walpost init to apply from the
// binary. Each file can be applied again and again; what exists is left as it is.
package sqlfiles

import (
	"embed"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Files holds the files as they are, with the few psql commands that let a name
// be given on the command line.
//
//go:embed *.sql
var Files embed.FS

// The files, in the order in which they are applied.
const (
	Outbox      = "001_outbox.sql"
	Publication = "002_publication.sql"
	Checkpoint  = "003_checkpoint.sql"
	Partitions  = "004_partitions.sql"
	Role        = "005_role.sql"
	Slot        = "006_slot.sql"
	Emit        = "007_emit.sql"
)

// Names are the names of the objects. They are raw: quoting is Render's affair.
type Names struct {
	// Tables are the outbox tables, each of a schema and a name. Defaults to
	// public.outbox.
	Tables []pgx.Identifier

	// Publication, Role, Slot and Prefix, that of messages, default to walpost.
	Publication, Role, Slot, Prefix string

	// Shard is i/K, for a publication of that share of the keys; Key is their column,
	// which defaults to aggregateid. Empty means all of them.
	Shard, Key string

	// Partitioned is the period of the tables' partitions, day or week. Empty means that
	// tables are made without.
	Partitioned string

	// NoFailover makes the slot an ordinary one where Postgres has failover
	// slots (17 and later).
	NoFailover bool
}

// Step is one file, ready to be applied. Its SQL holds several statements and no
// BEGIN or COMMIT: sent as one simple query it is one transaction. Its SET
// commands leave settings of the name walpost.* in the session.
type Step struct {
	File    string   `json:"file"`  // its name in Files
	Title   string   `json:"title"` // its first line, as in "The outbox table"
	SQL     string   `json:"sql"`
	Objects []Object `json:"-"` // what it makes
}

// Render returns the named files in the order given, or all of them, with the
// names filled in and psql's commands taken out. The error lists every name that
// Postgres would not take as it is.
func Render(names Names, files ...string) ([]Step, error) {
	if err := names.validate(); err != nil {
		return nil, err
	}
	if len(files) == 0 {
		files = []string{Outbox, Publication, Checkpoint, Partitions, Role, Slot, Emit}
	}
	values, steps := names.values(), make([]Step, 0, len(files))
	for _, file := range files {
		text, err := Files.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("render SQL: %w", err)
		}
		step, err := render(file, string(text), values)
		if err != nil {
			return nil, err
		}
		step.Objects = names.objects(file)
		steps = append(steps, step)
	}
	return steps, nil
}

// maxName is the longest name in bytes. Postgres cuts a longer one short, and
// two names could become one.
const maxName = 63

// partitionSuffix is how much longer the name of a partition is, as in outbox_p20261127.
const partitionSuffix = len("_p20261127")

var slotName = regexp.MustCompile(`^[a-z0-9_]*$`)

func (n Names) validate() error { return errors.Join(n.Problems()...) }

// Problems returns what Postgres would not take as it is, each by itself, and nil for what it
// would.
func (n Names) Problems() []error {
	errs := []error{
		checkName("publication", n.Publication),
		checkName("role", n.Role),
		checkName("slot", n.Slot),
	}
	if !slotName.MatchString(n.Slot) {
		errs = append(errs, fmt.Errorf("slot %q: only a-z, 0-9 and _ make a slot's name", n.Slot))
	}
	for _, table := range n.Tables {
		errs = append(errs, checkTable(table))
		if n.Partitioned != "" && len(table) == 2 && len(table[1]) > maxName-partitionSuffix {
			errs = append(errs, fmt.Errorf("table %s: name is longer than %d bytes, which leaves no room for those of its partitions", table.Sanitize(), maxName-partitionSuffix))
		}
	}
	if n.Partitioned != "" && n.Partitioned != "day" && n.Partitioned != "week" {
		errs = append(errs, fmt.Errorf("partitioned %q: want day or week", n.Partitioned))
	}
	return errs
}

func checkTable(table pgx.Identifier) error {
	what := "table " + table.Sanitize()
	if len(table) != 2 || table[0] == "" || table[1] == "" {
		return fmt.Errorf("%s: want a schema and a name", what)
	}
	return errors.Join(checkName(what+": schema", table[0]), checkName(what+": name", table[1]))
}

func checkName(what, name string) error {
	switch {
	case len(name) > maxName:
		return fmt.Errorf("%s %q is longer than %d bytes", what, name, maxName)
	case strings.ContainsRune(name, 0):
		return fmt.Errorf("%s %q has a zero byte in it", what, name)
	}
	return nil
}

// values returns what the files' variables stand for. A variable without a value
// keeps the default that its file gives.
func (n Names) values() map[string]string {
	return map[string]string{
		"outbox_tables": array(n.Tables),
		"publication":   n.Publication,
		"role":          n.Role,
		"slot":          n.Slot,
		"prefix":        n.Prefix,
		"partitioned":   n.Partitioned,
		"shard":         n.Shard,
		"key":           n.Key,
		"failover":      strconv.FormatBool(!n.NoFailover),
	}
}

// array writes tables as the text of a Postgres array, or "" for none.
// https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO
func array(tables []pgx.Identifier) string {
	if len(tables) == 0 {
		return ""
	}
	elements := make([]string, len(tables))
	for i, table := range tables {
		elements[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(table.Sanitize()) + `"`
	}
	return "{" + strings.Join(elements, ",") + "}"
}
