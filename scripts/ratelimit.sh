#!/usr/bin/env bash
# ratelimit.sh TARGET: builds the rate limit service of tests/ratelimit at TARGET. Needs Go, and no root.
set -euo pipefail
target=$(realpath -m "$1")
cd "$(dirname "$0")/../tests/ratelimit"

unformatted=$(gofmt -l .)
[ -z "$unformatted" ] || { echo "gofmt: $unformatted" >&2; exit 1; }
mkdir -p "$(dirname "$target")"
# Without the C library of this machine, so that it runs in an image too.
# Whole or not there, because tests may run it meanwhile.
CGO_ENABLED=0 go build -buildvcs=false -o "$target.$$" .
mv "$target.$$" "$target"
