package snapshot

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// firstXID is the first number that a transaction has; those before it are of frozen rows.
const firstXID = 3

// visible is which transactions a snapshot sees, as pg_snapshot has it. In one that was exported
// with a slot every transaction, and every subtransaction, that had not committed is listed.
// https://github.com/postgres/postgres/blob/master/src/backend/replication/logical/snapbuild.c, SnapBuildInitialSnapshot
type visible struct {
	xmin, xmax uint64
	missing    []uint64 // between the two, sorted
}

func parseVisible(s string) (v visible, err error) {
	fields := strings.Split(s, ":")
	if len(fields) != 3 {
		return v, fmt.Errorf("%q is no pg_snapshot", s)
	}
	if v.xmin, err = strconv.ParseUint(fields[0], 10, 64); err != nil {
		return v, fmt.Errorf("%q is no pg_snapshot: %w", s, err)
	}
	if v.xmax, err = strconv.ParseUint(fields[1], 10, 64); err != nil {
		return v, fmt.Errorf("%q is no pg_snapshot: %w", s, err)
	}
	if fields[2] == "" {
		return v.whole(), nil
	}
	for text := range strings.SplitSeq(fields[2], ",") {
		xid, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return v, fmt.Errorf("%q is no pg_snapshot: %w", s, err)
		}
		v.missing = append(v.missing, xid)
	}
	slices.Sort(v.missing)
	return v.whole(), nil
}

// whole raises xmax to xmin. In a snapshot that comes with a slot xmax lies behind the last
// transaction that has committed, and xmin at the first that still runs: all between the two have
// rolled back.
func (v visible) whole() visible {
	v.xmax = max(v.xmin, v.xmax)
	return v
}

// lacks returns a transaction that v sees and now, a later snapshot, does not, if there is one. Its
// commit record was in WAL before it ended for others, as one that waits for a standby.
func (v visible) lacks(now visible) (xid uint64, ok bool) {
	for _, running := range now.missing {
		if running < v.xmax && !slices.Contains(v.missing, running) {
			return running, true
		}
	}
	return 0, false
}

// String is the form of pg_snapshot.
func (v visible) String() string {
	missing := make([]string, len(v.missing))
	for i, xid := range v.missing {
		missing[i] = strconv.FormatUint(xid, 10)
	}
	return fmt.Sprintf("%d:%d:%s", v.xmin, v.xmax, strings.Join(missing, ","))
}

// sees reports whether the snapshot sees a row that a transaction has written, of which a later
// snapshot whose xmax is next sees that it has committed. A row has the lower half of the number
// only, which means nothing once the row is frozen: that it lies in the short span between the
// two snapshots is then a chance of as many in four billion, and only for rows that are as old.
func (v visible) sees(xid uint32, next uint64) bool {
	if xid < firstXID {
		return true
	}
	if since := xid - uint32(v.xmax); next > v.xmax && uint64(since) < next-v.xmax {
		return false
	}
	for _, m := range v.missing {
		if uint32(m) == xid {
			return false
		}
	}
	return true
}
