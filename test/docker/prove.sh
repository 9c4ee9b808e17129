#!/bin/bash
# Proves the image, docker-compose.yml and the containers of internal/testenv on
# the Docker engine that the docker command finds, and prints figures. The ports
# of docker-compose.yml must be free. It removes what it has started.
#
#   test/docker/prove.sh
set -euo pipefail

cd "$(dirname "$0")/../.."
# A project of its own, so that a running one keeps its containers.
export COMPOSE_PROJECT_NAME=walpost-try
readonly id=6f1c9a1e-0d5b-4d0e-9a53-6a3c3e1a7d42

say() { printf -- '--- %s\n' "$*"; }
fail() { echo "FAIL: $*" >&2; exit 1; }
seconds() { printf '%d.%d s' $((($(date +%s%3N) - $1) / 1000)) $((($(date +%s%3N) - $1) % 1000 / 100)); }

bring_down() {
  local code=$?
  if [ "$code" != 0 ]; then docker compose logs --tail 30 >&2 || true; fi
  timeout 120 docker compose down -v --remove-orphans >/dev/null 2>&1 || true
  exit "$code"
}

start_system() {
  local start
  start=$(date +%s%3N)
  timeout 1200 docker compose up -d --build --wait --quiet-pull >/dev/null 2>&1 ||
    fail "docker compose up: exit code $?"
  say "docker compose up -d --build --wait: $(seconds "$start")"
  say "the image: $(docker image inspect walpost --format \
    '{{.Size}} bytes, user {{.Config.User}}, entry point {{.Config.Entrypoint}}')"
  docker run --rm walpost version
}

ready() {
  timeout 60 bash -c 'until curl -fsS http://127.0.0.1:9187/readyz 2>/dev/null; do sleep 0.2; done' ||
    fail "not ready: $(curl -sS http://127.0.0.1:9187/readyz)"
  echo
  say "/readyz: $(curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:9187/readyz)"
}

# insert adds an event the way the head of docker-compose.yml shows.
insert() {
  docker compose exec -T postgres psql -q -U postgres -c "
    INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload)
    VALUES ('$1', 'order', '42', 'OrderCreated', '{\"total\": 995}')"
}

# consume prints the first COUNT records: headers, key and value.
consume() {
  timeout 90 docker compose exec -T kafka /opt/kafka/bin/kafka-console-consumer.sh \
    --bootstrap-server kafka:9092 --topic outbox.event.order --from-beginning --max-messages "$1" \
    --formatter-property print.key=true --formatter-property print.headers=true 2>/dev/null
}

check_record() {
  local got want
  want=$(printf 'id:%s\t42\t{"total": 995}' "$id")
  insert "$id"
  got=$(consume 1)
  [ "$got" = "$want" ] || fail "record is '$got', want '$want'"
  say "the record: $got"
}

# check_stop stops walpost as an orchestrator does, and starts it again.
check_stop() {
  local container code start second
  container=$(docker compose ps -q walpost)
  start=$(date +%s%3N)
  docker compose kill -s SIGTERM walpost >/dev/null 2>&1
  code=$(timeout 30 docker wait "$container")
  [ "$code" = 0 ] || fail "exit code after SIGTERM is $code, want 0"
  say "SIGTERM: exit code $code after $(seconds "$start")"
  insert 00000000-0000-4000-8000-000000000002
  docker compose start walpost >/dev/null 2>&1
  second=$(consume 2 | sed -n 2p)
  [[ $second == id:00000000-0000-4000-8000-000000000002* ]] ||
    fail "the second record is '$second'"
  say 'an insert made meanwhile arrived after the start, and the first one not again'
}

check_down() {
  timeout 120 docker compose down -v >/dev/null 2>&1
  local left
  left=$(docker ps -aq --filter label=com.docker.compose.project=$COMPOSE_PROJECT_NAME | wc -l)
  [ "$left" = 0 ] || fail "docker compose down -v left $left containers"
  say 'docker compose down -v: nothing left'
}

volumes() { docker volume ls -q | sort; }

# check_tests_left checks that the tests have removed what they made.
check_tests_left() {
  local left
  left=$(docker ps -aq --filter label=org.testcontainers=true)
  [ -z "$left" ] || fail "the tests left containers: $left"
  [ "$(volumes)" = "$before" ] || fail "the tests left volumes: $(volumes)"
  say 'the tests left no container and no volume'
}

trap bring_down EXIT
before=$(volumes)
docker version --format 'engine {{.Server.Version}}, client {{.Client.Version}}'
docker compose version
start_system
ready
check_record
check_stop
check_down
WALPOST_TEST_CONTAINERS=1 timeout 600 go test -p 1 -count=1 -v ./test/docker/ ./internal/testenv/envtest/
check_tests_left
say 'all proven'
