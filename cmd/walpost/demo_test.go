package main

import (
	"context"
	"net"
	"net/http"
	"regexp"
	"testing"
	"time"
)

// Who has the demo served is told where to look, also where the usual address is in use.
func TestDemoServes(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var lc net.ListenConfig
	if l, err := lc.Listen(ctx, "tcp", "127.0.0.1:9187"); err == nil {
		defer l.Close()
	}
	shown := make(screens, 1000)
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, []string{"demo", "--serve", "--events", "10"}, nil, shown, shown) }()
	page := ""
	shown.next(t, "the address of the page", func(s string) bool {
		m := regexp.MustCompile("serving: .* see at (http://[^ ;]+); ").FindStringSubmatch(s)
		if m != nil {
			page = m[1]
		}
		return m != nil
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("%s answers %s", page, res.Status)
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if code := <-ended; code != exitOK {
		t.Errorf("exit %d, want %d", code, exitOK)
	}
}
