package main

import (
	"time"

	"github.com/walpost/walpost/test/harness"
)

// servers is the CPU that a run took of what is beside the contender: of Postgres with
// all its sessions, and of the broker.
type servers struct {
	Server float64 `json:"server_cpu_seconds"`
	Broker float64 `json:"broker_cpu_seconds"`
}

// meter measures it from a moment on.
type meter struct {
	postgres, kafka int // processes
	server, broker  time.Duration
}

// startMeter begins with the server of the relay, or with that of all others.
func (b *bench) startMeter(relay bool) meter {
	m := meter{postgres: b.pg.PID(), kafka: b.kafka.PID()}
	if relay {
		m.postgres = b.relayPG.PID()
	}
	m.server, m.broker = harness.TreeCPU(m.postgres), harness.TreeCPU(m.kafka)
	return m
}

// read returns what was used since.
func (m meter) read() servers {
	return servers{
		Server: (harness.TreeCPU(m.postgres) - m.server).Seconds(),
		Broker: (harness.TreeCPU(m.kafka) - m.broker).Seconds(),
	}
}
