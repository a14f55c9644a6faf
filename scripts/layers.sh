#!/usr/bin/env bash
# layers.sh TARGET...: makes the targets one after another, and prints at the end how long each took, on the clock and of
# the processors. The first that fails is the last.
set -euo pipefail
cd "$(dirname "$0")/.."
# Without stacks, the end of the output of a failed layer has the errors themselves.
export RUST_BACKTRACE=0
TIMEFORMAT='%0R %0U %0S'
times=$(mktemp)
trap 'rm -f "$times"' EXIT

lines=() code=0
for layer in "$@"; do
  # The times go to a file of their own: standard error belongs to the layer.
  { time make --no-print-directory "$layer" 2>&3; } 3>&2 2> "$times" || code=$?
  read -r real user system < "$times"
  line=$(printf '%-14s %5d s %7d s of the processors' "$layer" "$real" $((user + system)))
  [ $code -eq 0 ] || line+="  FAILED"
  lines+=("$line")
  [ $code -eq 0 ] || break
done
printf 'make test: %s\n' "${lines[@]}" "$(printf '%-14s %5d s' "in all" $SECONDS)"
[ $code -ne 0 ] || echo "make test: all layers passed"
exit $code
