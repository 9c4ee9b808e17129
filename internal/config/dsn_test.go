package config

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestMaskDSN(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://me:secret@db:5432/orders?sslmode=require":      "postgres://me:****@db:5432/orders?sslmode=require",
		"postgresql://me:secret@a:1,b:2/orders":                    "postgresql://me:****@a:1,b:2/orders",
		"postgres://me:s:ec@ret@[::1]:5432/x":                      "postgres://me:****@[::1]:5432/x",
		"postgres://me@db/x":                                       "postgres://me@db/x",
		"postgres://:secret@db":                                    "postgres://:****@db",
		"postgres:///x?host=/tmp&user=me&password=a&sslpassword=b": "postgres:///x?host=/tmp&user=me&password=****&sslpassword=****",
		"postgres://db/x?password=":                                "postgres://db/x?password=",
		"postgres://db/x?my.token=a":                               "postgres://db/x?my.token=****",
		"postgres://me:a/b@db/x":                                   mask,
		"postgres://me:1/b@db/x":                                   mask,
		"postgres://me:1?b=@db/x":                                  mask,
		"postgres://me:1#b@db/x":                                   mask,
		"host=db user=me password=secret":                          "host=db user=me password=****",
		"host = db  password = 'se cret' dbname='my db'":           "host=db password=**** dbname='my db'",
		`password=a\ b sslpassword='it\'s' user=me`:                "password=**** sslpassword=**** user=me",
		"password='open":                                           mask,
		"password=two words":                                       mask,
		"nonsense":                                                 mask,
		"":                                                         "",
	} {
		t.Run(dsn, func(t *testing.T) {
			if got := maskDSN(dsn); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

// pgx says what the connection strings mean.
func TestConnString(t *testing.T) {
	const password = `p@ss w/o:r'd\%&?#`
	for _, dsn := range []string{
		"", "host=db user=me", "host=db user='m e' ", "postgres://me@db/x", "postgres://me@db:5433/x?sslmode=disable",
		"postgres://me@a:1,b:2/x", "postgres://db", "postgresql:///x?host=/tmp",
	} {
		t.Run(dsn, func(t *testing.T) {
			if err := checkDSN(dsn); err != nil {
				t.Fatal(err)
			}
			want, err := pgconn.ParseConfig(dsn)
			if err != nil {
				t.Fatal(err)
			}
			got, err := pgconn.ParseConfig(Postgres{DSN: Secret(dsn), Password: password}.ConnString())
			if err != nil {
				t.Fatal(err)
			}
			if got.Password != password {
				t.Errorf("password: got %q, want %q", got.Password, password)
			}
			if got.Host != want.Host || got.Port != want.Port || got.User != want.User || got.Database != want.Database {
				t.Errorf("got %s %d %s %s, want %s %d %s %s", got.Host, got.Port, got.User, got.Database,
					want.Host, want.Port, want.User, want.Database)
			}
		})
	}
}

func TestDSNHasPassword(t *testing.T) {
	for dsn, want := range map[string]bool{
		"": false, "host=db": false, "password=x": true, "password=''": false, "postgres://me@db": false,
		"postgres://me:x@db": true, "postgres://db?password=x": true, "postgres://db?passfile=x": false, "nonsense": false,
	} {
		if got := dsnHasPassword(dsn); got != want {
			t.Errorf("%q: got %v, want %v", dsn, got, want)
		}
	}
}

// FuzzKeywords compares with pgx, which reads the same form.
func FuzzKeywords(f *testing.F) {
	for _, s := range []string{"host=db user=me", "user = 'a b' password=x", `user=a\ b`, `user='it\'s'`, "user=", "x", "user=a user=b", `user=\`, `user=a\ `} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if isURL(s) {
			t.Skip("a URL")
		}
		pairs, err := parseKeywords(s)
		oracle, oracleErr := pgconn.ParseConfig(s)
		if err != nil || oracleErr != nil {
			return // each is stricter than the other somewhere, as about unknown TLS modes
		}
		user := ""
		for _, p := range pairs {
			if p.key == "user" {
				user = p.value
			}
		}
		if user != "" && user != oracle.User {
			t.Errorf("user of %q: got %q, pgx has %q", s, user, oracle.User)
		}
	})
}

// Of several hosts the one that can be written to is wanted, unless the DSN says so.
func TestConnStringOfSeveralHosts(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://me@a,b/x":                              "postgres://me@a,b/x?target_session_attrs=read-write",
		"postgres://me@a,b/x?target_session_attrs=any":     "postgres://me@a,b/x?target_session_attrs=any",
		"postgres:///x?host=a,b&port=1":                    "postgres:///x?host=a,b&port=1&target_session_attrs=read-write",
		"postgres://me@a/x":                                "postgres://me@a/x",
		"host=a,b dbname=x":                                "host=a,b dbname=x target_session_attrs=read-write",
		"host=a,b dbname=x target_session_attrs='standby'": "host=a,b dbname=x target_session_attrs='standby'",
		"": "",
	} {
		if got := (Postgres{DSN: Secret(dsn)}).ConnString(); got != want {
			t.Errorf("%s: got %s, want %s", dsn, got, want)
		}
	}
}
