#!/usr/bin/env bash
# network.sh: the tests that need root and no cluster: in network namespaces of their own, and at an API server without a kubelet.
# With KUBECONFIG, where the cluster suite needs no root, it runs only as root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
export HEDDLE_CACHE=${HEDDLE_CACHE:-$root/.cache/e2e}

if [ "$(id -u)" -ne 0 ]; then
  echo "NOT RUN: the tests in network namespaces need root" >&2
  [ -n "${KUBECONFIG:-}" ] || exit 1
  exit 0
fi
unset KUBECONFIG
"$here/cluster/setup.sh"
"$here/cluster/build.sh"
# Of the whole workspace, so with the features of `make build-tests`: a single package would be built anew with fewer.
test=(cargo test --manifest-path "$root/Cargo.toml" --workspace)
# Rules of the sidecar's capture.
"${test[@]}" --test capture
# Scope by use, with real Envoys (HEDDLE_SCOPE_EDITS=10000 for the long run of random edits).
"${test[@]}" --test scope -- --nocapture --test-threads=2
# Lists that an API server streams, and lists in pages; lines about changes, and last good specs of two replicas.
"${test[@]}" --test lists --test past
# Random changes under audit, with cuts from the API server (HEDDLE_AUDIT_CHANGES=100000 for the long run).
"${test[@]}" --test audit -- --nocapture
