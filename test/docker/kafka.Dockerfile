# apache/kafka, as far as docker-compose.yml and internal/testenv use it: the
# same folders, the same user and the same class that reads the environment.
FROM walpost-test-base
RUN useradd --create-home --uid=1000 appuser \
 && install -d -o appuser -g appuser /opt/kafka /opt/kafka/bin /opt/kafka/config /mnt/shared/config \
 && install -d -o appuser -g root -m 775 /var/lib/kafka /var/lib/kafka/data /etc/kafka/docker /etc/kafka/secrets
COPY --chown=appuser kafka /opt/kafka/libs
COPY --chown=appuser kafka-run-class.sh /opt/kafka/bin/
COPY --chown=appuser log4j2.yaml server.properties /etc/kafka/docker/
COPY --chown=appuser log4j2.yaml /etc/kafka/docker/tools-log4j2.yaml
COPY kafka-entrypoint.sh /etc/kafka/docker/run
RUN set -e; tool() { \
      printf '#!/bin/sh\nexec /opt/kafka/bin/kafka-run-class.sh %s "$@"\n' "$2" >/opt/kafka/bin/$1.sh; \
      chmod 755 /opt/kafka/bin/$1.sh; }; \
    tool kafka-server-start kafka.Kafka; \
    tool kafka-topics org.apache.kafka.tools.TopicCommand; \
    tool kafka-console-consumer org.apache.kafka.tools.consumer.ConsoleConsumer; \
    tool kafka-broker-api-versions org.apache.kafka.tools.BrokerApiVersionsCommand
USER appuser
ENV CLUSTER_ID=d2FscG9zdC10ZXN0LWV2ZQ
VOLUME ["/etc/kafka/secrets", "/var/lib/kafka/data", "/mnt/shared/config"]
EXPOSE 9092
CMD ["/etc/kafka/docker/run"]
