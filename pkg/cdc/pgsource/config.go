package pgsource

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
)

// Table names an outbox table.
type Table struct{ Schema, Name string }

// String quotes the name where SQL needs it.
func (t Table) String() string { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }

// Failover says whether a slot is created as a failover slot.
type Failover string

// The choices for Config.Failover.
const (
	FailoverAuto Failover = "auto" // where the server has failover slots: Postgres 17 and later
	FailoverOn   Failover = "true"
	FailoverOff  Failover = "false"
)

// Config holds a source's settings. Slot, Publication and Tables are required.
type Config struct {
	// DSN is a connection string as libpq takes it, URL or keywords. Empty
	// means libpq's PG* variables.
	DSN string

	Slot, Publication string

	// Tables are the outbox tables. For a partitioned table its partitions
	// count as well, whether they are there now or come later.
	Tables []Table

	// Columns are the columns that rows of the tables are expected to have.
	// They are what tells a partition that has been dropped since from
	// another table of the publication.
	Columns []string

	// Binary reports whether values of a type may come in binary format.
	// The stream is binary if all columns of all tables have such types.
	// Nil means text.
	Binary func(oid uint32) bool

	// Describe asks the catalog for what [cdc.Column] has beside name and type.
	Describe bool

	// Messages makes events of messages too. Transactions are then streamed only once
	// they have committed. Nil reads tables alone.
	Messages *Messages

	// RefuseUpdates ends the stream with a refusal at an update of an outbox row, which is else
	// logged, and is no event either way.
	RefuseUpdates bool

	// Filtered says that the publication is known to have a row filter, which is else
	// warned of.
	Filtered bool

	// CreateSlot allows to create a missing slot at a first start.
	CreateSlot bool

	// Exported, if not nil, has a slot that Open creates be created with a snapshot, and is
	// called with it before Open returns. If it fails, Open does, and leaves the slot.
	Exported func(context.Context, Exported) error

	// Failover defaults to FailoverAuto.
	Failover Failover

	// WaitForSlot makes Open wait for a slot that is in use, as a standby.
	// Else it refuses.
	WaitForSlot bool

	// StatusInterval is the time between two standby status messages. It is
	// cut to a third of the session's wal_sender_timeout. Defaults to 5s.
	StatusInterval time.Duration

	// MaxTxMemory bounds the memory, in bytes, for transactions that are
	// streamed before they commit. Beyond it they are kept in files.
	// Defaults to 8 MiB.
	MaxTxMemory int64

	// PullAbove is how many bytes of WAL the stream may be behind before what
	// follows is pulled through a query, which is several times faster and
	// takes a second slot for as long. Negative means never. Defaults to
	// 32 MiB.
	PullAbove int64

	// SpillDir is the folder for these files, and for one of 256 MiB at most while
	// a backlog is pulled. They have no name: whatever
	// happens to the process, they are gone with it. Defaults to the
	// operating system's folder for temporary files.
	SpillDir string

	// Registerer takes the metrics. Nil means none are exported.
	Registerer prometheus.Registerer

	// Logger defaults to slog's default.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.Failover = cmp.Or(c.Failover, FailoverAuto)
	c.StatusInterval = cmp.Or(c.StatusInterval, 5*time.Second)
	c.MaxTxMemory = cmp.Or(c.MaxTxMemory, 8<<20)
	c.PullAbove = cmp.Or(c.PullAbove, 32<<20)
	c.SpillDir = cmp.Or(c.SpillDir, os.TempDir())
	c.Logger = cmp.Or(c.Logger, slog.Default())
	if c.Binary == nil {
		c.Binary = func(uint32) bool { return false }
	}
	return c
}

// slotName is what the server takes.
// https://www.postgresql.org/docs/current/warm-standby.html#STREAMING-REPLICATION-SLOTS-MANIPULATION
var slotName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

func (c Config) validate() error {
	var errs []error
	if !slotName.MatchString(c.Slot) {
		errs = append(errs, fmt.Errorf("slot %q: want 1 to 63 lower-case letters, digits and underscores", c.Slot))
	}
	if c.Publication == "" {
		errs = append(errs, errors.New("publication is empty"))
	}
	if len(c.Tables) == 0 {
		errs = append(errs, errors.New("no outbox table"))
	}
	if _, err := pgx.ParseConfig(c.DSN); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
