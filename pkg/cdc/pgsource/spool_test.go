package pgsource

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"
)

func newTestSpool(t *testing.T, size int64, limit time.Duration) *spool {
	t.Helper()
	s, err := newSpool(t.TempDir(), size, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

// Whatever the sizes of writes and reads, what comes out is what went in, though the
// file is far smaller.
func TestSpool(t *testing.T) {
	s := newTestSpool(t, 1000, time.Minute)
	r := rand.New(rand.NewPCG(1, 2))
	want := make([]byte, 1_000_000)
	for i := range want {
		want[i] = byte(r.Uint32())
	}
	go func() {
		r := rand.New(rand.NewPCG(3, 4))
		var err error
		for rest := want; len(rest) > 0 && err == nil; {
			n := min(len(rest), 1+r.IntN(3000))
			_, err = s.Write(rest[:n])
			rest = rest[n:]
		}
		s.end(err)
	}()
	var got []byte
	buf := make([]byte, 1700)
	for {
		n, err := s.Read(buf[:1+r.IntN(len(buf))])
		got = append(got, buf[:n]...)
		if err == nil {
			continue
		}
		if !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		break
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, want the %d that were written", len(got), len(want))
	}
	if info, err := s.file.Stat(); err != nil || info.Size() != 1000 {
		t.Errorf("the file has %d bytes, want 1000; %v", info.Size(), err)
	}
}

// What was written before the end is read before its error.
func TestSpoolEnds(t *testing.T) {
	s := newTestSpool(t, 1000, time.Minute)
	if _, err := s.Write([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("cause")
	s.end(cause)
	if got, err := io.ReadAll(s); string(got) != "abc" || !errors.Is(err, cause) {
		t.Errorf("ReadAll() = %q, %v, want abc and the cause", got, err)
	}
}

func TestSpoolStalls(t *testing.T) {
	s := newTestSpool(t, 10, 20*time.Millisecond)
	n, err := s.Write(make([]byte, 11))
	if n != 10 || !errors.Is(err, errStalled) {
		t.Errorf("Write() = %d, %v, want 10, %v", n, err, errStalled)
	}
	s = newTestSpool(t, 10, time.Minute)
	time.AfterFunc(10*time.Millisecond, s.abandon)
	if _, err := s.Write(make([]byte, 11)); !errors.Is(err, errAbandoned) {
		t.Errorf("Write() = %v, want %v", err, errAbandoned)
	}
}

func TestSpoolFile(t *testing.T) {
	var failure *spoolError
	if _, err := newSpool(t.TempDir()+"/missing", 10, time.Minute); !errors.As(err, &failure) {
		t.Errorf("newSpool() = %v, want a spoolError", err)
	}
	s := newTestSpool(t, 10, time.Minute)
	s.close()
	if _, err := s.Write([]byte("a")); !errors.As(err, &failure) {
		t.Errorf("Write() = %v, want a spoolError", err)
	}
}
