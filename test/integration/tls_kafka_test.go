package integration

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// kafkaUser and kafkaPassword are of the one user that a secure broker knows.
const (
	kafkaUser     = "walpost"
	kafkaPassword = "right"
)

// secureKafka is a broker with an authorizer, on which the user may do nothing yet.
// Administration is without login, on the listener that is always there.
type secureKafka struct {
	*testenv.KafkaServer
	ca    *envtest.Authority
	admin *kadm.Client
}

// The listeners of a secure broker.
const (
	saslListener = "SASL" // a login over TLS
	mtlsListener = "MTLS" // a client certificate
	wrongHost    = "HOST" // a login over TLS, with a certificate for another host
)

func newSecureKafka(t *testing.T) *secureKafka {
	t.Helper()
	ca := envtest.NewAuthority(t)
	right, wrong := ca.Issue(t, "broker", "127.0.0.1"), ca.Issue(t, "broker", "kafka.example")
	properties := map[string]string{
		"authorizer.class.name":              "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
		"super.users":                        "User:ANONYMOUS",
		"sasl.enabled.mechanisms":            "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
		"listener.name.mtls.ssl.client.auth": "required",
		"ssl.principal.mapping.rules":        "RULE:^CN=(.*)$/$1/,DEFAULT",
		"transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
	}
	for listener, cert := range map[string]envtest.Certificate{saslListener: right, mtlsListener: right, wrongHost: wrong} {
		prefix := "listener.name." + strings.ToLower(listener) + "."
		for name, value := range map[string]string{
			"ssl.keystore.type": "PEM", "ssl.keystore.certificate.chain": cert.Cert, "ssl.keystore.key": cert.Key,
			"ssl.truststore.type": "PEM", "ssl.truststore.certificates": ca.PEM,
			"plain.sasl.jaas.config":         `org.apache.kafka.common.security.plain.PlainLoginModule required user_` + kafkaUser + `="` + kafkaPassword + `";`,
			"scram-sha-256.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
			"scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
		} {
			properties[prefix+name] = value
		}
	}
	k := envtest.NewKafka(t, testenv.KafkaConfig{
		Listeners:  map[string]string{saslListener: "SASL_SSL", mtlsListener: "SSL", wrongHost: "SASL_SSL"},
		Properties: properties,
	})
	s := &secureKafka{KafkaServer: k, ca: ca, admin: envtest.Admin(t, k.Addrs())}
	s.setPassword(t, kafkaPassword)
	return s
}

// setPassword sets the user's password for SCRAM.
func (k *secureKafka) setPassword(t *testing.T, password string) {
	t.Helper()
	for _, m := range []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512} { // a request may name a user once
		altered, err := k.admin.AlterUserSCRAMs(t.Context(), nil, []kadm.UpsertSCRAM{{User: kafkaUser, Mechanism: m, Iterations: 4096, Password: password}})
		if err == nil {
			err = altered.Error()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// allowAll lets the user do everything.
func (k *secureKafka) allowAll(t *testing.T) {
	t.Helper()
	all := kadm.NewACLs().Clusters().Topics("*").TransactionalIDs("*").Groups("*").ResourcePatternType(kadm.ACLPatternLiteral)
	k.create(t, all.Operations(kadm.OpAll).Allow("User:"+kafkaUser).AllowHosts("*"))
}

func (k *secureKafka) create(t *testing.T, acls *kadm.ACLBuilder) {
	t.Helper()
	results, err := k.admin.CreateACLs(t.Context(), acls)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
}

// login are the settings for a login over TLS.
func (k *secureKafka) login(listener, mechanism, password string) []string {
	return []string{
		"KAFKA_BROKERS=" + strings.Join(k.ListenerAddrs(listener), ","), "KAFKA_TLS_ENABLED=true", "KAFKA_TLS_CA_FILE=" + k.ca.File,
		"KAFKA_SASL_MECHANISM=" + mechanism, "KAFKA_SASL_USERNAME=" + kafkaUser, "KAFKA_SASL_PASSWORD=" + password,
	}
}

// certified are the settings for a client certificate.
func (k *secureKafka) certified(cert envtest.Certificate) []string {
	return []string{
		"KAFKA_BROKERS=" + strings.Join(k.ListenerAddrs(mtlsListener), ","), "KAFKA_TLS_ENABLED=true", "KAFKA_TLS_CA_FILE=" + k.ca.File,
		"KAFKA_TLS_CERT_FILE=" + cert.CertFile, "KAFKA_TLS_KEY_FILE=" + cert.KeyFile,
	}
}

// Each way into a Kafka with TLS works, also in transactions. What the broker, or
// walpost, refuses is an outage as any other: nothing is confirmed, and /readyz and the
// log say why.
func TestSecureKafka(t *testing.T) {
	k := newSecureKafka(t)
	k.allowAll(t)
	strangers := envtest.NewAuthority(t)
	const exactlyOnce = "DELIVERY_GUARANTEE=exactly-once"
	tests := []struct {
		name     string
		settings []string
		reason   string // empty if it works
		hint     string
	}{
		{name: "PLAIN", settings: k.login(saslListener, "PLAIN", kafkaPassword)},
		{name: "SCRAM-SHA-256", settings: k.login(saslListener, "SCRAM-SHA-256", kafkaPassword)},
		{name: "SCRAM-SHA-512", settings: k.login(saslListener, "SCRAM-SHA-512", kafkaPassword)},
		{name: "ClientCertificate", settings: k.certified(k.ca.Issue(t, kafkaUser))},
		{name: "ExactlyOnce", settings: append(k.login(saslListener, "SCRAM-SHA-512", kafkaPassword), exactlyOnce)},
		{name: "ExactlyOnceByCertificate", settings: append(k.certified(k.ca.Issue(t, kafkaUser)), exactlyOnce)},
		{name: "OtherHostByItsName", settings: append(k.login(wrongHost, "PLAIN", kafkaPassword), "KAFKA_TLS_SERVER_NAME=kafka.example")},

		{
			name: "UnknownAuthority", settings: append(k.login(saslListener, "PLAIN", kafkaPassword), "KAFKA_TLS_CA_FILE="+strangers.File),
			reason: "certificate signed by unknown authority", hint: "kafka.tls.ca_file",
		},
		{
			name: "OtherHost", settings: k.login(wrongHost, "PLAIN", kafkaPassword),
			reason: "certificate for 127.0.0.1", hint: "kafka.tls.server_name",
		},
		{name: "WrongPasswordPLAIN", settings: k.login(saslListener, "PLAIN", "wrong"), reason: "SASL_AUTHENTICATION_FAILED", hint: "check kafka.sasl"},
		{name: "WrongPasswordSCRAM", settings: k.login(saslListener, "SCRAM-SHA-512", "wrong"), reason: "SASL_AUTHENTICATION_FAILED", hint: "check kafka.sasl"},
		{name: "WrongPasswordExactlyOnce", settings: append(k.login(saslListener, "SCRAM-SHA-512", "wrong"), exactlyOnce), reason: "SASL_AUTHENTICATION_FAILED", hint: "check kafka.sasl"},
		{name: "StrangeClientCertificate", settings: k.certified(strangers.Issue(t, kafkaUser)), reason: "certificate", hint: "kafka.tls.cert_file"},
		{
			name: "NoClientCertificate", settings: append(k.certified(envtest.Certificate{}), "KAFKA_TLS_SERVER_NAME=127.0.0.1"),
			reason: "certificate", hint: "kafka.tls.cert_file",
		},
		{name: "NoTLS", settings: []string{"KAFKA_BROKERS=" + k.ListenerAddrs(mtlsListener)[0]}, reason: "", hint: "kafka.tls"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStage(t, envtest.NewDatabase(t), k.Addrs())
			s.set(tt.settings...)
			if slices.Contains(tt.settings, exactlyOnce) {
				s.set("CHECKPOINT_TOPIC=" + s.topic + ".progress")
			}
			s.fill(harness.OneRow, 1, 100)
			p := s.start("run")
			if tt.hint == "" {
				s.caughtUp(time.Minute)
				s.stop(p)
				if r := s.compare(harness.CheckCommitted); r.Duplicated > 0 {
					t.Errorf("%d duplicates", r.Duplicated)
				}
				return
			}
			s.notReady(p, tt.hint)
			if _, text := s.ready(); !strings.Contains(text, tt.reason) {
				t.Errorf("/readyz says %q, want %q", text, tt.reason)
			}
			if n := strings.Count(p.Log(), "level=WARN"); n > 20 {
				t.Errorf("%d warnings within seconds", n)
			}
			p.Signal(syscall.SIGTERM)
			s.wait(p, 30*time.Second) // nothing could be delivered, so it need not be clean
			if n := s.offsets(); n > 0 {
				t.Errorf("%d records were written", n)
			}
		})
	}
}
