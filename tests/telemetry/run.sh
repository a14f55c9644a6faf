#!/usr/bin/env bash
# run.sh: traces and access logs of real sidecars, through a real OpenTelemetry Collector to a real Jaeger. Needs Go and Envoy, and no
# root. Jaeger takes minutes to build, so this is of the nightly run, not of `make test`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=${HEDDLE_CACHE:-$here/../../.cache/e2e}/telemetry
mkdir -p "$bin"
bin=$(realpath "$bin")
cd "$here"
unformatted=$(gofmt -l .)
[ -z "$unformatted" ] || { echo "gofmt: $unformatted" >&2; exit 1; }
echo "building the Collector and Jaeger from their Go modules"
go build -o "$bin/" ./collector github.com/jaegertracing/jaeger/cmd/jaeger
cd "$here/../.."
HEDDLE_OTELCOL=$bin/collector HEDDLE_JAEGER=$bin/jaeger cargo test --workspace --test backends
