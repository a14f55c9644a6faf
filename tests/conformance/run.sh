#!/usr/bin/env bash
# run.sh [FLAG…]: the mesh profiles of Gateway API's own conformance suite, on the cluster of KUBECONFIG, where Heddle is installed
# and the nodes have the image of the suite's manifests. FLAGs go to the suite (--run-test=NAME). The report goes to
# HEDDLE_CONFORMANCE_REPORT, if set.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
cache=${HEDDLE_CACHE:-$root/.cache/e2e}
: "${KUBECONFIG:?the kubeconfig of a cluster where Heddle is installed}"

# The definitions of the release whose suite runs.
definitions=$(cd "$here" && go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)/config/crd/standard
${KUBECTL:-kubectl} apply --server-side --force-conflicts -f "$definitions" > /dev/null

report=${HEDDLE_CONFORMANCE_REPORT:-$(mktemp --suffix=.yaml)}
features=$(grep -v '^#' "$here/features.txt" | paste -sd,)
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml" | head -1)
"$cache/bin/conformance" -test.v -test.timeout 20m -test.run TestMesh \
  --conformance-profiles=MESH-HTTP,MESH-GRPC --supported-features="$features" --namespace-labels=heddle.dev/inject=enabled \
  --organization=heddle --project=heddle --url=https://heddle.dev --version="$version" --contact=maintainers@heddle.dev \
  --report-output="$report" "$@"
echo "conformance: the report is $report"
