package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// maxBackoff bounds every wait before something is tried again, so that
	// a broker that comes back is used again within about that time.
	maxBackoff = time.Second

	// minBackoff is the first such wait.
	minBackoff = 50 * time.Millisecond

	// dialTimeout bounds a dial with its TLS handshake. A broker that came
	// back while a dial hangs is not noticed before.
	dialTimeout = 3 * time.Second

	// idleTimeout keeps connections open over quiet minutes, so that the
	// next event need not wait for a dial. It stays below the idle limits
	// of brokers (10 min) and of common load balancers (4 min), counted
	// twice, which is how long the client library may take.
	idleTimeout = 110 * time.Second

	// produceTimeout is how long a broker may wait for replicas, and with
	// requestOverrun how long an answer may take before the connection is
	// given up as dead.
	produceTimeout = 10 * time.Second
	requestOverrun = 5 * time.Second

	// transactionLinger is how long the first record after a commit waits at the
	// least, unless its own transaction is committed before: while the markers
	// of the last one are being written a broker refuses it, and then it waits
	// for 20 ms or more. What is refused nevertheless waits for a look at the
	// cluster, which therefore comes sooner than else.
	transactionLinger         = 5 * time.Millisecond
	transactionMetadataMinAge = 50 * time.Millisecond

	// metadataMinAge is the least time between two looks at the cluster.
	// What failed for a moved or missing leader waits for the next look.
	metadataMinAge = 250 * time.Millisecond
)

// backoff returns the wait before try number tries+1, with jitter.
func backoff(tries int) time.Duration {
	d := min(maxBackoff, minBackoff<<min(max(tries-1, 0), 10))
	return d*3/4 + rand.N(d/4)
}

// ClientOptions returns how brokers are reached, for a client of one's own beside the
// sink's, or all problems of c.
func (c Config) ClientOptions() ([]kgo.Opt, error) {
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return nil, err
	}
	return c.connection(), nil
}

// connection says how brokers are reached.
func (c Config) connection() []kgo.Opt {
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID(c.ClientID),
		kgo.SoftwareNameAndVersion("walpost", "1"),
		kgo.Dialer(c.dial),
		kgo.AlwaysRetryEOF(),
		kgo.RetryBackoffFn(backoff),
		kgo.MetadataMinAge(metadataMinAge),
		kgo.RequestTimeoutOverhead(requestOverrun),
		kgo.ConnIdleTimeout(idleTimeout),
		kgo.DisableClientMetrics(),
	}
	if m := c.SASL.mechanism(); m != nil {
		opts = append(opts, kgo.SASL(m))
	}
	return opts
}

// newClient makes a client, which dials when it is first used. Whatever may
// pass it repeats without end and in order; only a refusal ends a record.
func (s *Sink) newClient() (*kgo.Client, error) {
	opts := append(s.connectOpts(),
		kgo.RequiredAcks(kgo.AllISRAcks()), // idempotent, as is the default
		kgo.RecordPartitioner(newPartitioner()),
		compression(s.cfg.Compression),
		kgo.ProducerLinger(s.linger()),
		kgo.ProducerBatchMaxBytesFn(s.topics.limit),
		kgo.BrokerMaxWriteBytes(maxRequestBytes),

		// The budget is ours: the client's own must never block.
		kgo.MaxBufferedRecords(math.MaxInt32),

		kgo.RecordRetries(math.MaxInt64-1),
		kgo.UnknownTopicRetries(-1),
		kgo.ProduceRequestTimeout(produceTimeout),

		// A broker that lost what it knew about this producer gets the
		// unacknowledged batches again, in order. What it lost of the
		// acknowledged ones is the cluster's to answer for.
		kgo.ProducerOnDataLossDetected(s.health.dataLoss),
	)
	if s.txn != nil {
		opts = append(opts, kgo.Dialer(s.dial), kgo.TransactionalID(s.txn.name), kgo.TransactionTimeout(s.cfg.TransactionTimeout),
			kgo.ConcurrentTransactionsBackoff(transactionLinger), kgo.MetadataMinAge(transactionMetadataMinAge))
	}
	c, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	return c, nil
}

// linger is how long a record may wait for others to share its batch.
func (s *Sink) linger() time.Duration {
	if s.txn == nil {
		return s.cfg.Linger
	}
	return max(s.cfg.Linger, transactionLinger)
}

// connectOpts are what all clients of a sink have in common.
func (s *Sink) connectOpts() []kgo.Opt {
	return append(s.cfg.connection(), kgo.WithLogger(clientLog{s}), kgo.WithHooks(s.health))
}

// dial opens a connection. Whatever goes wrong is reported as a failed dial,
// also in the handshake: that is what the client library repeats, while a
// certificate that is not valid yet, or no more, would fail the records.
func (c Config) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := c.Dialer(ctx, network, address)
	if err == nil && c.TLS != nil {
		cfg := c.TLS
		if c.Authorities != nil {
			if pool := c.Authorities(); pool != nil {
				cfg = cfg.Clone()
				cfg.RootCAs = pool
			}
		}
		conn, err = handshake(ctx, conn, cfg, address)
	}
	if err == nil {
		return conn, nil
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return nil, err
	}
	return nil, &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("%s: %w", address, err)}
}

func handshake(ctx context.Context, conn net.Conn, cfg *tls.Config, address string) (net.Conn, error) {
	if cfg.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		cfg = cfg.Clone()
		cfg.ServerName = host
	}
	secured := tls.Client(conn, cfg)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("TLS handshake: %w", err), conn.Close())
	}
	return secured, nil
}
