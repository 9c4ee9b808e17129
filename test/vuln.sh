#!/usr/bin/env bash
# Looks for known vulnerabilities in what walpost and its tests call. Arguments go
# to govulncheck, as in -db file:///a/copy of the database. Fails on a finding. In
# CI, where there may be no way to the database, that alone is said and passes.
set -uo pipefail
cd "$(dirname "$0")/.."

out=$(bin/tools/govulncheck -test "$@" ./... 2>&1)
code=$?
echo "$out"
if [[ $code -ne 0 && ${CI:-} == true && $out == *'fetching vulnerabilities: Get "'* ]]; then
  echo "vuln: NOT CHECKED, the vulnerability database cannot be reached from here"
  exit 0
fi
exit $code
