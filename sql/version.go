package sqlfiles

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Version is what a database has of the objects of one file, all of which have one version.
type Version struct {
	File string
	Name string // as in "tables of walpost"

	Made  int // in the database; 0 before versions were noted
	Known int // what the file makes

	Init string // how walpost init brings them to that version
}

// Older says that what is in the database is not what this program makes yet.
func (v Version) Older() bool { return v.Made < v.Known }

// String tells both versions.
func (v Version) String() string {
	return fmt.Sprintf("%s: version %d, and this walpost makes version %d", v.Name, v.Made, v.Known)
}

// known has the versions that the files make, each of which the file says itself.
var known = []Version{
	{File: Checkpoint, Name: "tables of walpost", Known: 1, Init: "run walpost init"},
	{File: Partitions, Name: "functions for partitions", Known: 1, Init: "run walpost init"},
	{File: Emit, Name: "function walpost.emit", Known: 1, Init: "run walpost init with messages.prefix"},
}

// Versions returns those of the objects that are there. It needs no right: the versions are
// in comments.
func Versions(ctx context.Context, conn *pgx.Conn) ([]Version, error) {
	const query = `
		SELECT file, coalesce(substring(comment FROM 'version ([0-9]+)$')::int, 0) FROM (
			SELECT $1, obj_description(oid, 'pg_class') FROM pg_class
			WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'walpost') AND relname = 'checkpoint' AND relkind = 'r'
			UNION ALL
			SELECT CASE proname WHEN 'emit' THEN $3 ELSE $2 END, obj_description(oid, 'pg_proc') FROM pg_proc
			WHERE pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'walpost') AND proname IN ('drop_partition', 'emit')
		) AS noted (file, comment)`
	made := map[string]int{}
	rows, err := conn.Query(ctx, query, Checkpoint, Partitions, Emit)
	if err == nil {
		var file string
		var version int
		_, err = pgx.ForEachRow(rows, []any{&file, &version}, func() error { made[file] = version; return nil })
	}
	if err != nil {
		return nil, fmt.Errorf("read versions of walpost's objects: %w", err)
	}
	var all []Version
	for _, v := range known {
		var found bool
		if v.Made, found = made[v.File]; found {
			all = append(all, v)
		}
	}
	return all, nil
}
