package clone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/circuit"
	"github.com/walpost/walpost/pkg/sink/kafka"
)

// Notes keeps marks by their keys, as [kafka.Notes] does. Its methods are safe for
// concurrent use.
type Notes interface {
	Read(ctx context.Context, key string) ([]byte, error)
	Write(ctx context.Context, key string, note []byte) error
	Ping(ctx context.Context) error
}

// Config says whose marks a Guard keeps, and where. All fields are required.
type Config struct {
	Slot  string
	Topic string // where events go, as outbox.topic has it
	Store string // what keeps the checkpoint
	Owner string // of the marks that are written, for people
	Notes Notes

	Logger *slog.Logger
}

const (
	// interval is the least time between two marks, and unusableInterval that after one for
	// which the topic could not be used.
	interval         = 10 * time.Second
	unusableInterval = 5 * time.Minute

	// writeTimeout bounds the writing of one, and lastTimeout that of the last, which a
	// stop waits for.
	writeTimeout = 10 * time.Second
	lastTimeout  = time.Second

	// readTimeout bounds one try to read a mark, and pingTimeout the question whether there
	// is a broker at all.
	readTimeout = 4 * time.Second
	pingTimeout = 2 * time.Second

	// retryInterval is the wait before the brokers are asked again.
	retryInterval = 250 * time.Millisecond
)

// Guard stands between a pipeline and its source and store. It refuses a start on a copy
// of the server, and notes how far this one is published: a help, which delivery and saves
// never wait for.
type Guard struct {
	cfg     Config
	repeats circuit.Repeats
	moved   chan struct{} // receives a value when something is due; capacity 1

	mu      sync.Mutex     // guards the rest
	server  cdc.Position   // as it was when the source was opened
	loaded  cdc.Checkpoint // the last
	mine    bool           // this process has acquired the checkpoint, and that made epoch
	epoch   int64
	due     cdc.Position // to be noted, or zero
	noted   mark         // the last that was due
	useless bool         // the topic could not be used for the last mark
	told    bool         // that was said since it could be used
}

// mark is what is compared to tell whether there is something new.
type mark struct {
	pos   cdc.Position
	epoch int64
}

// New returns a Guard, which is to be put before a source and a store, and run.
func New(cfg Config) *Guard { return &Guard{cfg: cfg, moved: make(chan struct{}, 1)} }

// Run writes marks as saves make them due, until ctx is done, and then returns nil.
func (g *Guard) Run(ctx context.Context) error {
	_ = g.ping(ctx) // the connection is there when the source asks
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-g.moved:
		}
		timer.Reset(g.write(ctx, writeTimeout))
	}
}

// Last writes the mark that is due, if there is one, for a second at the most. It must be
// called when Run has returned and nothing is saved any more.
func (g *Guard) Last(ctx context.Context) {
	g.mu.Lock()
	useless := g.useless
	g.mu.Unlock()
	if useless {
		return
	}
	g.write(context.WithoutCancel(ctx), lastTimeout)
}

// write writes the mark that is due, and returns how long the next has to wait. If it fails
// the mark stays due.
func (g *Guard) write(ctx context.Context, limit time.Duration) time.Duration {
	g.mu.Lock()
	pos, epoch := g.due, g.epoch
	g.due = cdc.Position{}
	g.mu.Unlock()
	if pos.IsZero() {
		return interval
	}
	note, err := json.Marshal(Mark{
		Slot: g.cfg.Slot, Owner: g.cfg.Owner, Store: g.cfg.Store,
		Checkpoint: cdc.Checkpoint{Position: pos, Epoch: epoch, SavedAt: time.Now().UTC()},
	})
	if err == nil {
		wctx, cancel := context.WithTimeout(ctx, limit)
		err = g.cfg.Notes.Write(wctx, g.key(pos.SystemID), note)
		cancel()
	}
	if err == nil {
		g.wrote()
	} else {
		g.cfg.Logger.Debug("how far the database is published is not noted", "lsn", pos.LSN.String(), "err", err)
		g.again(pos, epoch, err)
	}
	if errors.Is(err, kafka.ErrUnusable) {
		g.tell(err)
		return unusableInterval
	}
	return interval
}

func (g *Guard) wrote() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.useless, g.told = false, false
}

// again makes due what was not written because of err, unless something newer is.
func (g *Guard) again(pos cdc.Position, epoch int64, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.useless = errors.Is(err, kafka.ErrUnusable)
	if g.due.IsZero() && g.epoch == epoch && g.mine {
		g.due = pos
		g.signal()
	}
}

// tell says, once as long as that lasts, what it means that the topic cannot be used.
func (g *Guard) tell(err error) {
	g.mu.Lock()
	before := g.told
	g.told = true
	g.mu.Unlock()
	if !before {
		g.cfg.Logger.Info("a copy of the server's disk at the same brokers would not be noticed: how far the database is published cannot be noted, or read", "err", err)
	}
}

func (g *Guard) signal() {
	select {
	case g.moved <- struct{}{}:
	default:
	}
}

func (g *Guard) key(systemID uint64) string { return key(systemID, g.cfg.Slot, g.cfg.Topic) }

func (g *Guard) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	return g.cfg.Notes.Ping(ctx)
}

// suspicion is a mark that a server has not agreed with whose values may be older than it.
type suspicion struct {
	mark    Mark
	refused error
}

func (s *suspicion) Error() string { return s.refused.Error() }
func (s *suspicion) Unwrap() error { return s.refused }

// check refuses to begin on a copy: with a [suspicion], unless what it knows of the server is
// younger than the mark, which earlier is. It waits, until ctx is done, for brokers that do
// not answer: without them nothing can be delivered. If they do and there is still no mark to
// be had, as of a partition without a leader, it goes on without.
func (g *Guard) check(ctx context.Context, earlier *suspicion) error {
	g.mu.Lock()
	own, server, known := g.loaded, g.server, g.mine && g.loaded.Epoch == g.epoch
	g.mu.Unlock()
	if known {
		return nil // nobody has published since this process did
	}
	if earlier != nil {
		if err := earlier.mark.judge(own, g.cfg.Store, server); err != nil {
			return err
		}
	}
	key := g.key(server.SystemID)
	note, err := g.read(ctx, key)
	switch {
	case errors.Is(err, kafka.ErrUnusable):
		g.tell(err)
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		g.cfg.Logger.Warn("whether this server is a copy of another is not known: how far the database was published cannot be read", "err", err)
		return nil
	case note == nil:
		return nil
	}
	m, err := parse(note)
	if err != nil {
		g.cfg.Logger.Warn("passing over a note of how far the database was published that is none of walpost's", "key", key, "err", err)
		return nil
	}
	if err := m.judge(own, g.cfg.Store, server); err != nil {
		return &suspicion{m, err}
	}
	if own.Epoch == 0 && m.Epoch > 0 {
		g.forget(ctx, key)
	}
	return nil
}

// forget removes the mark of a checkpoint that was removed since: the first position in the
// one to come would be judged by it, if this process ended before it has noted that.
func (g *Guard) forget(ctx context.Context, key string) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if err := g.cfg.Notes.Write(ctx, key, nil); err != nil {
		g.cfg.Logger.Warn("what is noted of how far the database was published is of a checkpoint that is gone, and is not removed", "err", err)
	}
}

// read reads a note, as soon as there are brokers.
func (g *Guard) read(ctx context.Context, key string) ([]byte, error) {
	for {
		rctx, cancel := context.WithTimeout(ctx, readTimeout)
		note, err := g.cfg.Notes.Read(rctx, key)
		cancel()
		if err == nil || errors.Is(err, kafka.ErrUnusable) || ctx.Err() != nil {
			return note, err
		}
		away := g.ping(ctx)
		if away == nil {
			return nil, err
		}
		if ctx.Err() == nil {
			g.repeats.Log(g.cfg.Logger, slog.LevelWarn, "read", "how far the database was published is not known yet, trying again", "err", away)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(retryInterval):
		}
	}
}

// Free removes the mark of a database and slot, so that a start on any server goes by what
// that knows itself. It does nothing if there is none, or none that walpost could see.
func Free(ctx context.Context, notes Notes, systemID uint64, slot, topic string) error {
	key := key(systemID, slot, topic)
	note, err := notes.Read(ctx, key)
	if errors.Is(err, kafka.ErrUnusable) || err == nil && note == nil {
		return nil
	}
	if err == nil {
		err = notes.Write(ctx, key, nil)
	}
	if err != nil {
		return fmt.Errorf("remove the note of how far slot %q was published: %w", slot, err)
	}
	return nil
}
