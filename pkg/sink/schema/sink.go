// Package schema writes values in the wire format of Confluent's Schema Registry: a zero
// byte, the schema's id in four bytes, and the payload, which is JSON that was validated or
// the Avro that was made of it.
// https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
package schema

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/circuit"
)

const (
	// magic is the first byte of the wire format. No JSON begins with it.
	magic = 0

	// maxTopics bounds the topics whose schemas are remembered. Beyond it any of them is
	// forgotten: the one that was fetched first would be the next to be met, if they come
	// in turn. A schema that several have is in memory once; it takes 20 to 50 times its text.
	maxTopics = 10_000

	// refreshedTopics is how many topics are asked about again in Config.Refresh.
	refreshedTopics = 1000

	// requestTimeout bounds the fetch of one subject with what it refers to.
	requestTimeout = 10 * time.Second

	// retryInitial and retryMax bound the wait before the registry is asked again.
	retryInitial, retryMax = 100 * time.Millisecond, 3 * time.Second
)

// Config holds a Sink's settings. URL is required.
type Config struct {
	// URL is the registry's, http or https.
	URL string

	// Username and Password are for basic authentication. Empty is none.
	Username, Password string

	// DeadLetterTopic is a topic whose records go on as they are.
	DeadLetterTopic string

	// Transactional says that the inner sink is. Produce then returns [cdc.ErrWait] once
	// before it waits for the registry.
	Transactional bool

	// Refresh is how long a schema is used before the registry is asked for a later
	// one, and as much longer as there are more than 1,000 topics. A payload that does not
	// fit is asked about at once. Defaults to 1m.
	Refresh time.Duration

	// Logger defaults to slog's default.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.Refresh = cmp.Or(c.Refresh, time.Minute)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	return c
}

func (c Config) validate() error {
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New("schema: URL is none of http or https")
	}
	return nil
}

// Sink is a sink that writes the values of its records by the latest schema of the subject
// TOPIC-value. A null value goes on as it is, and so does one that begins with a zero byte:
// it is in the wire format already.
type Sink struct {
	cdc.Sink
	cfg     Config
	client  *sr.Client
	breaker *circuit.Breaker
	repeats circuit.Repeats

	// Owned by who calls Produce.
	known   map[string]*known    // by topic
	schemas map[source]*compiled // those of known
	quiet   time.Time            // before it nothing is refreshed
	told    bool                 // of a wait, and nothing was taken since

	mu   sync.Mutex
	down error // guarded by mu; why a record waits
}

// known is a schema and when it was the latest.
type known struct {
	*compiled
	fetched time.Time
}

// NewSink returns a Sink around inner, or what is wrong with cfg. It does not dial.
func NewSink(inner cdc.Sink, cfg Config) (*Sink, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	opts := []sr.ClientOpt{sr.URLs(cfg.URL), sr.UserAgent("walpost")}
	if cfg.Username != "" {
		opts = append(opts, sr.BasicAuth(cfg.Username, cfg.Password))
	}
	client, err := sr.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("open schema registry: %w", err)
	}
	return &Sink{Sink: inner, cfg: cfg, client: client, breaker: circuit.New(retryInitial, retryMax), known: map[string]*known{}, schemas: map[source]*compiled{}}, nil
}

// Healthy returns why a record waits for the registry, or nil. Safe to call from any
// goroutine.
func (s *Sink) Healthy() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down
}

// Check asks the registry, once, for the schema of a topic, or with an empty name only for its
// subjects. missing says that it has no schema for the topic, which comes with an error too.
// Safe to call from any goroutine.
func (s *Sink) Check(ctx context.Context, topic string) (missing bool, err error) {
	if topic == "" {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		_, err = s.client.Subjects(ctx)
		return false, err
	}
	_, err = s.fetch(ctx, subject(topic), nil)
	var answer *sr.ResponseError
	// Not any page that is not found: that may be no registry.
	// https://docs.confluent.io/platform/current/schema-registry/develop/api.html
	missing = errors.As(err, &answer) && (answer.ErrorCode == subjectNotFound || answer.ErrorCode == versionNotFound)
	return missing, err
}

// What a registry answers where there is nothing.
const (
	subjectNotFound = 40401
	versionNotFound = 40402
)

func (s *Sink) setDown(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = err
}

// Produce implements [cdc.Sink]. It also waits, until ctx is done, for a registry that does
// not answer, for a subject that is missing and for a schema that cannot be used. A payload
// that does not fit the latest schema is poison.
func (s *Sink) Produce(ctx context.Context, r *cdc.Record, done func(*cdc.Record, error)) error {
	payload := r.Value
	if payload != nil && (len(payload) == 0 || payload[0] != magic) && r.Topic != s.cfg.DeadLetterTopic {
		if err := s.write(ctx, r); err != nil {
			return err
		}
	}
	if err := s.Sink.Produce(ctx, r, done); err != nil {
		r.Value = payload // it is still the caller's
		return err
	}
	s.told = false
	return nil
}

// write makes the record's value of its payload. A payload that does not fit is compared
// with the schema that is the latest now: it may have been registered a moment ago.
func (s *Sink) write(ctx context.Context, r *cdc.Record) error {
	begun := time.Now()
	k, err := s.latest(ctx, r.Topic, begun.Add(-s.refresh()), false)
	if err != nil {
		return err
	}
	r.Room(headerBytes + len(r.Value))
	start := len(r.Buf)
	buf, err := k.append(r.Buf, r.Value)
	if err != nil && k.fetched.Before(begun) {
		if k, err = s.latest(ctx, r.Topic, begun, true); err != nil {
			return err
		}
		buf, err = k.append(r.Buf, r.Value)
	}
	if err != nil {
		return cdc.Poison(cdc.PoisonRow, "payload does not fit the schema of subject %s: %w", subject(r.Topic), err)
	}
	r.Buf, r.Value = buf, buf[start:len(buf):len(buf)]
	return nil
}

// subject is the name of a topic's subject by TopicNameStrategy.
func subject(topic string) string { return topic + "-value" }

// latest returns a topic's schema as it was at a time or later, and waits for it until ctx
// is done. One that was so earlier will do while the registry does not answer, unless it
// must be the latest.
func (s *Sink) latest(ctx context.Context, topic string, since time.Time, must bool) (*known, error) {
	k := s.known[topic]
	if k != nil && (!k.fetched.Before(since) || !must && time.Now().Before(s.quiet)) {
		return k, nil
	}
	defer s.setDown(nil)
	for {
		now := time.Now()
		c, err := s.fetch(ctx, subject(topic), s.schemas)
		if err == nil {
			s.breaker.Hurry()
			return s.remember(topic, c, now), nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		err = fmt.Errorf("schema registry: subject %s: %w", subject(topic), err)
		if k != nil && !must && isOutage(err) {
			s.quiet = time.Now().Add(s.cfg.Refresh)
			s.repeats.Log(s.cfg.Logger, slog.LevelWarn, "refresh", "going on with the schema that is known", "topic", topic, "error", err)
			return k, nil
		}
		if s.cfg.Transactional && !s.told {
			s.told = true
			return nil, cdc.ErrWait
		}
		s.setDown(err)
		s.repeats.Log(s.cfg.Logger, slog.LevelWarn, topic, "waiting for a schema, trying again", "topic", topic, "error", err,
			"hint", "register a JSON or Avro schema for the subject, or check kafka.schema_registry.url")
		if err := pause(ctx, s.breaker.Fail()); err != nil {
			return nil, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// refresh is [Config.Refresh] for as many topics as are known.
func (s *Sink) refresh() time.Duration {
	return s.cfg.Refresh * time.Duration(max(1, len(s.known)/refreshedTopics))
}

func (s *Sink) remember(topic string, c *compiled, now time.Time) *known {
	c.topics++
	s.schemas[c.source] = c
	s.forget(topic)
	if len(s.known) >= maxTopics {
		for other := range s.known {
			s.forget(other)
			break
		}
	}
	k := &known{c, now}
	s.known[topic] = k
	return k
}

// forget does nothing for a topic that is not known.
func (s *Sink) forget(topic string) {
	k := s.known[topic]
	if k == nil {
		return
	}
	delete(s.known, topic)
	if k.topics--; k.topics == 0 {
		delete(s.schemas, k.source)
	}
}

// isOutage reports whether err says nothing about the subject.
func isOutage(err error) bool {
	var answer *sr.ResponseError
	if errors.As(err, &answer) {
		return answer.StatusCode >= 500
	}
	return !errors.As(err, new(*unusableError))
}
