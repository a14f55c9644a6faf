#!/usr/bin/env bash
# up.sh: starts the one-node cluster in namespaces of its own, and waits until its node is ready and its DNS answers.
# The machine gets only the API, on 127.0.0.1:$HEDDLE_E2E_PORT (a free port if unset). State, kubeconfig and logs are in
# $HEDDLE_E2E_STATE: with another state and port a second cluster runs beside the first. Root only; needs build.sh to have run.
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

[ "$(id -u)" -eq 0 ] || die "root is needed"
"$here/setup.sh" --check
[ -x "$cache/bin/kube" ] && [ -e "$cache/images/coredns.tar" ] || die "nothing built in $cache: run build.sh"
[ ! -e /sys/fs/cgroup/cgroup.controllers ] || die "this machine has cgroup v2 only, which this node is not made for; where Docker is: make e2e-kind"

# What a reboot or a kill left behind is taken down first; what runs stays.
if [ -e "$state/pids" ]; then
  read -r _ pid start < "$state/pids"
  ! still_ours "$pid" "$start" || die "already up, KUBECONFIG=$state/kubeconfig"
  "$here/down.sh"
fi
mkdir -p "$state" "$registry"
: > "$state/pids"
trap '[ $? -eq 0 ] || "$here/down.sh"' EXIT

# The kubelet sets these for the whole machine. Where another cluster is up, the values it found are the machine's.
save_sysctls() {
  local other name
  other=$(others | head -1)
  if [ -n "$other" ]; then
    cp "$other/sysctl" "$state/sysctl"
  else
    for name in vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes; do
      echo "$name=$(sysctl -n $name)"
    done > "$state/sysctl"
  fi
  ln -sfn "$state" "$registered"
}
(flock 9 && save_sysctls) 9> "$registry/lock"

# The node's cgroup: below the caller's own, in every hierarchy.
make_cgroups() {
  local controllers path parent cgroup
  while IFS=: read -r _ controllers path; do
    [ -n "$controllers" ] || continue
    parent=/sys/fs/cgroup/${controllers#name=}${path%/}
    cgroup=$parent/heddle-e2e-$$
    mkdir -p "$cgroup"
    echo "$cgroup"
    # A cpuset takes no process before it has been given its CPUs.
    if [ "$controllers" = cpuset ]; then
      cat "$parent/cpuset.cpus" > "$cgroup/cpuset.cpus"
      cat "$parent/cpuset.mems" > "$cgroup/cpuset.mems"
    fi
  done < /proc/self/cgroup
}
make_cgroups > "$state/cgroups"

# Modules are the machine's to load; a kernel that has them built in knows nothing to load.
for module in overlay br_netfilter nf_conntrack; do modprobe -q $module 2>/dev/null || true; done

# One process whose end is the end of all that runs on the node.
# shellcheck disable=SC2016 # expanded by the inner shell
setsid bash -c 'while read -r cgroup; do echo $$ > "$cgroup/cgroup.procs"; done < "$HEDDLE_E2E_STATE/cgroups"
  exec unshare --mount --net --uts --ipc --cgroup --pid --fork --mount-proc --kill-child=SIGKILL bash "$1/node-init.sh"' _ "$here" \
  > "$state/node.log" 2>&1 < /dev/null &
record node $!
# Else bash would tell of its death when down.sh ends it.
disown

# Why the node did not come up: its own log, and the ends of its components' logs.
explain() {
  tail -n 20 "$state/node.log" "$state/relay.log" 2>/dev/null || true
  tail -n 5 "$state"/root/var/log/components/*.log 2>/dev/null || true
}
all_alive() { while read -r _ pid start; do still_ours "$pid" "$start" || return 1; done < "$state/pids"; }
# within SECONDS WHAT COMMAND…: until it succeeds, or one of the recorded processes is gone, or the time is up.
within() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" > /dev/null 2>&1; do
    all_alive && [ $SECONDS -lt $end ] || { explain >&2; die "no $what"; }
    sleep 0.2
  done
}
within 60 "API socket" test -S "$state/api.sock"

# Below the ports of outgoing connections (ip_local_port_range), so that none takes it before socat binds it.
free_port() {
  python3 -c '
import random, socket
while True:
    port = random.randrange(20000, 32000)
    with socket.socket() as s:
        if s.connect_ex(("127.0.0.1", port)) != 0:
            break
print(port)'
}
port=${HEDDLE_E2E_PORT:-$(free_port)}
# From the state's own directory: a socket's path may have no more than 107 characters.
(cd "$state" && exec setsid socat "TCP-LISTEN:$port,bind=127.0.0.1,fork,reuseaddr" UNIX-CONNECT:api.sock) > "$state/relay.log" 2>&1 < /dev/null &
record relay $!
disown
within 90 "kubeconfig" test -s "$state/root/etc/kubernetes/pki/kubelet.kubeconfig"
(umask 077 && sed "s/127.0.0.1:6443/127.0.0.1:$port/" "$state/root/etc/kubernetes/pki/admin.kubeconfig" > "$state/kubeconfig")

kubectl() { "$cache/bin/kube" kubectl --kubeconfig "$state/kubeconfig" "$@"; }
within 120 "API server on 127.0.0.1:$port" kubectl get --raw /readyz
within 60 "CoreDNS manifest" kubectl apply -f "$here/manifests/coredns.yaml"
node_ready() { kubectl get nodes | grep -q ' Ready'; }
within 120 "ready node" node_ready
kubectl -n kube-system rollout status deployment/coredns --timeout=120s > /dev/null
dns_answers() { "$here/node.sh" python3 - < "$here/dnsq.py" 10.96.0.10 kubernetes.default.svc.cluster.local | grep -qx 10.96.0.1; }
within 60 "answer from DNS" dns_answers
echo "cluster: up after ${SECONDS} s, KUBECONFIG=$state/kubeconfig"
