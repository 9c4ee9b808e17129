package main

import (
	"context"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/walpost/walpost/pkg/cdc"
)

// notifyInterval is the time between two looks at what there is to tell.
const notifyInterval = time.Second

// notify tells systemd, if that has started the process, that it is up, what it is doing, and
// from time to time that it is alive. The service is up once it runs: while a server is away it
// is up and not ready, and must not be killed for that. It returns when ctx is done.
func (s *service) notify(ctx context.Context) error {
	tell := func(state string) bool {
		sent, err := daemon.SdNotify(false, state)
		if err != nil {
			s.log.Debug("tell systemd", "error", err)
		}
		return sent
	}
	if !tell(daemon.SdNotifyReady) {
		return nil // there is no systemd
	}
	defer tell(daemon.SdNotifyStopping)
	watchdog, _ := daemon.SdWatchdogEnabled(false) // zero if it is not on
	ticker := time.NewTicker(notifyInterval)
	defer ticker.Stop()
	var said string
	var alive time.Time
	for {
		word, err := s.ready(ctx)
		if err != nil {
			word = cdc.OneLine(err)
		}
		if word != said && ctx.Err() == nil {
			said = word
			tell("STATUS=" + word)
		}
		if watchdog > 0 && time.Since(alive) >= watchdog/3 {
			alive = time.Now()
			tell(daemon.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
