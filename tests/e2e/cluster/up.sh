#!/usr/bin/env bash
# up.sh: starts the one-node cluster in namespaces of its own, and waits until its node is ready and its DNS answers.
# The machine gets only the API, on 127.0.0.1:$HEDDLE_E2E_PORT. State, kubeconfig and logs are in $HEDDLE_E2E_STATE.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export HEDDLE_CACHE=${HEDDLE_CACHE:-$here/../../../.cache/e2e}
export HEDDLE_E2E_STATE=${HEDDLE_E2E_STATE:-$HEDDLE_CACHE/state}
port=${HEDDLE_E2E_PORT:-6443}
state=$HEDDLE_E2E_STATE

[ ! -e "$state/pids" ] || { echo "already up, or not taken down: $state/pids" >&2; exit 1; }
mkdir -p "$state"
trap '[ $? -eq 0 ] || "$here/down.sh"' EXIT

# The kubelet sets these for the whole machine; down.sh puts them back.
for name in vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes; do
  echo "$name=$(sysctl -n $name)"
done > "$state/sysctl"

# The node's cgroup: below the caller's own, in every hierarchy.
: > "$state/cgroups"
while IFS=: read -r _ controllers path; do
  [ -n "$controllers" ] || continue
  parent=/sys/fs/cgroup/${controllers#name=}${path%/}
  cgroup=$parent/heddle-e2e-$$
  mkdir -p "$cgroup"
  echo "$cgroup" >> "$state/cgroups"
  # A cpuset takes no process before it has been given its CPUs.
  if [ "$controllers" = cpuset ]; then
    cat "$parent/cpuset.cpus" > "$cgroup/cpuset.cpus"
    cat "$parent/cpuset.mems" > "$cgroup/cpuset.mems"
  fi
done < /proc/self/cgroup

# One process whose end is the end of all that runs on the node.
setsid bash -c 'while read -r cgroup; do echo $$ > "$cgroup/cgroup.procs"; done < "$HEDDLE_E2E_STATE/cgroups"
  exec unshare --mount --net --uts --ipc --cgroup --pid --fork --mount-proc --kill-child=SIGKILL bash "$1/node-init.sh"' _ "$here" \
  > "$state/node.log" 2>&1 < /dev/null &
node=$!
echo "node $node" > "$state/pids"

# within SECONDS WHAT COMMAND…: until it succeeds, or the node is gone, or the time is up.
within() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" > /dev/null 2>&1; do
    kill -0 $node 2>/dev/null && [ $SECONDS -lt $end ] || { echo "cluster: no $what; log:" >&2; tail -20 "$state/node.log" >&2; exit 1; }
    sleep 0.2
  done
}
within 60 "API socket" test -S "$state/api.sock"
setsid socat "TCP-LISTEN:$port,bind=127.0.0.1,fork,reuseaddr" "UNIX-CONNECT:$state/api.sock" > /dev/null 2>&1 < /dev/null &
echo "relay $!" >> "$state/pids"
within 90 "kubeconfig" test -s "$state/root/etc/kubernetes/pki/admin.kubeconfig"
(umask 077 && sed "s/127.0.0.1:6443/127.0.0.1:$port/" "$state/root/etc/kubernetes/pki/admin.kubeconfig" > "$state/kubeconfig")

kubectl() { "$HEDDLE_CACHE/bin/kube" kubectl --kubeconfig "$state/kubeconfig" "$@"; }
within 120 "API server" kubectl get --raw /readyz
within 60 "CoreDNS manifest" kubectl apply -f "$here/manifests/coredns.yaml"
node_ready() { kubectl get nodes | grep -q ' Ready'; }
within 120 "ready node" node_ready
kubectl -n kube-system rollout status deployment/coredns --timeout=120s > /dev/null
echo "cluster: up, KUBECONFIG=$state/kubeconfig"
