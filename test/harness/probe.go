package harness

import (
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// FreeAddr returns a loopback address that nothing listens on now.
func FreeAddr(t testing.TB) string {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// probeTimeout bounds one question to walpost.
const probeTimeout = 5 * time.Second

// Metric returns the value of a metric without labels, or with the labels as
// they stand in name; false if there is none.
func Metric(ctx context.Context, addr, name string) (float64, bool) {
	for line := range strings.Lines(Metrics(ctx, addr)) {
		if text, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			return v, err == nil
		}
	}
	return 0, false
}

// Metrics returns all metrics as text, or nothing while walpost does not answer.
func Metrics(ctx context.Context, addr string) string {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return ""
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return ""
	}
	return string(text)
}

// Acknowledged returns walpost's watermark, or zero while it does not answer.
func Acknowledged(ctx context.Context, addr string) cdc.LSN {
	v, _ := Metric(ctx, addr, "walpost_acknowledged_lsn")
	return cdc.LSN(v)
}

// MustLSN parses what Postgres printed.
func MustLSN(t testing.TB, text string) cdc.LSN {
	t.Helper()
	lsn, err := cdc.ParseLSN(text)
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}
