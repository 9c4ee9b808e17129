#!/usr/bin/env bash
# Runs the tests that take walpost as a process between real servers, in two halves side by side,
# each with servers of its own: most of their time is waiting. What is in neither name is in the
# first half, with the other packages' tests, so that none can be left out.
set -uo pipefail
cd "$(dirname "$0")/.."
second='^Test(Alerts|Bookmark|Bounds|Bulk|Fail|Kafka|Million|Partition|Purge|Secure|Shards|Snapshot|Status|Upgrade)'
log=$(mktemp) # one half's words are printed behind the other's
trap 'rm -f "$log"' EXIT
test=(go test -count=1 -timeout 30m -v) # what is built in the tests is nothing that go's cache knows of
"${test[@]}" -run "$second" ./test/integration >"$log" 2>&1 &
code=0
"${test[@]}" -p 1 -skip "$second" ./test/... || code=1
wait $! || code=1
cat "$log"
exit $code
