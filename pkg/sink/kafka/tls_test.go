package kafka

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"testing"

	"github.com/walpost/walpost/internal/testenv/envtest"
)

// An authority that takes another's place in the file is trusted at the next dial, and a file
// that cannot be used changes nothing.
func TestAuthoritiesAreReadAgain(t *testing.T) {
	former, next := envtest.NewAuthority(t), envtest.NewAuthority(t)
	files := TLS{Enabled: true, CAFile: former.File}
	conf, err := files.Config()
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{TLS: conf, Authorities: files.Authorities(), Dialer: new(net.Dialer).DialContext}
	old, renewed := listenTLS(t, former), listenTLS(t, next)
	dials := func(address string) bool {
		conn, err := cfg.dial(t.Context(), "tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}
	if !dials(old) || dials(renewed) {
		t.Fatal("before the change")
	}
	write := func(content string) {
		if err := os.WriteFile(files.CAFile, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if write("nothing"); !dials(old) {
		t.Error("with a file that cannot be used")
	}
	if write(next.PEM); dials(old) || !dials(renewed) {
		t.Error("after the change")
	}
}

// listenTLS takes connections with a certificate of the authority.
func listenTLS(t *testing.T, a *envtest.Authority) (address string) {
	t.Helper()
	c := a.Issue(t, "broker", "127.0.0.1")
	pair, err := tls.X509KeyPair([]byte(c.Cert), []byte(c.Key))
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.(*tls.Conn).HandshakeContext(context.Background())
			_ = conn.Close()
		}
	}()
	return l.Addr().String()
}

func TestNoAuthorities(t *testing.T) {
	for _, files := range []TLS{{}, {Enabled: true}} {
		if files.Authorities() != nil {
			t.Errorf("%+v has authorities of its own", files)
		}
	}
}
