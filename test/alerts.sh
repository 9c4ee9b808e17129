#!/usr/bin/env bash
# Checks deploy/prometheus/alerts.yml, and fires each alert, with promtool: it is part of
# Prometheus, in Debian of the package prometheus. Each alert must have a runbook, and each
# metric that an alert or the dashboard names must be one that walpost has.
set -euo pipefail
cd "$(dirname "$0")/.."
need() { command -v promtool >/dev/null 2>&1; }
if ! need && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus >/dev/null
fi
need || { echo "alerts: promtool is missing: install Prometheus" >&2; exit 1; }
promtool check rules deploy/prometheus/alerts.yml
promtool test rules deploy/prometheus/alerts_test.yml

missing=0
while read -r alert; do
  grep -q "^### $alert\$" docs/operations.md || { echo "alerts: $alert has no runbook in docs/operations.md" >&2; missing=1; }
  grep -q "#$(tr '[:upper:]' '[:lower:]' <<<"$alert")\$" deploy/prometheus/alerts.yml || { echo "alerts: $alert does not name its runbook" >&2; missing=1; }
done < <(grep -oE 'alert: \w+' deploy/prometheus/alerts.yml | awk '{print $2}')
while read -r metric; do
  grep -rqE "\"${metric%_bucket}\"" --include='*.go' pkg internal || { echo "alerts: walpost has no metric $metric" >&2; missing=1; }
done < <(grep -ohE 'walpost_[a-z_]+' deploy/prometheus/alerts.yml deploy/grafana/walpost.json | sort -u)
[ "$missing" = 0 ]
echo "alerts: $(grep -c 'alert: ' deploy/prometheus/alerts.yml) alerts fire, and have runbooks"
