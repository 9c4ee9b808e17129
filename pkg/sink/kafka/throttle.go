package kafka

import (
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// throttled is a pause that a broker has asked for, because of a quota: nothing is sent to it
// meanwhile. Its zero value is none.
type throttled struct {
	broker string
	pause  time.Duration
	until  time.Time
}

// slowThrottle is the shortest pause that is worth a line in the log.
const slowThrottle = 100 * time.Millisecond

// OnBrokerThrottle implements [kgo.HookBrokerThrottle].
func (h *health) OnBrokerThrottle(broker kgo.BrokerMetadata, pause time.Duration, _ bool) {
	t := throttled{net.JoinHostPort(broker.Host, strconv.Itoa(int(broker.Port))), pause, time.Now().Add(pause)}
	h.mu.Lock()
	if t.until.After(h.throttle.until) {
		h.throttle = t
	}
	h.mu.Unlock()
	if pause >= slowThrottle {
		h.warn("throttle", "a quota of the broker's slows walpost down", "broker", t.broker, "throttle", pause.String(), "hint", hintQuota)
	}
}

const hintQuota = "raise producer_byte_rate or request_percentage of the user, or of the client id walpost, with kafka-configs.sh"

// holds returns an error while the pause lasts, or did a moment ago.
func (t throttled) holds() error {
	if time.Since(t.until) > stallAfter {
		return nil
	}
	return fmt.Errorf("kafka: a quota of broker %s holds records up: it has asked for a pause of %s", t.broker, t.pause)
}
