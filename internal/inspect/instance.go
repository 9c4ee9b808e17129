package inspect

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/walpost/walpost/internal/admin"
)

const (
	// askTimeout bounds the question to an instance.
	askTimeout = 3 * time.Second

	// maxAnswer is more than any answer has.
	maxAnswer = 16 << 20
)

// Ask returns the report of the instance whose admin server listens on an address, as in
// 127.0.0.1:9187, or at an URL.
func Ask(ctx context.Context, address string) (admin.Report, error) {
	var report admin.Report
	data, err := Fetch(ctx, address, "status")
	if err != nil {
		return report, err
	}
	if err := json.Unmarshal(data, &report); err != nil {
		return report, fmt.Errorf("ask the instance: %s is no walpost: %w", address, err)
	}
	return report, nil
}

// Fetch returns what an instance answers to a path. With an error for an answer other than 200
// comes its text.
func Fetch(ctx context.Context, address, path string) ([]byte, error) {
	at := address
	if !strings.Contains(at, "://") {
		at = "http://" + at
	}
	at, err := url.JoinPath(at, path)
	if err != nil {
		return nil, fmt.Errorf("admin server %q: %w", address, err)
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, fmt.Errorf("admin server %q: %w", address, err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the instance: %w", err)
	}
	defer func() { _ = res.Body.Close() }() // read to its end, or not needed
	data, err := io.ReadAll(http.MaxBytesReader(nil, res.Body, maxAnswer))
	switch {
	case err != nil:
		return nil, fmt.Errorf("ask the instance: %w", err)
	case res.StatusCode != http.StatusOK:
		return data, fmt.Errorf("ask the instance: %s answers %s", at, res.Status)
	}
	return data, nil
}
