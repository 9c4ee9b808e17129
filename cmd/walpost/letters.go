package main

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/walpost/walpost/internal/admin"
	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/pkg/cdc"
)

// letters are the dead letters on the status page: what walpost dlq does.
type letters struct{ cfg config.Config }

const (
	// maxShownLetters bounds the list.
	maxShownLetters = 200

	// settleTimeout bounds the wait for the instance that streams.
	settleTimeout = 20 * time.Second
)

// newLetters returns nil where they are not to be settled.
func newLetters(cfg config.Config) admin.Letters {
	if cfg.Admin.Token == "" || cfg.Delivery.Poison != config.PoisonDeadLetter {
		return nil
	}
	return letters{cfg}
}

func (l letters) List(ctx context.Context) (any, error) {
	lots, err := readLots(ctx, l.cfg, nil)
	if err != nil {
		return nil, err
	}
	list := []shownLot{}
	for _, lot := range lots.List() {
		if len(list) < maxShownLetters {
			list = append(list, showLot(lot))
		}
	}
	return list, nil
}

func (l letters) Settle(ctx context.Context, action cdc.Action, id string) (any, error) {
	return ask(ctx, l.cfg, &cdc.Request{ID: rand.Text(), Action: action, Letter: id}, settleTimeout)
}
