package inspect

import (
	"context"
	"time"

	"github.com/walpost/walpost/internal/partition"
)

// fewPeriods is how many periods ahead should at least be made: walpost run makes seven, and
// looks each hour.
const fewPeriods = 3

// partitions sees whether those to come are made: where there is none inserts fail.
func (p *Postgres) partitions(ctx context.Context) (*Check, error) {
	var last *Check
	for _, name := range p.Outbox {
		t, err := partition.Find(ctx, p.Conn, name)
		if err != nil {
			return nil, err
		}
		if t == nil {
			continue
		}
		if last, err = p.ahead(ctx, t, name.Sanitize()); err != nil || last.Verdict != OK {
			return last, err
		}
	}
	return last, nil
}

func (p *Postgres) ahead(ctx context.Context, t *partition.Table, name string) (*Check, error) {
	all, err := t.List(ctx, p.Conn)
	if err != nil {
		return nil, err
	}
	var now time.Time
	if err := p.Conn.QueryRow(ctx, "SELECT now()").Scan(&now); err != nil {
		return nil, err
	}
	const mend = "start walpost run, which makes them, or see its log for what keeps it from that; walpost init --partitioned makes them at once"
	until := partition.Until(all, now)
	switch {
	case until == nil:
		return ok("table %s has partitions without end", name)
	case !until.After(now):
		return fail(mend, "table %s has no partition for now: inserts fail", name)
	case until.Before(t.Later(now, fewPeriods)):
		return warn(mend, "table %s has partitions until %s: inserts fail from then on", name, until.UTC().Format(time.RFC3339))
	}
	return ok("table %s is partitioned by %s, and has partitions until %s", name, t.Period, until.UTC().Format(time.RFC3339))
}
