#!/usr/bin/env bash
# down.sh [--wipe]: ends the recorded processes (the node's first takes all of the node's with it) and puts the machine back.
# With --wipe the state goes too: etcd's data, images, logs.
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

wipe() { [ "${1:-}" != --wipe ] || rm -rf "$state"; }
[ -e "$state/pids" ] || { echo "cluster: not up"; wipe "$@"; exit 0; }

while read -r _ pid start; do ! still_ours "$pid" "$start" || kill -KILL "$pid" 2>/dev/null || true; done < "$state/pids"
while read -r _ pid start; do while still_ours "$pid" "$start"; do sleep 0.1; done; done < "$state/pids"

# The machine's own values come back with the end of its last cluster.
restore_sysctls() {
  rm -f "$registered"
  [ -n "$(others)" ] || [ ! -e "$state/sysctl" ] || sysctl -q -p "$state/sysctl" || echo "cluster: not all of $state/sysctl could be restored" >&2
}
mkdir -p "$registry"
(flock 9 && restore_sysctls) 9> "$registry/lock"

# Removed from the leaves up, once the kernel has let go of the dead processes.
remove_cgroups() {
  local left=0 cgroup
  while read -r cgroup; do
    [ ! -d "$cgroup" ] || { find "$cgroup" -depth -type d -exec rmdir {} \; 2>/dev/null || true; }
    [ ! -d "$cgroup" ] || left=1
  done < "$state/cgroups"
  return $left
}
if [ -e "$state/cgroups" ]; then
  # Only then is all of the node dead, what its first process started included.
  gone=
  for _ in $(seq 100); do
    if remove_cgroups; then gone=1; break; fi
    sleep 0.2
  done
  [ -n "$gone" ] || die "something of the node is still alive, see $state/cgroups"
fi

rm -f "$state/pids" "$state/api.sock" "$state/kubeconfig"
wipe "$@"
