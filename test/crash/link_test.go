package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// link is a proxy between walpost and one server. Its methods are for one
// goroutine at a time.
type link struct {
	proxy *toxiproxy.Proxy
}

// direction is which way bytes flow.
type direction string

const (
	toServer direction = "upstream"
	toClient direction = "downstream"
)

var directions = []direction{toServer, toClient}

// newLink takes an address for clients. It carries nothing before to is called.
func newLink(t testing.TB, name string) *link {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	return &link{proxy: toxiproxy.NewProxy(server, name, freeAddr(t), "")}
}

// freeAddr is below the range of ports that the system gives to outgoing
// connections: none of those may take it while the proxy is away.
func freeAddr(t testing.TB) string {
	t.Helper()
	const first, last, tries = 20000, 32000, 100
	for range tries {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.IntN(last-first)))
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
		if err == nil {
			_ = l.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

// addr is where clients connect to.
func (l *link) addr() string { return l.proxy.Listen }

// to begins to carry everything to the server at addr, until the test ends.
func (l *link) to(t testing.TB, addr string) {
	t.Helper()
	l.proxy.Upstream = addr
	if err := l.proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.proxy.Stop)
}

// refuse closes all connections and takes no new ones, until accept is called.
func (l *link) refuse() { l.proxy.Stop() }

func (l *link) accept() error { return l.proxy.Start() }

// cut closes all connections. New ones are taken at once.
func (l *link) cut() error {
	l.refuse()
	return l.accept()
}

// add puts a toxic on all connections of one direction, old and new.
// https://github.com/Shopify/toxiproxy#toxics
func (l *link) add(kind string, d direction, attributes map[string]int64) error {
	data, err := json.Marshal(map[string]any{"type": kind, "stream": d, "attributes": attributes})
	if err != nil {
		return err
	}
	return l.bounded(func() error {
		_, err := l.proxy.Toxics.AddToxicJson(bytes.NewReader(data))
		return err
	})
}

// heal removes all toxics. Connections that lost bytes are closed.
func (l *link) heal() error {
	return l.bounded(func() error { l.proxy.Toxics.ResetToxics(context.Background()); return nil })
}

// bounded runs fn. A toxic is changed only between two chunks of data, and one
// that nobody takes away never ends: after two seconds the connections are closed.
func (l *link) bounded(fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- fn() }()
	select {
	case err := <-done:
		return err
	case <-time.After(2 * time.Second):
	}
	l.refuse()
	err := <-done
	if err != nil {
		return err
	}
	return l.accept()
}
