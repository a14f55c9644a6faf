#!/usr/bin/env bash
# run.sh: the chart of config/helm, rendered by Helm's own packages. Needs Go, and no root.
set -euo pipefail
cd "$(dirname "$0")"
unformatted=$(gofmt -l .)
[ -z "$unformatted" ] || { echo "gofmt: $unformatted" >&2; exit 1; }
# Never from the cache of results: the chart is read from outside the module.
go test -vet=off -count=1 -timeout 10m "$@" ./...
