#!/usr/bin/env bash
# Fails if an event allocates more than it did: runs the tests that count allocations,
# which make test-unit leaves out since the race detector allocates, and the benchmarks
# of an event's way, and compares their allocs/op and B/op with baseline.txt by
# benchstat. Times are not looked at. -u makes the baseline anew.
set -euo pipefail
cd "$(dirname "$0")/../.."
baseline=test/guard/baseline.txt
benchmarks='^Benchmark(Decode|Route|DecodeRoute|Track|Event|Sink|Produce)$'
packages='./pkg/cdc ./pkg/cdc/pgoutput ./pkg/cdc/pgsource ./pkg/outbox ./pkg/sink/kafka ./test/guard'

# What the client and the broker of Produce allocate depends on how many records a batch
# gets, which is 5 to 20 bytes a record. All others are exact. One allocation more for
# each record shows in allocs/op, whatever its size.
tolerance='Produce=16'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# -cpu 1 keeps the number of processors out of the names. A benchmark's figures are
# whole numbers for each of its events: what comes less often shows in the bytes.
# shellcheck disable=SC2086
if ! go test -run Allocat -bench "$benchmarks" -benchmem -benchtime=100000x -count=6 -cpu=1 $packages >"$work/log" 2>&1; then
  cat "$work/log"
  exit 1
fi
awk '/^Benchmark/ { print $1, $2, $(NF-3), $(NF-2), $(NF-1), $NF }' "$work/log" >"$work/now.txt"

if [ "${1:-}" = -u ]; then
  cp "$work/now.txt" "$baseline"
  echo "guard: $baseline is new"
  exit
fi

bin/tools/benchstat -format csv -filter '.unit:(B/op OR allocs/op)' "$baseline" "$work/now.txt" >"$work/compared.csv" 2>"$work/notes" ||
  { cat "$work/notes" && exit 1; }

awk -F, -v tolerance="$tolerance" '
  function bad(text) { print "guard: Benchmark" text; failed = 1 }
  BEGIN { split(tolerance, t, "="); slack[t[1] " B/op"] = t[2] }
  $1 == "" { unit = $2; next }
  $1 == "geomean" { next }
  $2 == "" { bad($1 " is not in the baseline"); next }
  $4 == "" { bad($1 " is in the baseline, and was not run"); next }
  { compared++ }
  $6 != "~" && $4 > $2 + slack[$1 " " unit] { bad($1 ": " $4 " " unit " instead of " $2 " (" $7 ")") }
  END {
    if (!compared) bad("s: nothing was compared")
    if (!failed) print "guard: " compared / 2 " benchmarks allocate no more than in the baseline"
    exit failed
  }' "$work/compared.csv" || {
  echo "guard: where that is meant, make guard-update and commit $baseline with the reason"
  exit 1
}
