package sqlfiles

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
)

// TestServers applies the files to an old Postgres and to the newest.
func TestServers(t *testing.T) {
	for _, version := range []string{"15", "18"} {
		t.Run(version, func(t *testing.T) {
			server := envtest.NewPostgres(t, testenv.PostgresConfig{Version: version})
			for name, test := range map[string]func(*testing.T, *testenv.PostgresServer){
				"Defaults":          testDefaults,
				"PsqlAgrees":        testPsqlAgrees,
				"LeavesAlone":       testLeavesAlone,
				"AllOrNothing":      testAllOrNothing,
				"RoleStreams":       testRoleStreams,
				"Shards":            testShards,
				"Periods":           testPeriods,
				"Partitions":        testPartitions,
				"PartitionsRefused": testPartitionsRefused,
				"PartitionsForeign": testPartitionsForeignSchema,
				"FunctionsForeign":  testFunctionsForeign,
				"Upgrades":          testUpgrades,
				"Replaces":          testReplacesFunctions,
				"CurrentNoRight":    testCurrentNeedsNoRight,
				"Newer":             testNewerRefused,
				"KeepsPrefix":       testEmitKeepsPrefix,
			} {
				t.Run(name, func(t *testing.T) { test(t, server) })
			}
		})
	}
}

// catalog describes all that the files make in a database.
const catalog = `
	WITH ours AS (
		SELECT c.oid, c.oid::regclass::text AS name, c.relkind, c.relreplident, c.relacl, c.reloptions, c.reltoastrelid
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname !~ '^(pg_|information_schema)')
	SELECT string_agg(line, E'\n' ORDER BY line COLLATE "C") FROM (
		SELECT format('%s %s identity %s rights %s options %s toast %s: %s', o.relkind, o.name, o.relreplident, o.relacl,
			o.reloptions, (SELECT t.reloptions FROM pg_class t WHERE t.oid = o.reltoastrelid), obj_description(o.oid)) FROM ours o
		UNION ALL
		SELECT format('column %s %s %s %s null %s default %s: %s', o.name, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod),
			NOT a.attnotnull, pg_get_expr(d.adbin, d.adrelid), col_description(o.oid, a.attnum))
		FROM ours o JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum > 0
			LEFT JOIN pg_attrdef d ON d.adrelid = o.oid AND d.adnum = a.attnum
		UNION ALL
		SELECT format('constraint %s %s', o.name, pg_get_constraintdef(c.oid)) FROM ours o JOIN pg_constraint c ON c.conrelid = o.oid
		UNION ALL
		SELECT indexdef FROM pg_indexes WHERE schemaname !~ '^(pg_|information_schema)'
		UNION ALL
		SELECT format('function %s rights %s: %s', pg_get_functiondef(p.oid), proacl, obj_description(p.oid))
		FROM pg_proc p WHERE pronamespace = to_regnamespace('walpost')
		UNION ALL
		SELECT format('schema %s %s: %s', nspname, nspacl, obj_description(oid)) FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema)'
		UNION ALL
		SELECT format('database %s', datacl) FROM pg_database WHERE datname = current_database()
		UNION ALL
		SELECT format('publication %I %s %s %s %s %s %s: %s', pubname, puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot,
			(SELECT string_agg(prrelid::regclass::text, ' ' ORDER BY 1) FROM pg_publication_rel WHERE prpubid = p.oid)) FROM pg_publication p
		UNION ALL
		SELECT format('slot %s %s %s', slot_name, plugin, to_jsonb(s) -> 'failover') FROM pg_replication_slots s WHERE database = current_database()
		UNION ALL
		SELECT format('role %I login %s replication %s super %s', rolname, rolcanlogin, rolreplication, rolsuper)
		FROM pg_roles WHERE rolname !~ '^(pg_|postgres$)'
	) AS made (line)`

func read(t *testing.T, conn *pgx.Conn, sql string) string {
	t.Helper()
	var s string
	if err := conn.QueryRow(t.Context(), sql).Scan(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

// apply does what walpost init does: each step is a transaction of its own.
func apply(t *testing.T, conn *pgx.Conn, names Names, files ...string) {
	t.Helper()
	steps, err := Render(names, files...)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range steps {
		if _, err := conn.PgConn().Exec(t.Context(), step.SQL).ReadAll(); err != nil {
			t.Fatalf("%s: %v", step.File, err)
		}
	}
}

// forget removes what belongs to the whole server, so that another database can
// have the same.
func forget(t *testing.T, conn *pgx.Conn, role string) {
	t.Helper()
	quoted := pgx.Identifier{role}.Sanitize()
	for _, sql := range []string{
		`SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()`,
		`DROP OWNED BY ` + quoted, `DROP ROLE ` + quoted,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
}

func testDefaults(t *testing.T, server *testenv.PostgresServer) {
	conn := envtest.NewDatabaseOn(t, server).Connect(t)
	apply(t, conn, Names{})
	got := read(t, conn, catalog)
	for _, want := range []string{
		"publication walpost f t f f f t: outbox", "slot walpost pgoutput", "role walpost login t replication t super f",
		"column outbox 1 id uuid null f", "column outbox 2 aggregatetype character varying(255) null f",
		"column outbox 5 payload jsonb null t", "constraint outbox PRIMARY KEY (id)", "r outbox identity d",
		"toast {autovacuum_vacuum_scale_factor=0", "walpost=arw/postgres}", "walpost=U/postgres}", "walpost=c/postgres}",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("catalog lacks %q:\n%s", want, got)
		}
	}
	apply(t, conn, Names{})
	if again := read(t, conn, catalog); again != got {
		t.Errorf("catalog after the second time:\n%s\nwant no change:\n%s", again, got)
	}
	forget(t, conn, "walpost")
}

// By hand or from the binary, the outcome is the same.
func testPsqlAgrees(t *testing.T, server *testenv.PostgresServer) {
	psql, err := exec.LookPath("psql")
	if err != nil {
		t.Skip(err)
	}
	for name, tt := range map[string]struct {
		names Names
		args  []string
	}{
		"Defaults": {},
		"Given": {
			names: Names{
				Partitioned: "week",
				Tables:      []pgx.Identifier{{`Sales, "App"`, `out\box's`}, {"public", "outbox"}},
				Publication: `The "pub"'s`, Role: `ro\le`, Slot: "orders", NoFailover: true,
			},
			args: []string{
				"-v", `outbox_tables={"\"Sales, \"\"App\"\"\".\"out\\box's\"",public.outbox}`,
				"-v", "partitioned=week", "-v", `publication=The "pub"'s`, "-v", `role=ro\le`, "-v", "slot=orders", "-v", "failover=false",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			byHand, byUs := envtest.NewDatabaseOn(t, server), envtest.NewDatabaseOn(t, server)
			prepare := `CREATE SCHEMA "Sales, ""App"""`
			byHand.Exec(t, prepare)
			byUs.Exec(t, prepare)
			role := tt.names.Role
			if role == "" {
				role = "walpost"
			}

			runPsql(t, psql, byHand.DSN, tt.args)
			conn := byHand.Connect(t)
			want := read(t, conn, catalog)
			runPsql(t, psql, byHand.DSN, tt.args)
			if again := read(t, conn, catalog); again != want {
				t.Errorf("catalog after psql did it again:\n%s\nwant no change:\n%s", again, want)
			}
			forget(t, conn, role)

			conn = byUs.Connect(t)
			apply(t, conn, tt.names)
			if got := read(t, conn, catalog); got != want {
				t.Errorf("catalog by Render:\n%s\nby psql:\n%s", got, want)
			}
			forget(t, conn, role)
		})
	}
}

func runPsql(t *testing.T, psql, dsn string, args []string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, Files); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{Outbox, Publication, Checkpoint, Partitions, Role, Slot, Emit} {
		cmd := exec.CommandContext(t.Context(), psql, append([]string{"-X", "-d", dsn, "-f", filepath.Join(dir, file)}, args...)...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			t.Fatalf("psql -f %s: %v\n%s", file, err, &out)
		}
	}
}

// What a user made is the user's, however unlike ours it is.
func testLeavesAlone(t *testing.T, server *testenv.PostgresServer) {
	conn := envtest.NewDatabaseOn(t, server).Connect(t)
	role := envtest.Name(t)
	setup := `
		CREATE TABLE public.outbox (id text, note text);
		CREATE TABLE public.other (id int PRIMARY KEY);
		CREATE PUBLICATION walpost FOR TABLE public.other;
		CREATE ROLE ` + role + ` NOLOGIN`
	if _, err := conn.PgConn().Exec(t.Context(), setup).ReadAll(); err != nil {
		t.Fatal(err)
	}
	apply(t, conn, Names{Role: role}, Checkpoint, Role)
	want := read(t, conn, catalog)
	apply(t, conn, Names{Role: role}, Outbox, Publication, Checkpoint, Role)
	if got := read(t, conn, catalog); got != want {
		t.Errorf("catalog:\n%s\nwant no change:\n%s", got, want)
	}
	forget(t, conn, role)
}

// A publication of a table that is not there fails and leaves nothing behind.
func testAllOrNothing(t *testing.T, server *testenv.PostgresServer) {
	conn := envtest.NewDatabaseOn(t, server).Connect(t)
	want := read(t, conn, catalog)
	steps, err := Render(Names{Tables: []pgx.Identifier{{"public", "missing"}}}, Publication)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.PgConn().Exec(t.Context(), steps[0].SQL).ReadAll(); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("a publication of a missing table: %v, want an error that names it", err)
	}
	if got := read(t, conn, catalog); got != want {
		t.Errorf("catalog:\n%s\nwant no change:\n%s", got, want)
	}
}

// The role's few rights are enough to read the slot, and no more.
func testRoleStreams(t *testing.T, server *testenv.PostgresServer) {
	if server.SocketDSN() == "" {
		t.Skip("there is no way in for a role without a password")
	}
	db, role := envtest.NewDatabaseOn(t, server), envtest.Name(t)
	owner := db.Connect(t)
	apply(t, owner, Names{Role: role, Slot: role})
	db.Exec(t, `INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('order', '1', 'created', '{}')`)
	config, err := pgx.ParseConfig(db.SocketDSN)
	if err != nil {
		t.Fatal(err)
	}
	config.User, config.Password = role, ""
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // its work is done
	var messages int
	if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL,
		'proto_version', '2', 'publication_names', 'walpost')`, role).Scan(&messages); err != nil || messages < 4 {
		t.Errorf("the role reads %d messages, %v; want relation, begin, insert, commit", messages, err)
	}
	_, err = conn.Exec(t.Context(), `SELECT FROM outbox`)
	if pgErr, ok := err.(*pgconn.PgError); !ok || pgErr.Code != "42501" { //nolint:errorlint // it is that very type
		t.Errorf("the role reads the table: %v, want SQLSTATE 42501", err)
	}
}
