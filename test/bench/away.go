package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// listenerAway is the broker's listener whose clients come through a proxy.
const listenerAway = "AWAY"

// awayProxy makes the broker seem to be elsewhere.
type awayProxy struct{ *toxiproxy.Proxy }

// newAwayProxy takes an address, and carries nothing yet. The port is below those that the
// system gives to outgoing connections: none of these may take it meanwhile.
func newAwayProxy(ctx context.Context) (*awayProxy, error) {
	const first, ports = 20_000, 12_000
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.IntN(ports)))
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("an address for the proxy in front of the broker: %w", err)
	}
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	return &awayProxy{toxiproxy.NewProxy(server, "away", addr, "")}, l.Close()
}

// carry sends all to a server, and delays it so that an answer takes rtt.
func (a *awayProxy) carry(ctx context.Context, to string, rtt time.Duration) error {
	a.Stop()
	a.Toxics.ResetToxics(ctx)
	a.Upstream = to
	var err error
	for _, stream := range []string{"upstream", "downstream"} {
		data, merr := json.Marshal(map[string]any{
			"type": "latency", "stream": stream, "attributes": map[string]int64{"latency": (rtt / 2).Milliseconds()},
		})
		_, aerr := a.Toxics.AddToxicJson(strings.NewReader(string(data)))
		err = errors.Join(err, merr, aerr)
	}
	return errors.Join(err, a.Start())
}

// away measures a backlog into a broker that takes its time to answer, with the default of
// what is in flight and with more.
func (b *bench) away(ctx context.Context) error {
	defer b.proxy.Stop()
	var contenders []contender
	for _, rtt := range []time.Duration{0, 2 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond} {
		for _, flight := range []string{"6MiB", "24MiB"} {
			walpost := b.startWalpostAt(b.kafka.ListenerAddrs(listenerAway), b.pg.DSN(), "--delivery.max_in_flight_bytes="+flight)
			contenders = append(contenders, contender{
				name:     fmt.Sprintf("answers after %s, %s in flight", rtt, flight),
				delivers: true,
				start: func(ctx context.Context, slot, topic, end string) (runner, error) {
					if err := b.proxy.carry(ctx, b.kafka.ListenerAddrs(listenerAway)[0], rtt); err != nil {
						return nil, err
					}
					return walpost(ctx, slot, topic, end)
				},
			})
		}
	}
	return b.drain(ctx, workload{Name: "brokers away", Events: 500_000, Bytes: 300, batch: 100}.scaled(b.scale), contenders)
}
