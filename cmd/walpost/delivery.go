package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/checkpoint"
	"github.com/walpost/walpost/pkg/circuit"
	"github.com/walpost/walpost/pkg/sink/kafka"
)

// sink is what delivers.
type sink interface {
	cdc.Sink
	Healthy(ctx context.Context) error
	Watch(ctx context.Context) error
	Circuit() circuit.State
}

// store is a checkpoint store as the command owns it.
type store interface {
	cdc.Store
	io.Closer
}

// newDelivery makes the sink and the store that go with the guarantee. Close the
// sink first.
func newDelivery(cfg config.Config, log *slog.Logger, reg prometheus.Registerer) (sink, store, error) {
	if cfg.Delivery.Guarantee == config.ExactlyOnce {
		return newExactlyOnce(cfg, log, reg)
	}
	st, err := newStore(cfg)
	if err != nil {
		return nil, nil, err
	}
	kc, err := kafkaConfig(cfg, log, reg)
	if err != nil {
		return nil, nil, err
	}
	s, err := kafka.NewReopening(kc)
	return s, st, err
}

// exactlyOnce is the store of a transactional sink, with what it leaves in the
// database.
type exactlyOnce struct {
	*checkpoint.Witnessed
	kafka   *kafka.Transactional
	witness *checkpoint.Postgres
}

// Close ends the sink too.
func (e exactlyOnce) Close() error { return errors.Join(e.kafka.Close(), e.witness.Close()) }

func newExactlyOnce(cfg config.Config, log *slog.Logger, reg prometheus.Registerer) (*kafka.Transactional, exactlyOnce, error) {
	kc, err := kafkaConfig(cfg, log, reg)
	if err != nil {
		return nil, exactlyOnce{}, err
	}
	witness, err := checkpoint.NewPostgres(checkpoint.PostgresConfig{DSN: cfg.Postgres.ConnString(), Slot: cfg.Postgres.Slot})
	if err != nil {
		return nil, exactlyOnce{}, err
	}
	k, err := kafka.NewTransactional(kafka.TransactionalConfig{
		Config: kc, Slot: cfg.Postgres.Slot, Topic: cfg.Checkpoint.Topic, SystemID: witness.SystemID,
	})
	if err != nil {
		return nil, exactlyOnce{}, err
	}
	return k, exactlyOnce{checkpoint.NewWitnessed(k, witness), k, witness}, nil
}

// newStore makes a store to be looked at.
func newStore(cfg config.Config) (store, error) {
	dsn, slot := cfg.Postgres.ConnString(), cfg.Postgres.Slot
	switch cfg.Checkpoint.Store {
	case config.StoreSlot:
		return checkpoint.NewSlot(checkpoint.SlotConfig{DSN: dsn, Slot: slot})
	case config.StoreFile:
		return checkpoint.NewFile(checkpoint.FileConfig{Path: cfg.Checkpoint.File, Slot: slot})
	case config.StoreKafka:
		_, st, err := newExactlyOnce(cfg, slog.New(slog.DiscardHandler), nil)
		return st, err
	}
	return checkpoint.NewPostgres(checkpoint.PostgresConfig{DSN: dsn, Slot: slot})
}

func kafkaConfig(cfg config.Config, log *slog.Logger, reg prometheus.Registerer) (kafka.Config, error) {
	k := cfg.Kafka
	tls, err := kafka.TLS(k.TLS).Config()
	if err != nil {
		return kafka.Config{}, fmt.Errorf("kafka.tls: %w", err)
	}
	return kafka.Config{
		Brokers: k.Brokers, Compression: string(k.Compression), Linger: k.Linger,
		MaxMessageBytes: int(k.MaxMessageBytes), MaxInFlightBytes: int64(cfg.Delivery.MaxInFlightBytes),
		CreateTopics: k.CreateTopics, Partitions: int(k.Partitions), ReplicationFactor: int(k.ReplicationFactor),
		TransactionTimeout: k.TransactionTimeout, DeadLetterTopic: cfg.DeadLetters(),
		TLS: tls, Authorities: kafka.TLS(k.TLS).Authorities(),
		SASL: kafka.SASL{
			Mechanism: string(k.SASL.Mechanism), Username: k.SASL.Username, Password: string(k.SASL.Password),
			Token: string(k.SASL.Token), TokenFile: k.SASL.TokenFile,
		},
		Logger: log, Registerer: reg, TopicMet: func(topics int) { limitMemory(cfg.Delivery, topics) },
	}, nil
}
