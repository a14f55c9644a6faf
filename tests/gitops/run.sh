#!/usr/bin/env bash
# run.sh: the manifests and health scripts that Argo CD's users get, against Argo CD's own libraries and a real API server.
# Needs Go, and no root. Slow when its build is cold (Argo CD's libraries), so it is of the nightly run, not of `make test`.
# KUBEBUILDER_ASSETS: a directory with etcd and kube-apiserver to use instead of those that the cluster tests build.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export HEDDLE_CACHE=${HEDDLE_CACHE:-$here/../../.cache/e2e}

if [ -z "${KUBEBUILDER_ASSETS:-}" ]; then
  [ -x "$HEDDLE_CACHE/bin/kube" ] || "$here/../e2e/cluster/build.sh"
  kube=$(realpath "$HEDDLE_CACHE/bin/kube")
  KUBEBUILDER_ASSETS=$(mktemp -d)
  export KUBEBUILDER_ASSETS
  trap 'rm -rf "$KUBEBUILDER_ASSETS"' EXIT
  # One binary, which goes by the name that it is called by.
  for component in etcd kube-apiserver kubectl; do ln -s "$kube" "$KUBEBUILDER_ASSETS/$component"; done
fi
cd "$here"
unformatted=$(gofmt -l .)
[ -z "$unformatted" ] || { echo "gofmt: $unformatted" >&2; exit 1; }
# Never from the cache of results: the manifests are read from outside the module. Vet would go through all of Argo CD first.
go test -vet=off -count=1 -timeout 15m "$@" ./...
