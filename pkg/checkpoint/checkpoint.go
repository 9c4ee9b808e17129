// Package checkpoint keeps how far a slot has been published. Its stores
// implement [cdc.Store]:
//
//   - [Postgres] keeps a row in the database that the events come from, which
//     is what to use unless something speaks against it.
//   - [Slot] keeps nothing and trusts the slot's own position, for a database
//     in which nothing may be written. A crash of Postgres may set that
//     position back, and what follows it is then published again.
//   - [File] keeps a file on the machine that walpost runs on.
//
// The methods of all stores are safe for concurrent use. Each call is bounded
// by its context, and the wait for a server or another process also by 10 s.
// Close may be called more than once; what is called after it
// returns an error.
package checkpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/walpost/walpost/pkg/cdc"
)

var (
	_ cdc.Store = (*Postgres)(nil)
	_ cdc.Store = (*Slot)(nil)
	_ cdc.Store = (*File)(nil)
)

var errClosed = errors.New("store is closed")

func checkSlot(name string) error {
	if name == "" {
		return errors.New("slot is empty")
	}
	return nil
}

// because adds to err why ctx ended, if that is what happened: the layers below
// report no more than that it did.
func because(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if cause == nil || errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w: %w", cause, err)
}

// defaultOwner names this process for people to read.
func defaultOwner() string {
	host, _ := os.Hostname() // a name is a help and no need
	return fmt.Sprintf("%s/%d", cmp.Or(host, "unknown"), os.Getpid())
}
