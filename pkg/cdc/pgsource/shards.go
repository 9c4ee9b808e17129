package pgsource

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/pkg/cdc"
)

// What a database may have of a name, and of that name with _i_of_K after it for each of K shards.
const (
	slotNames        = "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()"
	publicationNames = "SELECT pubname::text FROM pg_publication"
)

// NoSlot returns err, the refusal of a slot that does not exist, with another hint if there are
// slots of that name for another number of shards: walpost init would make one beside them, which
// nobody reads and which keeps WAL.
func NoSlot(ctx context.Context, conn *pgx.Conn, name string, err error) error {
	return besideShards(ctx, conn, "slots", slotNames, name, err)
}

// noPublication does the same for a publication.
func noPublication(ctx context.Context, conn *pgx.Conn, name string, err error) error {
	return besideShards(ctx, conn, "publications", publicationNames, name, err)
}

func besideShards(ctx context.Context, conn *pgx.Conn, what, query, name string, err error) error {
	var refused *cdc.RefusedError
	if !errors.As(err, &refused) {
		return err
	}
	hint := refused.Hint
	_, own := splitShard(name)
	if own > 0 {
		hint = strings.Replace(hint, "walpost init", fmt.Sprintf("walpost init --shards %d without postgres.shard", own), 1)
	}
	sameNumber, others, failed := shardCounts(ctx, conn, query, name)
	if failed == nil && !sameNumber && len(others) > 0 {
		hint = otherShards(what, others)
	}
	return &cdc.RefusedError{Err: refused.Err, Hint: hint}
}

// RefuseBeside returns an error if a slot is missing beside those of another number of shards, with
// what that means: a change of the number has walpost init make it.
func RefuseBeside(ctx context.Context, conn *pgx.Conn, slot, meaning string) error {
	sameNumber, others, err := Shards(ctx, conn, slot)
	if err != nil || sameNumber || len(others) == 0 {
		return err
	}
	return cdc.Refuse(otherShards("slots", others), "slot %q does not exist, %s", slot, meaning)
}

// Shards reports whether there is a slot of the number of shards that slot is one of, and of which
// other numbers there are slots that are named alike; 0 is a slot of all keys.
func Shards(ctx context.Context, conn *pgx.Conn, slot string) (sameNumber bool, others []int, err error) {
	return shardCounts(ctx, conn, slotNames, slot)
}

// shardCounts does that for the names that the query returns.
func shardCounts(ctx context.Context, conn *pgx.Conn, query, like string) (sameNumber bool, others []int, err error) {
	rows, err := conn.Query(ctx, query)
	if err != nil {
		return false, nil, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return false, nil, err
	}
	base, own := splitShard(like)
	for _, name := range names {
		of, count := splitShard(name)
		switch {
		case of != base:
		case count == own:
			sameNumber = true
		default:
			others = append(others, count)
		}
	}
	slices.Sort(others)
	return sameNumber, slices.Compact(others), nil
}

var shardName = regexp.MustCompile(`^(.+)_[0-9]{1,2}_of_([1-9][0-9]?)$`)

// splitShard returns what is before _i_of_K in a shard's name, and K; a name without it, and 0.
func splitShard(name string) (base string, count int) {
	m := shardName.FindStringSubmatch(name)
	if m == nil {
		return name, 0
	}
	count, _ = strconv.Atoi(m[2]) // two digits
	return m[1], count
}

// otherShards is the way out where there are shards of other numbers.
func otherShards(what string, counts []int) string {
	var there, ways []string
	for _, n := range counts {
		if n == 0 {
			there, ways = append(there, what+" of all keys"), append(ways, "leave postgres.shard out")
			continue
		}
		there, ways = append(there, fmt.Sprintf("%s of %d shards", what, n)), append(ways, fmt.Sprintf("set postgres.shard to i/%d, with i from 0 to %d", n, n-1))
	}
	return "there are " + strings.Join(there, " and ") + ": " + strings.Join(ways, ", or ") + "; how the number of shards is changed is in the README"
}
