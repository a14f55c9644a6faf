#!/usr/bin/env bash
# kind.sh: the end-to-end suite on kind; needs Docker, kind and kubectl.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
for tool in docker kind kubectl; do
  command -v "$tool" > /dev/null || { echo "NOT RUN: $tool is missing" >&2; exit 1; }
done
export HEDDLE_CACHE=${HEDDLE_CACHE:-$root/.cache/e2e}
name=heddle-e2e-$$

docker build --target heddle -t heddle.dev/heddle:dev "$root"
docker build --target sidecar -t heddle.dev/sidecar:dev "$root"
"$here/cluster/build.sh"
for archive in echo prometheus ratelimit; do docker load -i "$HEDDLE_CACHE/images/$archive.tar"; done

kind create cluster --name "$name" --kubeconfig "$HEDDLE_CACHE/$name.kubeconfig"
trap 'kind delete cluster --name "$name"; rm -f "$HEDDLE_CACHE/$name.kubeconfig"' EXIT
kind load docker-image --name "$name" heddle.dev/{heddle,sidecar,echo,prometheus,ratelimit}:dev
KUBECONFIG=$HEDDLE_CACHE/$name.kubeconfig HEDDLE_E2E_NODE="docker exec $name-control-plane" "$here/run.sh"
