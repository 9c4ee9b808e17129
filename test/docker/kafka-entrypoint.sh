#!/bin/bash
# Writes server.properties from the environment, formats the storage unless it
# is formatted, and becomes the broker.
set -euo pipefail

said=$(/opt/kafka/bin/kafka-run-class.sh kafka.docker.KafkaDockerWrapper setup \
  --default-configs-dir /etc/kafka/docker --mounted-configs-dir /mnt/shared/config \
  --final-configs-dir /opt/kafka/config 2>&1) || grep -qi 'already formatted' <<<"$said" || {
  echo "$said" >&2
  exit 1
}
exec /opt/kafka/bin/kafka-server-start.sh /opt/kafka/config/server.properties
