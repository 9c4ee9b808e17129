package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
	sqlfiles "github.com/walpost/walpost/sql"
)

// slotsOf returns the slots that the steps make.
func slotsOf(steps []sqlfiles.Step) (names []string) {
	for _, s := range steps {
		if s.File != sqlfiles.Slot {
			continue
		}
		for _, o := range s.Objects {
			names = append(names, strings.Trim(o.Name, `"`)) // which one that begins with a digit has
		}
	}
	return names
}

// usedBefore refuses a number of shards from before: those of another number publish now, and of
// these the slots are gone and positions stand, by which walpost run would refuse new slots. They
// are not removed here: an instance from before that is started again would then take a new slot
// for its own. Where some of the slots are there, one was dropped, and walpost run tells what is
// lost; so it does where there are no others.
func usedBefore(ctx context.Context, conn *pgx.Conn, cfg config.Config, slots []string) error {
	store := cfg.Checkpoint.Store
	if len(slots) == 0 || store != config.StorePostgres && store != config.StoreKafka {
		return nil
	}
	there, others, err := pgsource.Shards(ctx, conn, slots[0])
	if err != nil || there || len(others) == 0 {
		return err
	}
	const query = `SELECT slot, coalesce(lsn::text, 'none') FROM walpost.checkpoint WHERE slot = ANY ($1) AND (lsn IS NOT NULL OR $2) ORDER BY slot LIMIT 1`
	var slot, lsn string
	err = conn.QueryRow(ctx, query, slots, store == config.StoreKafka).Scan(&slot, &lsn)
	var pgErr *pgconn.PgError
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case errors.As(err, &pgErr) && slices.Contains([]string{"42P01", "3F000", "42501"}, pgErr.Code):
		return nil // no table yet, or one that this role may not read
	case err != nil:
		return fmt.Errorf("look for earlier positions: %w", err)
	case store == config.StoreKafka:
		return cdc.Refuse("set postgres.slot to another name: with exactly-once the positions from before are in Kafka, and stay there",
			"slot %q was used before, and is gone", slot)
	}
	return cdc.Refuse("see that no instance from before runs, and that what was committed since is published by the others; then DELETE FROM walpost.checkpoint WHERE "+sameNumber(slots),
		"slot %q was used before, and is gone, and its position stands at %s", slot, lsn)
}

// sameNumber is the condition for the rows of all slots of that number of shards.
func sameNumber(slots []string) string {
	if len(slots) == 1 {
		return "slot = '" + slots[0] + "'"
	}
	i := strings.LastIndex(slots[0], "_0_of_")
	return "slot ~ '^" + slots[0][:i] + "_[0-9]+" + slots[0][i+len("_0"):] + "$'"
}

// besideOthers tells who has just made slots that there are those of another number of shards.
func (c *cli) besideOthers(ctx context.Context, conn *pgx.Conn, slots []string, results []initResult) error {
	made := slices.ContainsFunc(results, func(r initResult) bool { return r.File == sqlfiles.Slot && r.State == stateCreated })
	if !made {
		return nil
	}
	_, others, err := pgsource.Shards(ctx, conn, slots[0])
	if err != nil || len(others) == 0 {
		return err
	}
	var names []string
	for _, n := range others {
		if n == 0 {
			names = append(names, "slots of all keys")
			continue
		}
		names = append(names, fmt.Sprintf("slots of %d shards", n))
	}
	c.hint("there are " + strings.Join(names, " and ") + " too, and what nobody reads keeps WAL: how the number of shards is changed is in the README")
	return nil
}
