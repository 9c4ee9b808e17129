package crash

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// limitFaults change what a topic takes.
var limitFaults = []fault{{"broker: smaller batches only", 3, smallerBatches}}

// smallestLimit is a little more than the largest event takes by itself.
const smallestLimit = "36000"

// smallerBatches makes a broker refuse the batches that it took before, for a while.
// None of their events is poison.
func smallerBatches(ctx context.Context, s *stage, r *rand.Rand) error {
	topic := one(r, s.ledger.topics...)
	limit := smallestLimit
	alter := func(c kadm.AlterConfig) error {
		res, err := s.sampler.admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{c}, topic)
		for _, one := range res {
			if err == nil {
				err = one.Err
			}
		}
		return err
	}
	if err := alter(kadm.AlterConfig{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &limit}); err != nil {
		return err
	}
	<-time.After(between(r, 200*time.Millisecond, 2*time.Second)) // smaller meanwhile
	return alter(kadm.AlterConfig{Op: kadm.DeleteConfig, Name: "max.message.bytes"})
}
