package admin

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/circuit"
)

// stallTime is how long nothing may be acknowledged before a lag counts as
// standing still rather than as a backlog being worked off.
const stallTime = 10 * time.Second

// maxSave is how long a save may take. It is bounded by itself, but to more than a
// fault may go unnoticed.
const maxSave = 5 * time.Second

// Condition is what readiness is judged by.
type Condition struct {
	Pipeline cdc.Status
	Postgres error // why nothing comes from Postgres, or nil
	Kafka    error // why Kafka takes nothing, or nil
	MaxLag   time.Duration
	Now      time.Time
}

// Ready returns a word for what the instance is doing, or why it is not ready.
func (c Condition) Ready() (string, error) {
	switch {
	case c.Pipeline.Standby:
		return "standby", nil
	case c.Pipeline.State != cdc.Streaming:
		// Kafka is asked for the position, too, and for dead letters.
		switch err := cmp.Or(c.Pipeline.Err, c.Postgres, c.Kafka); {
		case c.Pipeline.Err != nil && c.Kafka != nil:
			return "", fmt.Errorf("%s: %w; %w", c.Pipeline.State, c.Pipeline.Err, c.Kafka)
		case err != nil:
			return "", fmt.Errorf("%s: %w", c.Pipeline.State, err)
		}
		return "", errors.New(string(c.Pipeline.State))
	case c.Pipeline.Circuit != circuit.Closed && c.Pipeline.Err != nil:
		return "", fmt.Errorf("on probation: the last streams ended soon: %w", c.Pipeline.Err)
	case c.Postgres != nil:
		return "", c.Postgres
	case c.Kafka != nil:
		return "", c.Kafka
	case c.Pipeline.Held:
		return "", errors.New("held: as many events are dead as delivery.max_dead_letters allows, or parked as delivery.max_parked_events allows; walpost dlq list prints them")
	case !c.Pipeline.Saving.IsZero() && c.Now.Sub(c.Pipeline.Saving) > maxSave:
		return "", fmt.Errorf("checkpoint: a save has been under way for %s", c.Now.Sub(c.Pipeline.Saving).Round(time.Second))
	}
	lag := c.Pipeline.Lag(c.Now)
	if lag > c.MaxLag && c.Now.Sub(c.Pipeline.LastAck) > stallTime {
		return "", fmt.Errorf("standing still: the oldest unacknowledged commit is %s old, and nothing was acknowledged for %s",
			lag.Round(time.Second), stallTime)
	}
	return "streaming", nil
}
