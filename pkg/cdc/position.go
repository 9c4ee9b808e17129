package cdc

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// LSN is a position in the Postgres write-ahead log.
type LSN uint64

// String formats the position the way Postgres prints it, as in 16/B374D848.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// MarshalText implements [encoding.TextMarshaler] with the form of String.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler] with ParseLSN.
func (l *LSN) UnmarshalText(text []byte) (err error) {
	*l, err = ParseLSN(string(text))
	return err
}

// ParseLSN reads the form that Postgres prints: two hexadecimal numbers of at
// most eight digits with a slash between them.
func ParseLSN(s string) (LSN, error) {
	high, low, ok := strings.Cut(s, "/")
	if ok {
		h, herr := parseHalf(high)
		l, lerr := parseHalf(low)
		if herr == nil && lerr == nil {
			return LSN(h)<<32 | LSN(l), nil
		}
	}
	return 0, fmt.Errorf("parse LSN %q: want two hexadecimal numbers as in 16/B374D848", s)
}

func parseHalf(s string) (uint64, error) {
	if len(s) > 8 || strings.ContainsAny(s, "+_") {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseUint(s, 16, 32)
}

// Position is a place in the history of one cluster.
type Position struct {
	SystemID uint64 `json:"system_id,string"` // as IDENTIFY_SYSTEM and pg_control_system() print it
	Timeline uint32 `json:"timeline"`
	LSN      LSN    `json:"lsn"`

	// Partial is what has been delivered beyond LSN, if anything.
	Partial Partial `json:"partial,omitzero"`
}

// Partial says that of the first transaction after a position the first rows
// have been delivered. It lets a pipeline that was stopped inside a transaction
// go on without repeating them. A count says which rows only as long as the same
// rows are counted: LastID tells whether they are.
type Partial struct {
	CommitLSN LSN    `json:"commit_lsn"`
	Rows      int64  `json:"rows"`
	LastID    string `json:"last_id"` // of the last of these rows; empty if it has none
}

// IsZero reports whether p is no position at all.
func (p Position) IsZero() bool { return p == Position{} }

// Checkpoint is a saved position and who owns it.
type Checkpoint struct {
	Position
	Epoch   int64     `json:"epoch"`    // rises with every Acquire; zero if there is no checkpoint
	SavedAt time.Time `json:"saved_at"` // zero if nothing was saved yet
}
