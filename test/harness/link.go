package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

// Link is a proxy between walpost and one server. Its methods are for one goroutine
// at a time.
type Link struct {
	proxy *toxiproxy.Proxy
}

// Direction is which way bytes flow.
type Direction string

// The directions.
const (
	ToServer  Direction = "upstream"
	ToWalpost Direction = "downstream"
)

// Directions are both.
var Directions = []Direction{ToServer, ToWalpost}

// NewLink takes an address for clients. It carries nothing before To is called.
func NewLink(t testing.TB, name string) *Link {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	return &Link{proxy: toxiproxy.NewProxy(server, name, lastingAddr(t), "")}
}

// lastingAddr is below the range of ports that the system gives to outgoing
// connections: none of those may take it while the proxy is away.
func lastingAddr(t testing.TB) string {
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

// Addr is where clients connect to.
func (l *Link) Addr() string { return l.proxy.Listen }

// To begins to carry everything to the server at addr, until the test ends.
func (l *Link) To(t testing.TB, addr string) {
	t.Helper()
	l.proxy.Upstream = addr
	if err := l.proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.proxy.Stop)
}

// Refuse closes all connections and takes no new ones, until Accept is called.
func (l *Link) Refuse() error {
	l.proxy.Stop()
	return nil
}

// Accept takes connections again.
func (l *Link) Accept() error { return l.proxy.Start() }

// Cut closes all connections. New ones are taken at once.
func (l *Link) Cut() error { return errors.Join(l.Refuse(), l.Accept()) }

// Add puts a toxic on all connections of one direction, old and new, until Heal is
// called. https://github.com/Shopify/toxiproxy#toxics
func (l *Link) Add(kind string, d Direction, attributes map[string]int64) error {
	data, err := json.Marshal(map[string]any{"type": kind, "stream": d, "attributes": attributes})
	if err != nil {
		return err
	}
	return l.bounded(func() error {
		_, err := l.proxy.Toxics.AddToxicJson(bytes.NewReader(data))
		return err
	})
}

// Remove takes a toxic away that Add has put there.
func (l *Link) Remove(kind string, d Direction) error {
	return l.bounded(func() error { return l.proxy.Toxics.RemoveToxic(context.Background(), kind+"_"+string(d)) })
}

// Swallow makes a black hole of some directions, until Heal is called.
func (l *Link) Swallow(directions ...Direction) error {
	var errs []error
	for _, d := range directions {
		errs = append(errs, l.Add("timeout", d, map[string]int64{"timeout": 0}))
	}
	return errors.Join(errs...)
}

// Heal removes all toxics. Connections that lost bytes are closed.
func (l *Link) Heal() error {
	return l.bounded(func() error { l.proxy.Toxics.ResetToxics(context.Background()); return nil })
}

// bounded runs fn. A toxic is changed only between two chunks of data, and one
// that nobody takes away never ends: after two seconds the connections are closed.
func (l *Link) bounded(fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- fn() }()
	select {
	case err := <-done:
		return err
	case <-time.After(2 * time.Second):
	}
	l.proxy.Stop()
	if err := <-done; err != nil {
		return err
	}
	return l.Accept()
}

// ProxyGoroutines are those that may be left of proxies at the end of the tests. They end a
// moment after their connections, or never where one side is gone and the other had sent
// more than the proxy buffers.
func ProxyGoroutines() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).read"),
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).write"),
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"),
	}
}
