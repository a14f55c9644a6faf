#!/usr/bin/env bash
# ratelimit.sh TARGET: builds the rate limit service of tests/ratelimit at TARGET. Needs Go, and no root.
set -euo pipefail
target=$(realpath -m "$1")
cd "$(dirname "$0")/../tests/ratelimit"

unformatted=$(gofmt -l .)
[ -z "$unformatted" ] || { echo "gofmt: $unformatted" >&2; exit 1; }
mkdir -p "$(dirname "$target")"
go build -o "$target" .
