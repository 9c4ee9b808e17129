#!/usr/bin/env bash
# Fuzzes every target of the repository, one after the other, for the time given
# (default 5s each).
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-5s}
for dir in $(go list -f '{{.Dir}}' ./...); do
  for target in $(grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$dir"/*_test.go 2>/dev/null | awk '{print $2}'); do
    echo "fuzz $target ($time)"
    go test "$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$time" | grep -vE '^(ok|PASS|fuzz: elapsed: 0s)'
  done
done
