#!/usr/bin/env bash
# Writes the man pages and the shells' completions into a folder, for packages.
set -euo pipefail
cd "$(dirname "$0")/../.."
share=${1:?give a folder}
rm -rf "$share"
mkdir -p "$share/man" "$share/completions"
go run ./cmd/walpost man "$share/man"
for shell in bash zsh fish; do
  go run ./cmd/walpost completion "$shell" >"$share/completions/walpost.$shell"
done
