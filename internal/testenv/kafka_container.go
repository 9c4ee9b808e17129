package testenv

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// kafkaImage is the image of Apache Kafka.
const kafkaImage = "apache/kafka:" + KafkaVersion

// containerKafka starts a broker in a container.
func containerKafka(ctx context.Context, cfg KafkaConfig) (*KafkaServer, error) {
	if cfg.Engine == nil {
		return nil, fmt.Errorf("%w: no engine was given", ErrUnavailable)
	}
	s := &KafkaServer{Source: Container, timeout: cfg.StartTimeout}
	if err := s.takePorts(ctx, cfg.Listeners); err != nil {
		return nil, err
	}
	image := Image{Name: kafkaImage, Env: map[string]string{"KAFKA_HEAP_OPTS": "-Xms" + cfg.Heap + " -Xmx" + cfg.Heap}, Ports: map[int]int{}}
	for name, value := range s.properties(cfg, "0.0.0.0", "/var/lib/kafka/data") {
		image.Env[kafkaVariable(name)] = value
	}
	for _, port := range s.ports {
		image.Ports[port] = port
	}
	instance, err := cfg.Engine.Create(ctx, image)
	if err != nil {
		return nil, err
	}
	s.launch, s.remove = instance.Start, instance.Remove
	if err := s.Start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// kafkaVariable is how the image names a property in its environment.
// https://github.com/apache/kafka/blob/trunk/docker/examples/README.md
func kafkaVariable(property string) string {
	return "KAFKA_" + strings.ToUpper(strings.NewReplacer("-", "___", "_", "__", ".", "_").Replace(property))
}
