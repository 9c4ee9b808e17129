package kafka

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Config holds a Sink's settings. Brokers is required.
type Config struct {
	// Brokers are the addresses to learn the cluster from, each host:port or
	// a host with the port 9092.
	Brokers []string

	// ClientID is what brokers log and count this client under. Defaults to
	// "walpost".
	ClientID string

	// Compression is one of none, gzip, snappy, lz4 and zstd. Defaults to
	// lz4.
	Compression string

	// Linger is how long a record may wait for others to share its batch, at
	// most a minute. Zero sends at once: batches then form while earlier
	// ones are on their way.
	Linger time.Duration

	// MaxMessageBytes is the largest batch of uncompressed records that is
	// sent, and so the largest record. Zero takes the topic's own limit.
	MaxMessageBytes int

	// MaxInFlightBytes bounds what was handed over and is not yet done, with
	// a fixed overhead for each record. A larger record goes alone. Defaults
	// to 6 MiB.
	MaxInFlightBytes int64

	// CreateTopics creates topics that are missing, with Partitions and
	// ReplicationFactor, where zero leaves the number to the broker. Without
	// it the sink waits until somebody has created them.
	CreateTopics      bool
	Partitions        int
	ReplicationFactor int

	// TransactionTimeout is how long a transaction may be open before the
	// cluster aborts it. It also bounds how long consumers that read committed
	// records wait for a process that died. Defaults to a minute. For
	// [Transactional] only.
	TransactionTimeout time.Duration

	// DeadLetterTopic, if not empty, is a topic that must keep what it is
	// given. If the sink creates it, it does so in one partition, without a
	// limit of time, and for the largest records; MaxMessageBytes does not
	// hold for it. A topic that would drop records is warned about, and one
	// that is compacted refused.
	DeadLetterTopic string

	// TopicMet, if not nil, is called with the number of topics known when one is
	// added to them. It must not block.
	TopicMet func(topics int)

	// TLS, if not nil, is how brokers are dialled; see [TLS.Config]. A
	// missing ServerName is each broker's host.
	TLS *tls.Config

	// Authorities, if not nil, returns what takes the place of TLS.RootCAs in a dial, or
	// nil for these; see [TLS.Authorities]. It must be safe for concurrent use.
	Authorities func() *x509.CertPool

	// SASL authenticates the connections. Its zero value does not.
	SASL SASL

	// Logger defaults to slog's default.
	Logger *slog.Logger

	// Registerer takes the metrics. Without one they are not exported.
	Registerer prometheus.Registerer

	// Dialer opens the connections, for tests. Defaults to the network.
	Dialer func(ctx context.Context, network, address string) (net.Conn, error)
}

const (
	// maxRequestBytes is the default of socket.request.max.bytes, beyond
	// which a broker closes the connection.
	// https://kafka.apache.org/documentation/#brokerconfigs_socket.request.max.bytes
	maxRequestBytes = 100 << 20

	// requestOverhead is room in a request for all that is not the batch.
	requestOverhead = 1 << 10

	// maxBatchBytes is the largest batch that fits in a request.
	maxBatchBytes = maxRequestBytes - requestOverhead

	// minMessageBytes is the smallest limit that the client library takes.
	minMessageBytes = 512

	// maxNameLength bounds the client id, as the client library does.
	maxNameLength = 256

	// maxLinger bounds Linger, as the client library does.
	maxLinger = time.Minute
)

var codecs = map[string]func() kgo.CompressionCodec{
	"none":   kgo.NoCompression,
	"gzip":   kgo.GzipCompression,
	"snappy": kgo.SnappyCompression,
	"lz4":    kgo.Lz4Compression,
	"zstd":   kgo.ZstdCompression,
}

func (c Config) withDefaults() Config {
	c.ClientID = cmp.Or(c.ClientID, "walpost")
	c.Compression = cmp.Or(c.Compression, "lz4")
	c.MaxInFlightBytes = cmp.Or(c.MaxInFlightBytes, 6<<20)
	c.Partitions = cmp.Or(c.Partitions, -1)
	c.ReplicationFactor = cmp.Or(c.ReplicationFactor, -1)
	c.TransactionTimeout = cmp.Or(c.TransactionTimeout, time.Minute)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	if c.Dialer == nil {
		c.Dialer = new(net.Dialer).DialContext
	}
	return c
}

// validate returns all problems of a Config with its defaults.
func (c Config) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(len(c.Brokers) > 0, "brokers: none given")
	for _, b := range c.Brokers {
		check(strings.TrimSpace(b) != "", "brokers: an address is empty")
	}
	check(len(c.ClientID) <= maxNameLength, "client id: longer than %d bytes", maxNameLength)
	check(codecs[c.Compression] != nil, "compression %q: want none, gzip, snappy, lz4 or zstd", c.Compression)
	check(c.Linger >= 0 && c.Linger <= maxLinger, "linger %s: want 0 to %s", c.Linger, maxLinger)
	check(c.MaxMessageBytes == 0 || c.MaxMessageBytes >= minMessageBytes && c.MaxMessageBytes <= maxBatchBytes,
		"max message bytes %d: want 0, or %d to %d", c.MaxMessageBytes, minMessageBytes, maxBatchBytes)
	check(c.MaxInFlightBytes > 0, "max in-flight bytes %d: want more than 0", c.MaxInFlightBytes)
	check(c.Partitions == -1 || c.Partitions > 0 && c.Partitions <= 1<<20, "partitions %d: want 0 or more, at most %d", c.Partitions, 1<<20)
	check(c.ReplicationFactor == -1 || c.ReplicationFactor > 0 && c.ReplicationFactor < 1<<15, "replication factor %d: want 0 or more, at most %d", c.ReplicationFactor, 1<<15-1)
	check(c.TransactionTimeout >= time.Second, "transaction timeout %s: want at least 1s", c.TransactionTimeout)
	check(c.DeadLetterTopic == "" || isTopicName(c.DeadLetterTopic), "dead-letter topic %q: not a legal name", c.DeadLetterTopic)
	if err := c.SASL.validate(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
