package pgoutput

import (
	"testing"

	"github.com/walpost/walpost/pkg/cdc"
)

// outboxInsert is a row of seven columns, as an outbox has.
func outboxInsert(xid uint32) []byte {
	text := func(s string) cdc.Value { return cdc.Value{Format: cdc.Text, Data: []byte(s)} }
	return encode(&Insert{XID: xid, RelationID: 16385, Values: []cdc.Value{
		text("0192d3a4-5b6c-7d8e-9f00-112233445566"),
		text("order"),
		text("order-4711"),
		text("OrderPlaced"),
		{Format: cdc.Binary, Data: make([]byte, 300)},
		{Format: cdc.Null},
		text("2025-01-02 03:04:05.678901+00"),
	}})
}

func BenchmarkDecodeInsert(b *testing.B) {
	for name, data := range map[string][]byte{"whole": outboxInsert(0), "streamed": outboxInsert(7)} {
		b.Run(name, func(b *testing.B) {
			d := Decoder{inStream: name == "streamed"}
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := d.Decode(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDecode is a transaction of one row, in its envelopes.
func BenchmarkDecode(b *testing.B) {
	var stream [][]byte
	for _, m := range [][]byte{goldenOf(b, "begin"), outboxInsert(0), goldenOf(b, "commit")} {
		stream = append(stream, append(make([]byte, 0, 25+len(m)), append(append([]byte{'w'}, make([]byte, 24)...), m...)...))
	}
	var d Decoder
	b.ReportAllocs()
	for b.Loop() {
		for _, data := range stream {
			x, err := DecodeXLogData(data)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := d.Decode(x.Data); err != nil {
				b.Fatal(err)
			}
		}
	}
}
