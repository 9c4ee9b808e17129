package pgoutput

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"
	"pgregory.net/rapid"

	"github.com/walpost/walpost/pkg/cdc"
)

const (
	xLogDataHex  = "77 0000001600000abc 0000001600000def" + whenHex
	keepaliveHex = "6b 0000001600000abc" + whenHex + "01"
)

func TestDecodeXLogData(t *testing.T) {
	data := unhex(t, xLogDataHex+"45")
	got, err := DecodeXLogData(data)
	if err != nil {
		t.Fatalf("DecodeXLogData: %v", err)
	}
	want := XLogData{WALStart: 0x1600000abc, WALEnd: 0x1600000def, ServerTime: when, Data: []byte{'E'}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("DecodeXLogData = %+v, want %+v", got, want)
	}
	for n := range xLogDataHeader {
		checkEnvelopeError(t, data[:n], decodeXLogData)
	}
	if got, err := DecodeXLogData(data[:xLogDataHeader]); err != nil || len(got.Data) != 0 || cap(got.Data) != 0 {
		t.Errorf("DecodeXLogData without Data = %+v, %v", got, err)
	}
	checkEnvelopeError(t, append([]byte{'k'}, data[1:]...), decodeXLogData)
}

func TestDecodePrimaryKeepalive(t *testing.T) {
	data := unhex(t, keepaliveHex)
	got, err := DecodePrimaryKeepalive(data)
	if err != nil {
		t.Fatalf("DecodePrimaryKeepalive: %v", err)
	}
	if want := (PrimaryKeepalive{WALEnd: 0x1600000abc, ServerTime: when, ReplyRequested: true}); got != want {
		t.Errorf("DecodePrimaryKeepalive = %+v, want %+v", got, want)
	}
	for n := range data {
		checkEnvelopeError(t, data[:n], decodeKeepalive)
	}
	checkEnvelopeError(t, append(bytes.Clone(data), 0), decodeKeepalive)
	checkEnvelopeError(t, append([]byte{'w'}, data[1:]...), decodeKeepalive)
	checkEnvelopeError(t, append(data[:len(data)-1:len(data)-1], 2), decodeKeepalive)
}

func decodeXLogData(data []byte) error {
	_, err := DecodeXLogData(data)
	return err
}

func decodeKeepalive(data []byte) error {
	_, err := DecodePrimaryKeepalive(data)
	return err
}

func checkEnvelopeError(t *testing.T, data []byte, decode func([]byte) error) {
	t.Helper()
	var syntax *SyntaxError
	if err := decode(data); !errors.As(err, &syntax) || syntax.Offset > len(data) {
		t.Errorf("decode %x: %v, want a SyntaxError", data, err)
	}
}

func TestEnvelopeErrorsName(t *testing.T) {
	for data, want := range map[string]string{
		"":                              "decode XLogData at byte 0: want 25 bytes, have 0",
		"7700":                          "decode XLogData at byte 2: want 25 bytes, have 2",
		"6b" + strings.Repeat("00", 24): "decode XLogData at byte 0: have Primary Keepalive",
	} {
		if err := decodeXLogData(unhex(t, data)); err == nil || err.Error() != want {
			t.Errorf("DecodeXLogData(%s): %v, want %s", data, err, want)
		}
	}
}

func TestEnvelopeAgreesWithOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var e encoder
		e.u8('w')
		e.lsn(lsns.Draw(t, "start"))
		e.lsn(lsns.Draw(t, "end"))
		e.time(times.Draw(t, "time"))
		e.buf = append(e.buf, blobs.Draw(t, "data")...)
		x, err := DecodeXLogData(e.buf)
		theirX, theirErr := pglogrepl.ParseXLogData(e.buf[1:])
		wantX := XLogData{cdc.LSN(theirX.WALStart), cdc.LSN(theirX.ServerWALEnd), theirX.ServerTime.UTC(), theirX.WALData}
		if err != nil || theirErr != nil || !reflect.DeepEqual(x, wantX) {
			t.Fatalf("DecodeXLogData = %+v, %v, want %+v, %v", x, err, wantX, theirErr)
		}

		e = encoder{}
		e.u8('k')
		e.lsn(lsns.Draw(t, "end"))
		e.time(times.Draw(t, "time"))
		e.bool(rapid.Bool().Draw(t, "reply"))
		k, err := DecodePrimaryKeepalive(e.buf)
		theirK, theirErr := pglogrepl.ParsePrimaryKeepaliveMessage(e.buf[1:])
		wantK := PrimaryKeepalive{cdc.LSN(theirK.ServerWALEnd), theirK.ServerTime.UTC(), theirK.ReplyRequested}
		if err != nil || theirErr != nil || k != wantK {
			t.Fatalf("DecodePrimaryKeepalive = %+v, %v, want %+v, %v", k, err, wantK, theirErr)
		}
	})
}

func TestEnvelopeAllocatesNothing(t *testing.T) {
	for data, decode := range map[string]func([]byte) error{xLogDataHex: decodeXLogData, keepaliveHex: decodeKeepalive} {
		raw := unhex(t, data)
		got := testing.AllocsPerRun(100, func() {
			if err := decode(raw); err != nil {
				t.Fatal(err)
			}
		})
		if got != 0 {
			t.Errorf("%v: %v allocations, want 0", Kind(raw[0]), got)
		}
	}
}
