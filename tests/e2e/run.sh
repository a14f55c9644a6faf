#!/usr/bin/env bash
# run.sh: the end-to-end suite on a real cluster.
# With KUBECONFIG: on that cluster, whose nodes must have the images (HEDDLE_E2E_NODE says how to run a command on its node).
# Without: on a single-node Kubernetes that it builds, starts and ends itself; root only. With --build it only builds that;
# with --conformance it runs nothing but Gateway API's conformance suite, with --rollouts nothing but rollouts under load.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
export HEDDLE_CACHE=${HEDDLE_CACHE:-$root/.cache/e2e}

if [ -z "${KUBECONFIG:-}" ]; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "NOT RUN: the cluster tests need root (or KUBECONFIG of a cluster with the images)" >&2
    exit 1
  fi
  "$here/cluster/setup.sh"
  "$here/cluster/build.sh"
  [ "${1:-}" != --build ] || exit 0
  make -C "$root" --no-print-directory envoy build-tests
fi
# Of this run: the cluster, and the process group and the output of the tests that run beside others.
own='' beside='' output=''
clean_up() {
  [ -z "$beside" ] || kill -s TERM -- "-$beside" 2> /dev/null || true
  rm -f "$output"
  [ -z "$own" ] || [ -n "${HEDDLE_E2E_KEEP:-}" ] || "$here/cluster/down.sh" --wipe
}
trap clean_up EXIT
if [ -z "${KUBECONFIG:-}" ]; then
  images=$("$here/cluster/heddle-images.sh" "$root/target/debug")

  export HEDDLE_E2E_STATE=${HEDDLE_E2E_STATE:-$HEDDLE_CACHE/state}
  "$here/cluster/up.sh"
  own=yes
  # shellcheck disable=SC2086 # two paths
  "$here/cluster/load-images.sh" "$HEDDLE_CACHE"/images/{echo,prometheus,conformance,ratelimit}.tar $images > /dev/null
  export KUBECONFIG=$HEDDLE_E2E_STATE/kubeconfig
  export KUBECTL="$HEDDLE_CACHE/bin/kube kubectl"
  export HEDDLE_E2E_NODE=$here/cluster/node.sh
fi
[ "${1:-}" != --build ] || exit 0
export KUBECTL=${KUBECTL:-kubectl} HEDDLE=${HEDDLE:-$root/target/debug/heddle}

# kubectl's apply over objects that another manager applied: no warning.
reapply() {
  local text
  text=$($KUBECTL apply -k "$root/config/default" 2>&1) || { echo "kubectl apply: $text" >&2; return 1; }
  case $text in *[Ww]arning*) echo "kubectl apply warns: $text" >&2; return 1 ;; esac
}
# Both ways to install, in both orders. This first installation has no pods yet, so that it may go again.
if [ -n "${HEDDLE_E2E_STATE:-}" ]; then
  "$HEDDLE" install --apply --observe
  mode=$($KUBECTL get mesh default -o 'jsonpath={.spec.mode}')
  [ "$mode" = Observe ] || { echo "the Mesh of install --observe has mode $mode" >&2; exit 1; }
  reapply
  "$HEDDLE" install --apply
  "$HEDDLE" uninstall --timeout 180
fi
$KUBECTL apply -k "$root/config/default"
# At once: it waits for a control plane that is starting.
"$HEDDLE" check --timeout 180
$KUBECTL get mesh default
"$HEDDLE" install --apply --wait --timeout 180
reapply
$KUBECTL -n heddle-system rollout status deployment/heddle-operator --timeout=180s

$KUBECTL wait --for=condition=Established $($KUBECTL get -k "$root/config/crd" -o name)
# No manager owns a field of an empty spec, so that the second apply makes a null of it.
for _ in first second; do
  echo '{apiVersion: heddle.dev/v1alpha1, kind: Mesh, metadata: {name: default}, spec: {}}' | $KUBECTL apply --server-side -f -
done
$KUBECTL apply -f "$root/config/samples/mesh.yaml"

# Nothing that an installation's own manifests hold has been changed by the running control plane.
drift=$($KUBECTL diff -k "$root/config/default" || true)
[ -z "$drift" ] || { echo "drift after install: $drift" >&2; exit 1; }

if [ "${1:-}" = --conformance ]; then
  "$root/tests/conformance/run.sh"
  exit
fi
# Alone, so that the waits are those of the rollouts (HEDDLE_ROLLOUT_ROUNDS=50 for the long run).
cargo test --manifest-path "$root/Cargo.toml" --workspace --test e2e-rollouts -- --nocapture
[ "${1:-}" != --rollouts ] || exit 0
# Two at the same time, because their tests wait for pods more than they compute.
suite() { cargo test --manifest-path "$root/Cargo.toml" --workspace "$@" -- --test-threads=2; }
output=$(mktemp)
set -m
suite --test e2e-security --test e2e-kubelet --test e2e-steering --test e2e-foreign-kinds --test e2e-egress > "$output" 2>&1 &
beside=$! code=0
set +m
suite --test e2e-traffic --test e2e-tap --test e2e-resilience || code=$?
wait "$beside" || code=$?
beside=''
cat "$output"
[ $code -eq 0 ] || exit $code
# Alone: they end the control plane, which first calls and new pods of other tests would wait for.
cargo test --manifest-path "$root/Cargo.toml" --workspace --test e2e-outage -- --test-threads=1
# Gateway API's own suite (the cluster of somebody else may lack its image).
[ -z "${HEDDLE_E2E_STATE:-}" ] || "$root/tests/conformance/run.sh"
# The last: it changes the whole mesh, and ends it.
cargo test --manifest-path "$root/Cargo.toml" --workspace --test e2e-mesh -- --nocapture
