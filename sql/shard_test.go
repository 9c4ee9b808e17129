package sqlfiles

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
)

// testShards makes the publications of three shards for keys of each type. Each row is
// in exactly one of them.
func testShards(t *testing.T, server *testenv.PostgresServer) {
	for typ, value := range map[string]string{
		"text": "'k' || n", "varchar(20)": "'k' || n", "char(9)": "'k' || n", "uuid": "md5(n::text)::uuid",
		"smallint": "n", "int": "n - 500", "bigint": "n * 5000000000",
	} {
		t.Run(typ, func(t *testing.T) {
			db := envtest.NewDatabaseOn(t, server)
			conn := db.Connect(t)
			db.Exec(t, `CREATE TABLE outbox (id uuid, "the Key" `+typ+`)`)
			var filters []string
			for i := range 3 {
				name := fmt.Sprintf("walpost_%d_of_3", i)
				apply(t, conn, Names{Publication: name, Shard: fmt.Sprintf("%d/3", i), Key: "the Key"}, Publication)
				filters = append(filters, "("+read(t, conn, `SELECT rowfilter FROM pg_publication_tables WHERE pubname = '`+name+`'`)+")::int")
			}
			db.Exec(t, `INSERT INTO outbox SELECT gen_random_uuid(), `+value+` FROM generate_series(1, 999) n; INSERT INTO outbox VALUES (gen_random_uuid(), NULL)`)
			const query = `SELECT format('%%s rows in one shard, NULL in shard %%s, least %%s', count(*) FILTER (WHERE a + b + c = 1), min(b + 2 * c) FILTER (WHERE key IS NULL), least(sum(a), sum(b), sum(c)) > 250)
				FROM (SELECT "the Key" AS key, %s AS a, %s AS b, %s AS c FROM outbox) s`
			if got, want := read(t, conn, fmt.Sprintf(query, filters[0], filters[1], filters[2])), "1000 rows in one shard, NULL in shard 0, least t"; got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
	t.Run("NoHash", func(t *testing.T) {
		db := envtest.NewDatabaseOn(t, server)
		db.Exec(t, `CREATE TABLE outbox (id uuid, aggregateid bytea)`)
		steps, err := Render(Names{Shard: "0/3"}, Publication)
		if err != nil {
			t.Fatal(err)
		}
		_, err = db.Connect(t).Exec(t.Context(), steps[0].SQL, pgx.QueryExecModeSimpleProtocol)
		if err == nil || !strings.Contains(err.Error(), "aggregateid") {
			t.Errorf("a key without a hash: %v", err)
		}
	})
}
