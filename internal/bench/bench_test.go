package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/internal/testenv/envtest"
)

func TestMain(m *testing.M) { os.Exit(envtest.Main(m)) }

func TestValidate(t *testing.T) {
	good := Config{Events: 1, Bytes: MinBytes, Batch: 1, Rate: 1, Duration: time.Second}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	err := Config{Events: 0, Bytes: MinBytes - 1, Batch: 0, Rate: 1, Duration: time.Second - 1}.Validate()
	for _, flag := range []string{"--events", "--bytes", "--batch", "--duration"} {
		if err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%v: want %s in it", err, flag)
		}
	}
	if err := (Config{Events: 1, Bytes: MinBytes, Batch: 1}).Validate(); err != nil {
		t.Errorf("without a steady phase: %v", err)
	}
}

func TestPieces(t *testing.T) {
	for _, test := range []struct {
		events, batch, rows int64
		want                string
	}{
		{3, 1, 10, "[{1 1 true} {2 2 true} {3 3 true}]"},
		{7, 3, 10, "[{1 3 true} {4 6 true} {7 7 true}]"},
		{7, 5, 2, "[{1 2 false} {3 4 false} {5 5 true} {6 7 true}]"},
		{4, 100, 2, "[{1 2 false} {3 4 true}]"},
	} {
		if got := fmt.Sprint(slices.Collect(pieces(test.events, test.batch, test.rows))); got != test.want {
			t.Errorf("%+v: got %s", test, got)
		}
	}
}

func TestPlan(t *testing.T) {
	p := Config{Rate: 10, Duration: 2500 * time.Millisecond, Batch: 4}.plan()
	if p.events != 25 || p.transactions() != 7 || p.due(0) != 0 || p.due(5) != 2*time.Second {
		t.Errorf("%+v: %d transactions, the sixth due at %s", p, p.transactions(), p.due(5))
	}
	next := 0
	for i := range p.transactions() {
		first, last := p.span(i)
		if first != next || last < first {
			t.Errorf("transaction %d is %d to %d, want it to begin at %d", i, first, last, next)
		}
		next = last + 1
	}
	if next != p.events {
		t.Errorf("the last event is %d of %d", next, p.events)
	}
	if p := (Config{Rate: 5, Duration: time.Minute, Batch: 1000}).plan(); p.due(1) != time.Second {
		t.Errorf("the second transaction is due at %s, want one in every second", p.due(1))
	}
}

func TestFamily(t *testing.T) {
	f := family(Prefix + "0a1b2c_")
	one := f.member()
	if !memberName.MatchString(string(one)) || one == f.member() {
		t.Errorf("member() = %q", one)
	}
	names := []string{string(one), one.Progress(), Prefix + "ffffff_abcdef", string(f), string(f) + "UPPER1", string(f) + "toolong1", "walpost"}
	if got := f.members(names); !slices.Equal(got, []Names{one}) {
		t.Errorf("members() = %q, want %q", got, one)
	}
}

func TestHuman(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0s", 14187: "14.2µs", 1234567: "1.23ms", 26341 * time.Millisecond: "26.3s", 61234 * time.Millisecond: "1m1.2s"} {
		if got := human(d); got != want {
			t.Errorf("%d: %s, want %s", d, got, want)
		}
	}
}

// payload is what Postgres prints for a number.
func payload(n int64, bytes int) []byte {
	head, tail := fmt.Sprintf(`{"n": %d, "pad": "`, n), `"}`
	return []byte(head + strings.Repeat("x", bytes-len(head)-len(tail)) + tail)
}

func TestTally(t *testing.T) {
	const events = 130
	tally := newTally(events, 100)
	for n := int64(0); n <= events; n++ {
		if n != 64 { // lost
			tally.add([]byte(eventID(n)), payload(n, 100))
		}
	}
	if !tally.probed || tally.received != events-1 || tally.duplicated != 0 || tally.changed != 0 {
		t.Errorf("%d received, %d duplicated, %d changed", tally.received, tally.duplicated, tally.changed)
	}
	for _, again := range []int64{1, 63, 130} {
		tally.add([]byte(eventID(again)), payload(again, 100))
	}
	tally.add([]byte(eventID(1)), payload(64, 100)) // another's id
	tally.add([]byte(eventID(131)), payload(131, 100))
	tally.add(nil, []byte("null"))
	if tally.duplicated != 3 || tally.changed != 3 {
		t.Errorf("%d duplicated, %d changed, want 3 and 3", tally.duplicated, tally.changed)
	}
	sum := Summary{Load: Load{Events: events}}
	sum.count(&reader{tally: newTally(events, 100)})
	if sum.Lost != events || sum.OK() {
		t.Errorf("of nothing received %d are lost", sum.Lost)
	}
}

// testReader reads a topic of a broker in this process.
func testReader(t *testing.T, events int) (*reader, *kgo.Client) {
	t.Helper()
	addrs := envtest.FakeKafka(t).ListenAddrs()
	topic := envtest.CreateTopic(t, addrs, 3, nil)
	b := &bench{cfg: Config{Events: events, Bytes: 100, Kafka: []kgo.Opt{kgo.SeedBrokers(addrs...)}, Patience: 300 * time.Millisecond}, names: Names(topic)}
	r, err := b.newReader()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r, envtest.Client(t, addrs, kgo.DefaultProduceTopic(topic))
}

func produce(t *testing.T, cl *kgo.Client, numbers ...int64) {
	t.Helper()
	for _, n := range numbers {
		r := &kgo.Record{Value: payload(n, 100), Headers: []kgo.RecordHeader{{Key: "id", Value: []byte(eventID(n))}}}
		if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// The reader ends with the last event, sees what comes twice behind it, and gives up when
// nothing new comes.
func TestReader(t *testing.T) {
	r, cl := testReader(t, 5)
	r.patience = 10 * time.Second
	var fresh []int64
	r.fresh = func(n int64, _ time.Time) { fresh = append(fresh, n) }
	produce(t, cl, 1, 2, 2, 3, 5)
	if err := r.until(t.Context(), func() bool { return r.received >= 4 }); err != nil {
		t.Fatal(err)
	}
	if slices.Sort(fresh); !slices.Equal(fresh, []int64{1, 2, 3, 5}) {
		t.Errorf("new are %d", fresh)
	}
	r.patience = 300 * time.Millisecond
	if err := r.until(t.Context(), func() bool { return r.received >= 5 }); !errors.Is(err, errQuiet) {
		t.Errorf("until() = %v, want %v", err, errQuiet)
	}
	produce(t, cl, 4, 5, 5, 5)
	r.patience = 10 * time.Second
	if err := r.rest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.received != 5 || r.duplicated != 4 {
		t.Errorf("%d received, %d duplicated, want 5 and 4", r.received, r.duplicated)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.EOF)
	if err := r.until(ctx, func() bool { return false }); !errors.Is(err, io.EOF) {
		t.Errorf("until() = %v, want the context's cause", err)
	}
}

// command makes a bench whose process is a shell.
func command(script string) *bench {
	return &bench{cfg: Config{Walpost: func(ctx context.Context, _ Names) (*exec.Cmd, error) {
		return exec.CommandContext(ctx, "sh", "-c", script), nil
	}}}
}

// A process that ends by itself ends what is done beside it, and says why.
func TestBeside(t *testing.T) {
	wait := func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
	_, err := command("echo 'no such slot' >&2; exit 3").beside(t.Context(), wait)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(err.Error(), "no such slot") {
		t.Errorf("beside() = %v", err)
	}
	if _, err = command("exit 0").beside(t.Context(), wait); !errors.Is(err, errEnded) {
		t.Errorf("beside() = %v, want %v", err, errEnded)
	}
	ready := func(context.Context) error { return nil }
	const obedient = `trap 'exit 0' TERM; while :; do sleep 0.05; done`
	if u, err := command(obedient).beside(t.Context(), func(ctx context.Context) error {
		time.Sleep(300 * time.Millisecond) // for the shell to be one
		return ready(ctx)
	}); err != nil || u.cpu <= 0 {
		t.Errorf("beside() = %+v, %v", u, err)
	}
	if _, err := command("sleep 60").beside(t.Context(), ready); err == nil || !strings.Contains(err.Error(), "good order") {
		t.Errorf("beside() = %v, want that a signal has ended it", err)
	}
}
