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

# run NAME ARGUMENTS: the test programs of that name, each in the folder of its package, as cargo runs them. Not by cargo: it would wait for the
# build of another layer (`make build-tests` has built the programs and written the list).
run() {
  local name=$1 line program package found=''
  shift
  while IFS= read -r line; do
    program=$(sed -nE 's/.*"executable":"([^"]+)".*/\1/p' <<< "$line")
    case ${program##*/} in
      "$name"-*)
        package=$(sed -nE 's/.*"manifest_path":"([^"]+)\/Cargo.toml".*/\1/p' <<< "$line")
        echo "     Running $program"
        (cd "$package" && "$program" "$@" < /dev/null)
        found=yes
        ;;
    esac
  done < "$root/target/by-name.json"
  [ -n "$found" ] || { echo "target/by-name.json has no test program $name: run \`make build-tests\`" >&2; return 1; }
}
# Rules of the sidecar's capture.
run capture
# Scope by use, with real Envoys (HEDDLE_SCOPE_EDITS=10000 for the long run of random edits).
run scope --nocapture --test-threads=2
# Lists that an API server streams, and lists in pages; lines about changes, and last good specs of two replicas.
run lists
run past
# Random changes under audit, with cuts from the API server (HEDDLE_AUDIT_CHANGES=100000 for the long run).
run audit --nocapture
