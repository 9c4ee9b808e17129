#!/usr/bin/env bash
# Fuzzes every target of the repository, one after the other, for the time given
# (default 5s each).
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-5s}

# fuzz runs one target. When the time is up while an input is being tried, the go
# command reports "context deadline exceeded" as a failure though no input failed:
# a failure that counts names the input that it has written down.
fuzz() {
  local dir=$1 target=$2 out
  echo "fuzz $target ($time)"
  if out=$(go test "$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$time" 2>&1); then
    tail -n 3 <<<"$out" | grep '^fuzz: ' | tail -n 1 || true
    return
  fi
  if grep -q 'context deadline exceeded' <<<"$out" && ! grep -q 'Failing input written' <<<"$out"; then
    echo "fuzz: the time was up inside an input"
    return
  fi
  echo "$out"
  return 1
}

for dir in $(go list -f '{{.Dir}}' ./...); do
  for target in $(grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$dir"/*_test.go 2>/dev/null | awk '{print $2}'); do
    fuzz "$dir" "$target"
  done
done
