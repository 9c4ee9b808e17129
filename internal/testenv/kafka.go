package testenv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// KafkaVersion is the Apache Kafka that is started.
const KafkaVersion = "4.3.0"

// KafkaConfig says which Kafka to start, and how.
type KafkaConfig struct {
	// Source is the only source to try. Defaults to all, in their order. An
	// external broker is not taken if Properties or Listeners are set.
	Source Source

	// Engine runs containers. Without one that source is left out.
	Engine Engine

	// Properties are lines of server.properties, added to and replacing the
	// defaults: one broker that is its own controller, one replica of
	// everything, no topics created by themselves.
	Properties map[string]string

	// Listeners are the security protocols of more listeners by their
	// names, as in "SASL": "SASL_PLAINTEXT". What they need besides a port
	// goes into Properties.
	Listeners map[string]string

	// Advertised are the addresses that clients of a listener are sent to,
	// by its name: those of a proxy in front of it. Defaults to the
	// listener's own.
	Advertised map[string]string

	// Heap is the size of the JVM's heap. Defaults to "384m".
	Heap string

	// Load compiles the broker's code fully. It then starts more slowly and
	// runs faster: for tests that send much.
	Load bool

	// Dir is for the broker's data and log, and must be empty if it is
	// there. Close removes it. Defaults to a new temporary folder.
	Dir string

	// StartTimeout bounds each start, downloads aside. Defaults to 90s.
	StartTimeout time.Duration
}

// KafkaServer is a broker. Its addresses stay the same over every stop and
// start. The methods that stop and start it are for one goroutine at a time;
// the others are for any.
type KafkaServer struct {
	Source Source

	addrs   []string
	ports   map[string]int // by the listener's name
	logFile string
	timeout time.Duration

	launch  func(ctx context.Context) (Process, error) // nil for an external broker
	remove  func(ctx context.Context) error
	process Process // nil while stopped
}

// The names of a broker's listeners that are always there.
const (
	plainListener      = "PLAIN"
	controllerListener = "CONTROLLER"
)

// StartKafka starts an Apache Kafka broker and waits until it answers. The
// caller must Close it. The error is an [ErrUnavailable] if this machine has
// none.
func StartKafka(ctx context.Context, cfg KafkaConfig) (*KafkaServer, error) {
	cfg.Heap = cmp.Or(cfg.Heap, "384m")
	cfg.StartTimeout = cmp.Or(cfg.StartTimeout, 90*time.Second)
	sources := []Source{Environment, Container, Programs}
	if cfg.Source != "" {
		sources = []Source{cfg.Source}
	}
	s, err := firstOf(sources, func(source Source) (*KafkaServer, error) {
		return startKafkaFrom(ctx, source, cfg)
	})
	if err != nil {
		return nil, fmt.Errorf("start Kafka: %w", err)
	}
	return s, nil
}

// StartFakeKafka starts a broker inside this process, on the loopback address.
// It has no topics. The caller must Close it.
func StartFakeKafka(opts ...kfake.Opt) (*kfake.Cluster, error) {
	cluster, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("start an in-process Kafka: %w", err)
	}
	return cluster, nil
}

func startKafkaFrom(ctx context.Context, source Source, cfg KafkaConfig) (*KafkaServer, error) {
	switch source {
	case Environment:
		return externalKafka(ctx, cfg)
	case Container:
		return containerKafka(ctx, cfg)
	case Programs:
		return localKafka(ctx, cfg)
	}
	return nil, fmt.Errorf("unknown source %q", source)
}

// externalKafka takes the brokers that the environment names.
func externalKafka(ctx context.Context, cfg KafkaConfig) (*KafkaServer, error) {
	addrs := os.Getenv(KafkaVariable)
	if addrs == "" {
		return nil, fmt.Errorf("%w: %s is not set", ErrUnavailable, KafkaVariable)
	}
	if len(cfg.Properties)+len(cfg.Listeners) > 0 {
		return nil, fmt.Errorf("%w: the settings of the brokers of %s are their own", ErrUnavailable, KafkaVariable)
	}
	s := &KafkaServer{Source: Environment, addrs: strings.Split(addrs, ",")}
	ctx, cancel := context.WithTimeout(ctx, cfg.StartTimeout)
	defer cancel()
	if err := s.ask(ctx); err != nil {
		return nil, fmt.Errorf("connect to the brokers of %s: %w", KafkaVariable, err)
	}
	return s, nil
}

// Addrs are the broker's addresses, without encryption or authentication.
func (s *KafkaServer) Addrs() []string { return s.addrs }

// ListenerAddrs are the addresses of a listener of KafkaConfig.Listeners.
func (s *KafkaServer) ListenerAddrs(name string) []string { return []string{address(s.ports[name])} }

// PID is the process of a broker that runs from programs of this machine, or 0.
func (s *KafkaServer) PID() int { return pidOf(s.process) }

// LogFile is the path of the broker's log, or "".
func (s *KafkaServer) LogFile() string { return s.logFile }

// Stop shuts the broker down in good order, and waits until it has ended or ctx
// is done. It does nothing if the broker is stopped.
func (s *KafkaServer) Stop(ctx context.Context) error {
	return s.end(func(p Process) error {
		if err := p.Signal(syscall.SIGTERM); err != nil {
			return ignoreGone(err)
		}
		return waitEnd(ctx, p)
	})
}

// Kill ends the broker as kill -9 does.
func (s *KafkaServer) Kill(ctx context.Context) error {
	return s.end(func(p Process) error { return p.Kill(ctx) })
}

func (s *KafkaServer) end(stop func(Process) error) error {
	if s.launch == nil {
		return fmt.Errorf("stop Kafka: %w", ErrExternal)
	}
	if s.process == nil {
		return nil
	}
	if err := stop(s.process); err != nil {
		return fmt.Errorf("stop Kafka: %w", err)
	}
	s.process = nil
	return nil
}

// Pause freezes the broker: it keeps its connections, and does not answer.
func (s *KafkaServer) Pause() error { return s.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *KafkaServer) Resume() error { return s.signal(syscall.SIGCONT) }

func (s *KafkaServer) signal(sig syscall.Signal) error {
	switch {
	case s.launch == nil:
		return fmt.Errorf("signal Kafka: %w", ErrExternal)
	case s.process == nil:
		return fmt.Errorf("signal Kafka: %w", errExited)
	}
	return s.process.Signal(sig)
}

// Start starts the stopped broker on its data and addresses, and waits until it
// answers. It does nothing if the broker runs.
func (s *KafkaServer) Start(ctx context.Context) error {
	if s.launch == nil {
		return fmt.Errorf("start Kafka: %w", ErrExternal)
	}
	if s.process != nil && ended(s.process) == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	for name, port := range s.ports {
		if err := poll(ctx, func(ctx context.Context) error { return portFree(ctx, port) }); err != nil {
			return fmt.Errorf("start Kafka with its listener %s on port %d: %w", name, port, err)
		}
	}
	return s.startOnce(ctx)
}

// Close ends the broker and removes its files. An external broker is left
// alone.
func (s *KafkaServer) Close() error {
	if s.launch == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return errors.Join(s.Kill(ctx), s.remove(ctx))
}

// startOnce launches the broker and waits until it answers. If it does not, it
// is ended.
func (s *KafkaServer) startOnce(ctx context.Context) error {
	p, err := s.launch(ctx)
	if err != nil {
		return err
	}
	err = poll(ctx, func(ctx context.Context) error {
		if err := ended(p); err != nil {
			return err
		}
		return s.ask(ctx)
	})
	if err != nil {
		kctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		return errors.Join(fmt.Errorf("wait for Kafka: %w; its log ends:\n%s", err, logTail(s.logFile)), p.Kill(kctx))
	}
	s.process = p
	return nil
}

// ask returns an error unless a broker answers and takes requests.
func (s *KafkaServer) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.addrs...), kgo.RequestRetries(0),
		kgo.RequestTimeoutOverhead(time.Second)) // bounds Close as well
	if err != nil {
		return err
	}
	defer client.Close()
	brokers, err := kadm.NewClient(client).ListBrokers(ctx)
	if err == nil && len(brokers) == 0 {
		err = errors.New("no broker takes part in the cluster yet")
	}
	return err
}

// takePorts gives each listener a free port.
func (s *KafkaServer) takePorts(ctx context.Context, listeners map[string]string) error {
	s.ports = map[string]int{}
	names := maps.Clone(listeners)
	if names == nil {
		names = map[string]string{}
	}
	names[plainListener], names[controllerListener] = "", ""
	for name := range names {
		port, err := freePort(ctx)
		if err != nil {
			return err
		}
		s.ports[name] = port
	}
	s.addrs = []string{address(s.ports[plainListener])}
	return nil
}

// properties returns the broker's settings. host is where it listens, and
// dataDir where its data is.
func (s *KafkaServer) properties(cfg KafkaConfig, host, dataDir string) map[string]string {
	all := map[string]string{
		"process.roles":                            "broker,controller",
		"node.id":                                  "1",
		"controller.listener.names":                controllerListener,
		"controller.quorum.voters":                 "1@" + address(s.ports[controllerListener]),
		"inter.broker.listener.name":               plainListener,
		"log.dirs":                                 dataDir,
		"auto.create.topics.enable":                "false",
		"offsets.topic.replication.factor":         "1",
		"offsets.topic.num.partitions":             "3",
		"transaction.state.log.replication.factor": "1",
		"transaction.state.log.min.isr":            "1",
		"transaction.state.log.num.partitions":     "3",
		"group.initial.rebalance.delay.ms":         "0",
		// A killed broker is let in again once its session has expired.
		"broker.session.timeout.ms":    "3000",
		"broker.heartbeat.interval.ms": "500",
	}
	var listeners, advertised, protocols []string
	for name, port := range s.ports {
		listeners = append(listeners, name+"://"+host+":"+strconv.Itoa(port))
		if name != controllerListener {
			advertised = append(advertised, name+"://"+cmp.Or(cfg.Advertised[name], address(port)))
		}
		protocols = append(protocols, name+":"+cmp.Or(cfg.Listeners[name], "PLAINTEXT"))
	}
	all["listeners"] = strings.Join(listeners, ",")
	all["advertised.listeners"] = strings.Join(advertised, ",")
	all["listener.security.protocol.map"] = strings.Join(protocols, ",")
	maps.Copy(all, cfg.Properties)
	return all
}
