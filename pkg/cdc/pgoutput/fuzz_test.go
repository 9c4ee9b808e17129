package pgoutput

import (
	"bytes"
	"testing"
	"time"
	"unsafe"

	"github.com/walpost/walpost/pkg/cdc"
)

// FuzzDecode checks that nothing makes the decoder panic or return bytes from
// outside of its input, and that what it accepts is what pglogrepl reads.
func FuzzDecode(f *testing.F) {
	for _, g := range goldens {
		f.Add(unhex(f, g.hex), g.streamed)
	}
	f.Fuzz(func(t *testing.T, data []byte, streamed bool) {
		// Bytes behind the input stand for the next message in the buffer.
		data = append(bytes.Clone(data), "next"...)[:len(data)]
		d := Decoder{inStream: streamed}
		m, err := d.Decode(data)
		if err != nil {
			checkSyntaxError(t, data, streamed)
			return
		}
		for _, b := range slicesOf(m) {
			checkInside(t, data, b)
		}
		checkAgainstOracle(t, data, streamed, m)
	})
}

// FuzzDecodeSequence checks that what a message leaves in the decoder does not
// show in the next one.
func FuzzDecodeSequence(f *testing.F) {
	for i := range goldens {
		next := goldens[(i+1)%len(goldens)]
		f.Add(unhex(f, goldens[i].hex), unhex(f, next.hex), next.streamed)
	}
	f.Fuzz(func(t *testing.T, first, second []byte, streamed bool) {
		used, fresh := Decoder{inStream: streamed}, Decoder{inStream: streamed}
		_, _ = used.Decode(first)
		used.inStream = streamed
		got, err := used.Decode(second)
		want, wantErr := fresh.Decode(second)
		if (err == nil) != (wantErr == nil) || err == nil && !same(got, want) {
			t.Errorf("Decode = %+v, %v, want %+v, %v", got, err, want, wantErr)
		}
	})
}

func FuzzDecodeEnvelope(f *testing.F) {
	f.Add(unhex(f, xLogDataHex+"45"))
	f.Add(unhex(f, keepaliveHex))
	f.Fuzz(func(t *testing.T, data []byte) {
		data = append(bytes.Clone(data), "next"...)[:len(data)]
		x, err := DecodeXLogData(data)
		checkInside(t, data, x.Data)
		if err == nil && len(x.Data) != len(data)-xLogDataHeader {
			t.Errorf("DecodeXLogData(%x): %d bytes of Data", data, len(x.Data))
		}
		if _, err := DecodePrimaryKeepalive(data); err == nil && len(data) != 18 {
			t.Errorf("DecodePrimaryKeepalive(%x) succeeded", data)
		}
	})
}

// slicesOf returns the bytes that m shares with its input.
func slicesOf(m Message) (all [][]byte) {
	add := func(values []cdc.Value) {
		for _, v := range values {
			all = append(all, v.Data)
		}
	}
	switch m := m.(type) {
	case *Insert:
		add(m.Values)
	case *Update:
		add(m.Old)
		add(m.New)
	case *Delete:
		add(m.Old)
	case *Origin:
		all = append(all, m.Name)
	case *LogicalMessage:
		all = append(all, m.Prefix, m.Content)
	}
	return all
}

func checkInside(t *testing.T, data, b []byte) {
	t.Helper()
	if b == nil {
		return
	}
	if len(b) != cap(b) {
		t.Errorf("%x has capacity %d", b, cap(b))
	}
	if len(b) == 0 {
		return
	}
	start := uintptr(unsafe.Pointer(unsafe.SliceData(data)))
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	if at < start || at+uintptr(len(b)) > start+uintptr(len(data)) {
		t.Errorf("%x is outside of the input %x", b, data)
	}
}

// checkAgainstOracle compares m with pglogrepl's reading, but for rows without
// columns and truncates without tables, which it refuses.
func checkAgainstOracle(t *testing.T, data []byte, streamed bool, m Message) {
	t.Helper()
	switch m := m.(type) {
	case *Insert:
		if len(m.Values) == 0 {
			return
		}
	case *Truncate:
		if len(m.RelationIDs) == 0 {
			return
		}
	}
	theirs, err := oracle(data, streamed)
	if err != nil || !same(inOracleTime(theirs), inOracleTime(m)) {
		t.Errorf("Decode(%x) = %+v, oracle: %+v, %v", data, m, theirs, err)
	}
}

// inOracleTime brings times into the range that pglogrepl can tell, where it
// wraps around.
func inOracleTime(m Message) Message {
	wrap := func(at time.Time) time.Time { return time.Unix(0, at.UnixNano()).UTC() }
	switch m := m.(type) {
	case *Begin:
		c := *m
		c.CommitTime = wrap(c.CommitTime)
		return &c
	case *Commit:
		c := *m
		c.CommitTime = wrap(c.CommitTime)
		return &c
	case *StreamCommit:
		c := *m
		c.CommitTime = wrap(c.CommitTime)
		return &c
	}
	return m
}
