#!/usr/bin/env bash
# Walks the life of a deployment on real servers, and prints its figures: bookmark, events,
# replay and purge beside the stream, doctor's faults made and mended, the alerts, the page in a
# browser, an upgrade in place, and what is refused. EVENTS is how many events it writes, a million
# if it is not set; SCREENSHOTS a folder for the page's pictures.
set -euo pipefail
cd "$(dirname "$0")/.."
export WALPOST_TEST_REQUIRE=1 WALPOST_TEST_EVENTS="${EVENTS:-1000000}"
WALPOST_TEST_SCREENSHOTS=$(realpath -m "${SCREENSHOTS:-dist/screenshots}")
export WALPOST_TEST_SCREENSHOTS
mkdir -p "$WALPOST_TEST_SCREENSHOTS"
log=$(mktemp)
trap 'rm -f "$log"' EXIT

step() {
  echo "== $1"
  if ! go test -count=1 -timeout 60m -v -run "^($2)\$" ./test/integration >"$log" 2>&1; then
    cat "$log"
    exit 1
  fi
  grep -E '^ *--- (PASS|SKIP)|FIGURES' "$log"
}

step "bookmark, events, replay of the middle third by position, time and key, purge under load" TestOperate
step "replay: refusals, and what is interrupted, dead, parked or refused" 'TestReplay.*'
step "purge: archive, partitions, and what must stay" 'TestPurge.*|TestPartitions.*'
step "doctor: each fault made, and what it says of it; the support bundle" 'TestDoctor|TestBundle|TestBookmarksAreSeen'
step "alerts: each fired by its cause, in a Prometheus with the rules made impatient" TestAlertsByCause
echo "== alerts: each rule on series that are made up"
make --no-print-directory alerts
step "the page in a browser, wide, narrow and dark, and what it says beside the metrics" 'TestPage.*|TestLetters.*Page|TestDeadLettersOnThePage'
echo "pictures: $WALPOST_TEST_SCREENSHOTS"
step "restart and upgrade in place" 'TestRollingRestart|TestUpgradeInPlace|TestCheckpointSet'
step "a copy of the disk at the same brokers: refused, and the way out" 'TestCloneIsRefused.*'
