# lib.sh: sourced by the other scripts. Where things are, and what several of them need.
# shellcheck shell=bash
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Absolute, for they are used from other directories and other mount namespaces.
HEDDLE_CACHE=$(realpath -m "${HEDDLE_CACHE:-$here/../../../.cache/e2e}")
HEDDLE_E2E_STATE=$(realpath -m "${HEDDLE_E2E_STATE:-$HEDDLE_CACHE/state}")
export HEDDLE_CACHE HEDDLE_E2E_STATE
# shellcheck disable=SC2034 # used by the scripts that source this
cache=$HEDDLE_CACHE state=$HEDDLE_E2E_STATE

# One link for each cluster of this machine that is up: what is machine-wide is put back by the last.
registry=/run/heddle-e2e
registered=$registry/$(echo "$state" | sha256sum | cut -c1-12)

die() {
  echo "cluster: $*" >&2
  exit 1
}

# When a process started, in clock ticks: with its id this names it for good, for ids are used again.
started() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20 || true; }

# record NAME PID: notes a process for down.sh.
record() { echo "$1 $2 $(started "$2")" >> "$state/pids"; }

# still_ours PID START: whether the recorded process still runs; one that nobody has reaped yet does not.
still_ours() {
  local now
  now=$(started "$1")
  [ -n "$now" ] && [ "$now" = "${2:-$now}" ] && ! grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null
}

# Clusters other than ours that are up; drops links whose cluster is not.
others() {
  local link
  for link in "$registry"/*; do
    [ -L "$link" ] && [ "$link" != "$registered" ] || continue
    if [ -e "$link/pids" ]; then echo "$link"; else rm -f "$link"; fi
  done
}
