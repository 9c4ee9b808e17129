package integration

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// Names that are wrong wherever they are not quoted.
const (
	oddDatabase    = `Da"ta's b%`
	oddSchema      = `My "Schema"`
	oddTable       = `we"ird.Näme`
	oddPublication = `Pub'"x" \ ü`
	oddRole        = `Ro"le's \`
)

var oddName = pgx.Identifier{oddSchema, oddTable}.Sanitize()

// oddStage is an outbox of such names, in a database that is one. Slots have no odd names.
func oddStage(t *testing.T, version string) *stage {
	t.Helper()
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{Version: version})
	admin := envtest.Database{DSN: pg.DSN()}
	admin.Exec(t, "CREATE DATABASE "+pgx.Identifier{oddDatabase}.Sanitize())
	dsn, err := testenv.DatabaseDSN(pg.DSN(), oddDatabase)
	if err != nil {
		t.Fatal(err)
	}
	db := envtest.Database{Name: oddDatabase, DSN: dsn}
	db.Exec(t, "CREATE SCHEMA "+pgx.Identifier{oddSchema}.Sanitize())
	brokers := envtest.Kafka(t).Addrs()
	s := &stage{
		t: t, db: db, conn: db.Connect(t), brokers: brokers,
		topic: envtest.CreateTopic(t, brokers, 1, nil), slot: "odd", admin: harness.FreeAddr(t),
	}
	s.env = []string{
		"WALPOST_POSTGRES_DSN=" + db.DSN, "WALPOST_POSTGRES_SLOT=" + s.slot, "WALPOST_POSTGRES_PUBLICATION=" + oddPublication,
		"WALPOST_OUTBOX_TABLE=" + oddName, "WALPOST_KAFKA_BROKERS=" + strings.Join(brokers, ","), "WALPOST_KAFKA_CREATE_TOPICS=true",
		"WALPOST_OUTBOX_TOPIC=" + s.topic, "WALPOST_ADMIN_LISTEN=" + s.admin, "WALPOST_DELIVERY_POISON=dead-letter",
		"WALPOST_DELIVERY_DEAD_LETTER_TOPIC=" + s.topic + ".dead", "WALPOST_CHECKPOINT_INTERVAL=100ms", "WALPOST_POSTGRES_PULL_ABOVE=64KiB",
	}
	return s
}

// asOddRole goes on as the role that init has made.
func (s *stage) asOddRole() {
	s.t.Helper()
	s.db.Exec(s.t, "ALTER ROLE "+pgx.Identifier{oddRole}.Sanitize()+" PASSWORD 'x'")
	u, err := url.Parse(s.db.DSN)
	if err != nil {
		s.t.Fatal(err)
	}
	u.User = url.UserPassword(oddRole, "x")
	s.set("POSTGRES_DSN=" + u.String())
}

// oddOutbox is an outbox of odd names: how it is made, and what its columns are called.
type oddOutbox struct {
	name     string
	columns  [6]string // id, key, route, payload, a header, another column that must be given
	make     func(s *stage, columns [6]string)
	settings []string
}

var oddOutboxes = []oddOutbox{
	{
		name: "MadeByInit", columns: [6]string{"id", "aggregateid", "aggregatetype", "payload", "type", "type"},
		make:     func(s *stage, _ [6]string) { s.walpost("init", "--role", oddRole) },
		settings: []string{`OUTBOX_PLACE=type:header:He"ad ü`},
	},
	{
		name: "OddColumns", columns: [6]string{`I"d`, "Agg regate", "röute.x", `pay'load`, `he"ad Ü`, "table"},
		make: func(s *stage, c [6]string) {
			s.db.Exec(s.t, fmt.Sprintf(`CREATE TABLE %s (%s uuid PRIMARY KEY, %s text, %s text, %s jsonb, %s text, %s text)`,
				oddName, ident(c[0]), ident(c[1]), ident(c[2]), ident(c[3]), ident(c[4]), ident(c[5])))
			s.walpost("init", "--no-table", "--role", oddRole)
		},
		settings: []string{`OUTBOX_ID=I"d`, "OUTBOX_KEY=Agg regate", "OUTBOX_ROUTE=röute.x", `OUTBOX_PAYLOAD=pay'load`, `OUTBOX_PLACE=he"ad Ü:header:He"ad ü`},
	},
}

func ident(name string) string { return pgx.Identifier{name}.Sanitize() }

// Names that need every kind of quoting work from init to dlq: as a backlog that is
// pulled, and as a stream, with the least rights.
func TestOddIdentifiers(t *testing.T) {
	for _, version := range envtest.Versions() {
		for _, o := range oddOutboxes {
			t.Run(version+o.name, func(t *testing.T) {
				s := oddStage(t, version)
				s.set(o.settings...)
				o.make(s, o.columns)
				s.asOddRole()
				c := o.columns
				insert := fmt.Sprintf(`INSERT INTO %s (%s, %s, %s, %s, %s) SELECT gen_random_uuid(), 'k%%s', 'r', '{"n": %%s}'::jsonb || jsonb_build_object('fill', repeat('x', %%d)), 'h' FROM generate_series(1, %%d)`,
					oddName, ident(c[0]), ident(c[1]), ident(c[2]), ident(c[3]), ident(c[4]))
				s.db.Exec(t, fmt.Sprintf(insert, "1", "1", 1000, 500))
				p := s.start("run")
				s.caughtUp(time.Minute)
				if pulls(p) == 0 {
					t.Error("the backlog was not pulled")
				}
				s.db.Exec(t, fmt.Sprintf(insert, "2", "2", 1, 1))
				s.db.Exec(t, fmt.Sprintf(insert, "3", "3", tooLarge, 1))
				s.caughtUp(time.Minute)
				s.wantOdd(p)
				s.stop(p)
				lsn, _, _ := strings.Cut(s.walpost("checkpoint", "show"), "\n")
				if got := s.confirmed(); got != lsn {
					t.Errorf("checkpoint %s, confirmed %s", lsn, got)
				}
			})
		}
	}
}

// wantOdd checks what is in Kafka, and has the dead letter discarded.
func (s *stage) wantOdd(p *harness.Process) {
	s.t.Helper()
	keys := map[string]int{}
	err := harness.Consume(s.t.Context(), s.brokers, []string{s.topic}, func(r *kgo.Record, _ int32) {
		keys[string(r.Key)]++
		if len(r.Headers) != 2 || r.Headers[1].Key != `He"ad ü` || string(r.Headers[1].Value) != "h" && string(r.Headers[1].Value) != "" {
			s.t.Errorf("headers %v", r.Headers)
		}
	})
	if err != nil || len(keys) != 2 || keys["k1"] != 500 || keys["k2"] != 1 {
		s.t.Errorf("records by key %v, %v; want 500 of k1 and 1 of k2", keys, err)
	}
	var list []listed
	if err := json.Unmarshal([]byte(s.walpost("dlq", "list", "-o", "json")), &list); err != nil || len(list) != 1 {
		s.t.Fatalf("dead letters %+v, %v", list, err)
	}
	if list[0].Table != oddSchema+"."+oddTable && list[0].Table != oddName || list[0].Key != "k3" {
		s.t.Errorf("dead letter %+v, want table %s", list[0], oddName)
	}
	if text := s.walpost("dlq", "show", list[0].ID); !strings.Contains(text, "oversize") {
		s.t.Errorf("show: %.500s", text)
	}
	s.walpost("dlq", "discard", list[0].ID)
	if code, text := s.ready(); code != 200 {
		s.t.Errorf("/readyz %d %s\n%s", code, text, p.Log())
	}
}
