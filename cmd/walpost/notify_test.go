package main

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/config"
)

// systemd hears that the service is up though no server answers, why it is not ready, that it is
// alive, and that it stops.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "30000000")
	cfg, err := config.Load(nil, []string{"WALPOST_ADMIN_LISTEN=", "WALPOST_POSTGRES_DSN=postgres://u@127.0.0.1:1/x?sslmode=disable", "WALPOST_KAFKA_BROKERS=127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := newService(cfg, newLogger(cfg.Log, t.Output()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx) }()
	var heard []string
	read := func() {
		buf := make([]byte, 4096)
		_ = socket.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := socket.Read(buf)
		if err != nil {
			t.Fatalf("%v after %q", err, heard)
		}
		heard = append(heard, string(buf[:n]))
	}
	for range 3 {
		read()
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for !strings.HasPrefix(heard[len(heard)-1], "STOPPING") {
		read()
	}
	if heard[0] != "READY=1" || !strings.HasPrefix(heard[1], "STATUS=connecting") || heard[2] != "WATCHDOG=1" {
		t.Errorf("got %q", heard)
	}
}
