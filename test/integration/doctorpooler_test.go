package integration

import (
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walpost/walpost/internal/testenv/envtest"
)

// pooler forwards ordinary sessions to a server, and refuses replication as PgBouncer did
// before 1.23. It returns its address.
func pooler(t *testing.T, server string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go forward(conn, server)
		}
	}()
	return l.Addr().String()
}

func forward(client net.Conn, server string) {
	defer client.Close() //nolint:errcheck // a test's
	backend := pgproto3.NewBackend(client, client)
	for {
		first, err := backend.ReceiveStartupMessage()
		if err != nil {
			return
		}
		startup, ok := first.(*pgproto3.StartupMessage)
		if !ok { // asks for encryption
			if _, err := client.Write([]byte("N")); err != nil {
				return
			}
			continue
		}
		if startup.Parameters["replication"] != "" {
			backend.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "08P01", Message: "unsupported startup parameter: replication"})
			_ = backend.Flush()
			return
		}
		up, err := net.DialTimeout("tcp", server, time.Second)
		if err != nil {
			return
		}
		defer up.Close() //nolint:errcheck // a test's
		packet, err := startup.Encode(nil)
		if err == nil {
			_, err = up.Write(packet)
		}
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(up, client) }()
		_, _ = io.Copy(client, up)
		return
	}
}

// A pooler in place of Postgres is told of, and that nothing can be streamed through it.
func TestDoctorPooler(t *testing.T) {
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	cfg, err := pgx.ParseConfig(s.db.DSN)
	must(t, err)
	dsn := url.URL{Scheme: "postgres", User: url.UserPassword(s.slot, "x"), Host: pooler(t, net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port)))), Path: "/" + cfg.Database}
	bad, code := s.doctor("--dsn", dsn.String())
	want := map[string]string{"connection": "warn", "server and publication": "fail"}
	for _, v := range bad {
		if want[v.Check] == v.Verdict && strings.Contains(v.Mend, "pooler") {
			delete(want, v.Check)
		}
	}
	if len(want) > 0 || code != 1 {
		t.Errorf("exit %d, and nothing of %v in %+v", code, want, bad)
	}
}
