package kafka

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestNewNamesAllProblems(t *testing.T) {
	_, err := New(Config{
		Brokers: []string{" "}, ClientID: strings.Repeat("x", 300), Compression: "rar", Linger: time.Hour, MaxMessageBytes: 1,
		MaxInFlightBytes: -1, Partitions: -2, ReplicationFactor: 1 << 20, SASL: SASL{Mechanism: "NTLM"},
	})
	for _, want := range []string{"brokers", "client id", "rar", "linger", "max message bytes", "in-flight", "partitions", "replication", "NTLM"} {
		if !contains(err, want) {
			t.Errorf("New() = %v, want a word about %q", err, want)
		}
	}
}

func TestSASLProblems(t *testing.T) {
	for _, test := range []struct {
		name string
		sasl SASL
		ok   bool
	}{
		{"none", SASL{}, true},
		{"no mechanism", SASL{Username: "u"}, false},
		{"plain", SASL{Mechanism: Plain, Username: "u", Password: "p"}, true},
		{"plain without password", SASL{Mechanism: Plain, Username: "u"}, false},
		{"scram without username", SASL{Mechanism: ScramSHA512, Password: "p"}, false},
		{"token", SASL{Mechanism: OAuthBearer, Token: "t"}, true},
		{"no token", SASL{Mechanism: OAuthBearer}, false},
		{"two tokens", SASL{Mechanism: OAuthBearer, Token: "t", TokenFile: "f"}, false},
		{"iam", SASL{Mechanism: AWSMSKIAM}, true},
	} {
		if err := test.sasl.validate(); (err == nil) != test.ok {
			t.Errorf("%s: validate() = %v, want ok: %t", test.name, err, test.ok)
		}
	}
}

func TestTokenFileIsReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	s := SASL{Mechanism: OAuthBearer, TokenFile: file}
	if _, err := s.token(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("token() = %v, want not exist", err)
	}
	for _, want := range []string{"first", "second"} {
		writeFile(t, file, []byte(want+"\n"))
		if got, err := s.token(t.Context()); err != nil || got.Token != want {
			t.Errorf("token() = %q, %v, want %q", got.Token, err, want)
		}
	}
}

func TestAWSCredentials(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_SESSION_TOKEN", "session")
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	got, err := new(awsCredentials).retrieve(t.Context())
	if err != nil || got.AccessKey != "id" || got.SecretKey != "secret" || got.SessionToken != "session" {
		t.Errorf("retrieve() = %v, %v", got, err)
	}
}

func writeFile(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// certificate makes a self-signed certificate for 127.0.0.1, as files.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeFile(t, certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	writeFile(t, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	return certFile, keyFile
}

func TestTLSProblems(t *testing.T) {
	cert, key := certificate(t)
	none := filepath.Join(t.TempDir(), "none")
	for _, test := range []struct {
		name string
		tls  TLS
		ok   bool
	}{
		{"off", TLS{}, true},
		{"off with files", TLS{CAFile: cert}, false},
		{"on", TLS{Enabled: true}, true},
		{"all files", TLS{Enabled: true, CAFile: cert, CertFile: cert, KeyFile: key}, true},
		{"no such ca", TLS{Enabled: true, CAFile: none}, false},
		{"ca without certificate", TLS{Enabled: true, CAFile: key}, false},
		{"key without certificate", TLS{Enabled: true, KeyFile: key}, false},
		{"mixed up", TLS{Enabled: true, CertFile: key, KeyFile: cert}, false},
	} {
		got, err := test.tls.Config()
		if (err == nil) != test.ok || err == nil && (got != nil) != test.tls.Enabled {
			t.Errorf("%s: Config() = %v, %v, want ok: %t", test.name, got, err, test.ok)
		}
	}
}

// secureCluster takes TLS with client certificates, and the user u.
func secureCluster(t *testing.T, mechanism, certFile, keyFile string) (*kfake.Cluster, TLS) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := loadAuthorities(certFile)
	if err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, kfake.NumBrokers(3), kfake.SeedTopics(testPartitions, testTopic), kfake.EnableSASL(), kfake.Superuser(mechanism, "u", "p"),
		kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert, ClientCAs: pool}))
	return c, TLS{Enabled: true, CAFile: certFile, CertFile: certFile, KeyFile: keyFile}
}

func TestSecured(t *testing.T) {
	cert, key := certificate(t)
	for _, mechanism := range []string{Plain, ScramSHA256, ScramSHA512} {
		t.Run(mechanism, func(t *testing.T) {
			c, files := secureCluster(t, mechanism, cert, key)
			cfg, err := files.Config()
			if err != nil {
				t.Fatal(err)
			}
			s := newSink(t, Config{Brokers: c.ListenAddrs(), TLS: cfg, SASL: SASL{Mechanism: mechanism, Username: "u", Password: "p"}})
			a := new(answers)
			produce(t, s, a, record(testTopic, "key", "0"))
			flush(t, s)
			if err := firstError(a); err != nil {
				t.Errorf("done(%v), want nil", err)
			}
		})
	}
}

// TestSecurityOutages breaks the handshake or the login while records wait in
// the client, and mends it.
func TestSecurityOutages(t *testing.T) {
	t.Run("certificate", func(t *testing.T) {
		cert, key := certificate(t)
		c, files := secureCluster(t, Plain, cert, key)
		cfg, err := files.Config()
		if err != nil {
			t.Fatal(err)
		}
		var broken atomic.Bool
		var tries atomic.Int64
		cfg.VerifyConnection = func(tls.ConnectionState) error {
			if broken.Load() {
				tries.Add(1)
				return errors.New("certificate has expired")
			}
			return nil
		}
		holdAndMend(t, Config{Brokers: c.ListenAddrs(), TLS: cfg, SASL: SASL{Mechanism: Plain, Username: "u", Password: "p"}},
			func() { broken.Store(true) }, func() bool { return tries.Load() > 6 }, func() { broken.Store(false) })
	})
	for _, mechanism := range []string{Plain, ScramSHA256} {
		t.Run("password of "+mechanism, func(t *testing.T) {
			c := newCluster(t, kfake.NumBrokers(3), kfake.SeedTopics(testPartitions, testTopic), kfake.EnableSASL(), kfake.Superuser(mechanism, "u", "p"))
			var h *kfake.FaultHandle
			holdAndMend(t, Config{Brokers: c.ListenAddrs(), SASL: SASL{Mechanism: mechanism, Username: "u", Password: "p"}},
				func() {
					h = c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.SASLAuthenticate}, TopLevel: true, Err: kerr.SaslAuthenticationFailed, Count: -1})
				},
				func() bool { return h.Hits() > 6 }, func() { h.Remove() })
		})
	}
}

// holdAndMend hands records over between spoil and mend, which it calls once
// enough has gone wrong.
func holdAndMend(t *testing.T, cfg Config, spoil func(), enough func() bool, mend func()) {
	t.Helper()
	g := newGate()
	cfg.Dialer = g.dial
	s := newSink(t, cfg)
	a := new(answers)
	produce(t, s, a, record(testTopic, "key", "0"))
	flush(t, s)
	g.outage(true)
	spoil()
	g.outage(false)
	for i := 1; i < 20; i++ { // also for brokers that were never dialled: what was never sent fails more easily
		produce(t, s, a, record(testTopic, fmt.Sprint("key", i), fmt.Sprint(i)))
	}
	eventually(t, "enough attempts", enough)
	eventually(t, "not healthy", func() bool { return s.Healthy(t.Context()) != nil })
	mend()
	flush(t, s)
	for i, err := range a.list() {
		if err != nil {
			t.Fatalf("done %d: %v, want nil", i, err)
		}
	}
	if got := len(a.list()); got != 20 {
		t.Errorf("done was called %d times, want 20", got)
	}
}

// TestOwnErrorsOfMechanismsPass shows that the client library takes an error
// from before or within a login for one that may pass.
func TestOwnErrorsOfMechanismsPass(t *testing.T) {
	m := SASL{Mechanism: OAuthBearer, TokenFile: filepath.Join(t.TempDir(), "none")}.mechanism()
	_, _, err := m.Authenticate(t.Context(), "localhost:9092")
	if !errors.Is(err, os.ErrNotExist) || !kgo.IsRetryableBrokerErr(err) {
		t.Errorf("Authenticate() = %v, want a passing error", err)
	}
	m = SASL{Mechanism: ScramSHA256, Username: "u", Password: "p"}.mechanism()
	session, _, err := m.Authenticate(t.Context(), "localhost:9092")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := session.Challenge([]byte("e=unknown-user")); err == nil || !kgo.IsRetryableBrokerErr(err) {
		t.Errorf("Challenge() = %v, want a passing error", err)
	}
}
