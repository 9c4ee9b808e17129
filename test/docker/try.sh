#!/bin/bash
# Proves the image, docker-compose.yml and the containers of internal/testenv on
# a machine without a Docker engine and without an image registry: builds the
# images that they name from packages, starts an engine in namespaces of its
# own, and runs prove.sh there. Nothing of the engine outlives the script, and
# an engine that runs already is not touched.
#
#   test/docker/try.sh
#
# Needs root, Linux, Debian's docker.io and debootstrap, Go, Maven, and the
# package registries. What is fetched is kept in $WALPOST_DOCKER_CACHE (2 GB;
# defaults to walpost-docker below the user's cache folder).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${WALPOST_DOCKER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/walpost-docker}
compose_version=v2.40.3
group=walpost-try
kafka_version=$(sed -n 's|.*image: apache/kafka:||p' "$root/docker-compose.yml")
postgres_version=$(sed -n 's|.*image: postgres:||p' "$root/docker-compose.yml")
modules=modules-$(sha256sum <"$root/go.sum" | cut -c1-12)
go_version=$(sed -n 's|^ARG GO_VERSION=||p' "$root/Dockerfile")

say() { printf -- '--- %s\n' "$*"; }

need() {
  local program missing=()
  for program in docker dockerd debootstrap go mvn jq unzip xz unshare ip curl; do
    command -v "$program" >/dev/null || missing+=("$program")
  done
  [ ${#missing[@]} = 0 ] || { echo "missing programs: ${missing[*]}" >&2; exit 2; }
  [ "$(id -u)" = 0 ] || { echo 'must be root' >&2; exit 2; }
}

# once NAME COMMAND... makes $cache/NAME with COMMAND $cache/NAME.partial.
once() {
  local name=$1
  shift
  [ ! -e "$cache/$name" ] || return 0
  say "fetching $name"
  rm -rf "$cache/$name.partial"
  timeout 1800 "$@" "$cache/$name.partial" >"$cache/$name.log" 2>&1 || {
    tail -n 20 "$cache/$name.log" >&2
    exit 1
  }
  mv "$cache/$name.partial" "$cache/$name"
}

fetch_base() {
  debootstrap --variant=minbase \
    --include=ca-certificates,git,openjdk-17-jre-headless,postgresql-client bookworm "$1"
  rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/*
}

fetch_jars() {
  mvn -q -B -f "$here/pom.xml" -Dkafka.version="$kafka_version" \
    dependency:copy-dependencies -DoutputDirectory="$1"
}

fetch_postgres() {
  local jar=("$cache/jars-$kafka_version"/embedded-postgres-binaries-*.jar)
  mkdir "$1"
  unzip -p "${jar[0]}" '*.txz' | tar -xJ -C "$1"
}

# The modules of go.mod, in the form of a proxy.
fetch_modules() {
  (cd "$root" && GOFLAGS=-modcacherw GOMODCACHE=$1.all \
    GOPROXY="file://$(go env GOMODCACHE)/cache/download,$(go env GOPROXY)" go mod download)
  mv "$1.all/cache/download" "$1"
  rm -rf "$1.all"
}

# Compose has to be built in its own module, whose go.mod excludes versions.
fetch_compose() {
  local dir
  dir=$(go mod download -json "github.com/docker/compose/v2@$compose_version" | jq -r .Dir)
  (cd "$dir" && go build -trimpath -o "$1" \
    -ldflags "-s -w -X github.com/docker/compose/v2/internal.Version=$compose_version" ./cmd)
}

# compile fills a build cache, so that a second run builds the image in seconds.
compile() {
  say 'compiling'
  (cd "$root" && GOCACHE=$cache/go-build CGO_ENABLED=0 timeout 1200 \
    go build -trimpath -ldflags '-s -w' -o /dev/null ./cmd/walpost)
}

prepare() {
  export cache here root kafka_version compose_version
  export -f fetch_base fetch_jars fetch_postgres fetch_modules fetch_compose
  mkdir -p "$cache"
  once base bash -euc 'fetch_base "$0"'
  once "jars-$kafka_version" bash -euc 'fetch_jars "$0"'
  once postgres bash -euc 'fetch_postgres "$0"'
  once "$modules" bash -euc 'fetch_modules "$0"'
  once "compose-$compose_version" bash -euc 'fetch_compose "$0"'
  compile
}

# build NAME DOCKERFILE TAR-ARGUMENTS... builds an image from a stream of files.
build() {
  local name=$1 dockerfile=$2
  shift 2
  say "building $name"
  tar -c "$@" -C "$here" . | DOCKER_BUILDKIT=0 timeout 600 docker build -q -t "$name" -f "$dockerfile" - 2>&1 >/dev/null |
    { grep -v -e DEPRECATED -e BuildKit -e environment-variable -e '^$' >&2 || true; }
}

images() {
  say 'importing the base'
  tar -C "$cache/base" -c . | docker import - walpost-test-base >/dev/null
  local goroot
  goroot=$(go env GOROOT)
  build "golang:$go_version" golang.Dockerfile --transform "s|^$modules|modules|;s|^$(basename "$goroot")/|go/|" \
    -C "$cache" "$modules" go-build -C "$(dirname "$goroot")" "$(basename "$goroot")"
  build "postgres:$postgres_version" postgres.Dockerfile -C "$cache" postgres
  build "apache/kafka:$kafka_version" kafka.Dockerfile \
    --transform "s|^jars-$kafka_version|kafka|" -C "$cache" "jars-$kafka_version"
}

# inside runs as the first process of its namespaces: when it ends, so does
# everything that it has started, and its network and mounts are gone.
inside() {
  work=$1
  ip link set lo up
  export DOCKER_HOST=unix://$work/docker.sock DOCKER_CONFIG=$work/config
  mkdir -p "$DOCKER_CONFIG/cli-plugins"
  ln -s "$cache/compose-$compose_version" "$DOCKER_CONFIG/cli-plugins/docker-compose"
  dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/dockerd.pid" --cgroup-parent "$group" \
    --host "$DOCKER_HOST" >"$work/dockerd.log" 2>&1 &
  engine=$!
  trap 'stop_engine' EXIT
  timeout 60 bash -c 'until docker info >/dev/null 2>&1; do sleep 0.2; done' || {
    tail -n 20 "$work/dockerd.log" >&2
    exit 1
  }
  images
  TESTCONTAINERS_RYUK_DISABLED=true "$here/prove.sh"
}

stop_engine() {
  local code=$?
  kill "$engine" && wait "$engine" || true
  exit "$code"
}

# clean_up removes what a namespace does not take with it.
clean_up() {
  rm -rf "$work"
  find /sys/fs/cgroup -depth -type d -path "*/$group*" -exec rmdir {} + 2>/dev/null || true
}

if [ "${1-}" = inside ]; then
  inside "$2"
  exit
fi

need
prepare
work=$(mktemp -d)
trap clean_up EXIT
timeout --foreground 2400 unshare --mount --net --pid --fork --kill-child --mount-proc "$0" inside "$work"
say 'the engine is stopped'
