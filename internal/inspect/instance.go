package inspect

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/walpost/walpost/internal/admin"
)

// askTimeout bounds the question to an instance.
const askTimeout = 3 * time.Second

// maxReport is more than any report has.
const maxReport = 1 << 20

// Ask returns the report of the instance whose admin server listens on an address, as in
// 127.0.0.1:9187, or at an URL.
func Ask(ctx context.Context, address string) (admin.Report, error) {
	var report admin.Report
	at := address
	if !strings.Contains(at, "://") {
		at = "http://" + at
	}
	at, err := url.JoinPath(at, "status")
	if err != nil {
		return report, fmt.Errorf("admin server %q: %w", address, err)
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return report, fmt.Errorf("admin server %q: %w", address, err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return report, fmt.Errorf("ask the instance: %w", err)
	}
	defer func() { _ = res.Body.Close() }() // read to its end, or not needed
	if res.StatusCode != http.StatusOK {
		return report, fmt.Errorf("ask the instance: %s answers %s", at, res.Status)
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, res.Body, maxReport)).Decode(&report); err != nil {
		return report, fmt.Errorf("ask the instance: %s is no walpost: %w", at, err)
	}
	return report, nil
}
