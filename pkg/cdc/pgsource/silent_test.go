package pgsource

import (
	"bytes"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

// swallowing returns a DSN of db through a proxy that forwards everything, until a
// connection sends a text: from then on nothing comes back on that one, and it stays open.
func swallowing(t *testing.T, db envtest.Database, text string) (dsn string, swallowed *atomic.Bool) {
	t.Helper()
	cfg, err := pgx.ParseConfig(db.DSN)
	if err != nil {
		t.Fatal(err)
	}
	server := net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port)))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	swallowed = new(atomic.Bool)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", server)
			if err != nil {
				_ = c.Close()
				continue
			}
			var silent atomic.Bool
			go func() {
				defer func() { _ = s.Close() }()
				forward(s, c, func(b []byte) bool {
					if bytes.Contains(b, []byte(text)) {
						silent.Store(true)
						swallowed.Store(true)
					}
					return true
				})
			}()
			go func() {
				defer func() { _ = c.Close() }()
				forward(c, s, func([]byte) bool { return !silent.Load() })
			}()
		}
	}()
	return strings.Replace(db.DSN, server, l.Addr().String(), 1), swallowed
}

// forward copies what pass lets through, and reads the rest.
func forward(to io.Writer, from io.Reader, pass func([]byte) bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && pass(buf[:n]) {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// A pull whose answers do not come any more is ended, though the connection is open.
func TestSilentPull(t *testing.T) {
	db := envtest.NewDatabase(t)
	cfg, _, write := outbox(t, db)
	write(1, 3000)
	var swallowed *atomic.Bool
	cfg.DSN, swallowed = swallowing(t, db, "pg_logical_slot_get_binary_changes")
	r := start(t, newSource(t, cfg), cdc.Position{}, &run{})
	endsWith(t, r, "has sent what has not come")
	if rows, _ := r.seen(); !swallowed.Load() || len(rows) > 0 {
		t.Errorf("%d rows came: the proxy has swallowed nothing", len(rows))
	}
}

// A replication command that is not answered is given up.
func TestSilentStart(t *testing.T) {
	db := envtest.NewDatabase(t)
	cfg, _, _ := outbox(t, db)
	var swallowed *atomic.Bool
	cfg.DSN, swallowed = swallowing(t, db, "START_REPLICATION")
	r := start(t, newSource(t, cfg), cdc.Position{}, &run{})
	endsWith(t, r, "start replication")
	if !swallowed.Load() {
		t.Error("the proxy has swallowed nothing")
	}
}

func endsWith(t *testing.T, r *run, text string) {
	t.Helper()
	select {
	case err := <-r.ended:
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("Run() = %v, want %q in it", err, text)
		}
	case <-time.After(time.Minute):
		t.Fatal("it goes on")
	}
}
