package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// securePostgres takes walpost's roles with TLS only: by password, and certain_ ones by
// their certificate. Its own certificate is for 127.0.0.1.
func securePostgres(t *testing.T, ca *envtest.Authority) *testenv.PostgresServer {
	t.Helper()
	cert := ca.Issue(t, "postgres", "127.0.0.1")
	return envtest.NewPostgres(t, testenv.PostgresConfig{
		Settings: map[string]string{"ssl": "on", "ssl_ca_file": "root.crt", "password_encryption": "scram-sha-256"},
		Files: map[string]string{
			"server.crt": cert.Cert, "server.key": cert.Key, "root.crt": ca.PEM,
			"pg_hba.conf": `local   all all           trust
host    all postgres      127.0.0.1/32 scram-sha-256
hostssl all certain_role  127.0.0.1/32 cert
hostssl all all           127.0.0.1/32 scram-sha-256
`,
		},
	})
}

// Each way into a Postgres with TLS works or is refused at once, with what to do.
func TestSecurePostgres(t *testing.T) {
	ca, other := envtest.NewAuthority(t), envtest.NewAuthority(t)
	pg := securePostgres(t, ca)
	brokers := envtest.Kafka(t).Addrs()
	client, stranger := ca.Issue(t, "certain_role"), other.Issue(t, "certain_role")
	impostor := ca.Issue(t, "somebody")
	own := "user=ROLE password=x host=127.0.0.1 "
	tests := []struct {
		name, dsn     string
		message, hint string // empty if it works
	}{
		{name: "VerifyFull", dsn: own + "sslmode=verify-full channel_binding=require sslrootcert=" + ca.File},
		{name: "VerifyCA", dsn: own + "sslmode=verify-ca sslrootcert=" + ca.File},
		{name: "ClientCertificate", dsn: fmt.Sprintf("user=certain_role host=127.0.0.1 sslmode=verify-full sslrootcert=%s sslcert=%s sslkey=%s", ca.File, client.CertFile, client.KeyFile)},
		{
			name: "UnknownAuthority", dsn: own + "sslmode=verify-full sslrootcert=" + other.File,
			message: "certificate signed by unknown authority", hint: "sslrootcert",
		},
		{
			name: "UnknownAuthorityVerifyCA", dsn: own + "sslmode=verify-ca sslrootcert=" + other.File,
			message: "certificate signed by unknown authority", hint: "sslrootcert",
		},
		{name: "SystemAuthorities", dsn: own + "sslmode=verify-full", message: "certificate signed by unknown authority", hint: "sslrootcert"},
		{
			name: "OtherHost", dsn: "user=ROLE password=x host=localhost sslmode=verify-full sslrootcert=" + ca.File,
			message: "localhost", hint: "a host that the server's certificate is for",
		},
		{
			name: "WrongPassword", dsn: "user=ROLE password=wrong host=127.0.0.1 sslmode=verify-full sslrootcert=" + ca.File,
			message: `password authentication failed for user`, hint: "check postgres.dsn, its password",
		},
		{name: "NoTLS", dsn: own + "sslmode=disable", message: "no encryption", hint: "pg_hba.conf"},
		{
			name: "NoClientCertificate", dsn: "user=certain_role host=127.0.0.1 sslmode=verify-full sslrootcert=" + ca.File,
			message: "requires a valid client certificate", hint: "pg_hba.conf",
		},
		{
			name: "OthersClientCertificate", dsn: fmt.Sprintf("user=certain_role host=127.0.0.1 sslmode=verify-full sslrootcert=%s sslcert=%s sslkey=%s", ca.File, impostor.CertFile, impostor.KeyFile),
			message: "certificate authentication failed", hint: "pg_hba.conf",
		},
		{
			name: "StrangeClientCertificate", dsn: fmt.Sprintf("user=certain_role host=127.0.0.1 sslmode=verify-full sslrootcert=%s sslcert=%s sslkey=%s", ca.File, stranger.CertFile, stranger.KeyFile),
			message: "unknown certificate authority", hint: "sslcert",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStage(t, envtest.NewDatabaseOn(t, pg), brokers)
			if strings.Contains(tt.dsn, "certain_role") {
				s.walpost("init", "--no-table", "--role", "certain_role", "--dsn", s.db.DSN)
				t.Cleanup(func() { s.dropRole("certain_role") })
			}
			dsn := strings.Replace(tt.dsn, "ROLE", s.slot, 1)
			s.set(fmt.Sprintf("POSTGRES_DSN=%s port=%d dbname=%s", dsn, s.conn.Config().Port, s.db.Name))
			if tt.message != "" {
				p := s.start("run", "--log.level", "error")
				if code := s.wait(p, 30*time.Second); code != 1 {
					t.Errorf("exit %d, want 1", code)
				}
				checkMessage(t, p.Log(), tt.message, tt.hint)
				return
			}
			p := s.start("run")
			s.fill(harness.OneRow, 1, 100)
			s.caughtUp(time.Minute)
			if _, plain := s.sessions(); plain > 0 {
				t.Errorf("%d sessions are not encrypted", plain)
			}
			s.stop(p)
			s.check()
		})
	}
}

// sessions counts walpost's sessions.
func (s *stage) sessions() (encrypted, plain int) {
	s.t.Helper()
	const query = `SELECT count(*) FILTER (WHERE ssl), count(*) FILTER (WHERE NOT ssl)
		FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'walpost' AND datname = current_database()`
	if err := s.conn.QueryRow(s.t.Context(), query).Scan(&encrypted, &plain); err != nil {
		s.t.Fatal(err)
	}
	if encrypted+plain == 0 {
		s.t.Error("no session of walpost's is there")
	}
	return encrypted, plain
}

// A stream over TLS, where each message comes as a record of its own, catches up with what it
// is behind, also where that may not be pulled.
func TestSecurePostgresBehind(t *testing.T) {
	ca := envtest.NewAuthority(t)
	pg := securePostgres(t, ca)
	s := newStage(t, envtest.NewDatabaseOn(t, pg), envtest.Kafka(t).Addrs())
	s.set(fmt.Sprintf("POSTGRES_DSN=user=%s password=x host=127.0.0.1 port=%d dbname=%s sslmode=verify-full sslrootcert=%s", s.slot, s.conn.Config().Port, s.db.Name, ca.File))
	s.fill(harness.OneRow, 1, 10_000)
	p := s.start("run", "--postgres.pull_above", "0")
	s.caughtUp(time.Minute)
	s.stop(p)
	s.check()
}

// A password that is changed under a running walpost is an outage: it says why, and
// goes on when that is mended.
func TestSecurePostgresPasswordChanged(t *testing.T) {
	ca := envtest.NewAuthority(t)
	pg := securePostgres(t, ca)
	s := newStage(t, envtest.NewDatabaseOn(t, pg), envtest.Kafka(t).Addrs())
	s.set(fmt.Sprintf("POSTGRES_DSN=user=%s password=x host=127.0.0.1 port=%d dbname=%s sslmode=verify-full sslrootcert=%s", s.slot, s.conn.Config().Port, s.db.Name, ca.File))
	p := s.start("run")
	s.fill(harness.OneRow, 1, 100)
	s.caughtUp(time.Minute)
	s.db.Exec(t, "ALTER ROLE "+s.slot+" PASSWORD 'y'")
	s.endSessions()
	harness.Eventually(t, 10*time.Second, "/readyz 503 with the reason", func() bool {
		code, text := s.ready()
		return code == 503 && strings.Contains(text, "password authentication failed")
	})
	s.fill(harness.OneRow, 101, 200)
	s.db.Exec(t, "ALTER ROLE "+s.slot+" PASSWORD 'x'")
	s.caughtUp(time.Minute)
	s.stop(p)
	if r := s.check(); r.Duplicated > 0 {
		t.Errorf("%d duplicates", r.Duplicated)
	}
	if !strings.Contains(p.Log(), "level=WARN") {
		t.Errorf("no warning:\n%s", p.Log())
	}
}

// endSessions ends walpost's sessions, as an administrator would.
func (s *stage) endSessions() {
	s.t.Helper()
	s.db.Exec(s.t, "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'walpost' AND datname = current_database()")
}
