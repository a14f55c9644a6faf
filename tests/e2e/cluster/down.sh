#!/usr/bin/env bash
# down.sh [--wipe]: ends the recorded processes (the node's first takes all of the node's with it) and puts the machine back.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
state=${HEDDLE_E2E_STATE:-${HEDDLE_CACHE:-$here/../../../.cache/e2e}/state}

[ -e "$state/pids" ] || { echo "cluster: not up"; exit 0; }
while read -r _ pid; do kill -KILL "$pid" 2>/dev/null || true; done < "$state/pids"
while read -r _ pid; do while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done; done < "$state/pids"
sysctl -q -p "$state/sysctl" || true

# Removed from the leaves up, once the kernel has let go of the dead processes.
remove_cgroups() {
  local left=0 cgroup
  while read -r cgroup; do
    [ ! -d "$cgroup" ] || { find "$cgroup" -depth -type d -exec rmdir {} \; 2>/dev/null || true; }
    [ ! -d "$cgroup" ] || left=1
  done < "$state/cgroups"
  return $left
}
for _ in $(seq 50); do remove_cgroups && break; sleep 0.2; done

rm -f "$state/pids" "$state/api.sock"
[ "${1:-}" != --wipe ] || rm -rf "$state"
