#!/usr/bin/env bash
# build.sh: builds Kubernetes, CoreDNS, the CNI plugins and the test applications from their Go modules, and packs the images
# that the cluster itself needs. Everything lands in $HEDDLE_CACHE, under a key made of the sources: unchanged sources cost nothing.
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
mkdir -p "$cache/bin" "$cache/images"
# Two builds at once into one cache would write the same files.
exec 9> "$cache/lock"
flock 9

export GOFLAGS="-mod=readonly -buildvcs=false" CGO_ENABLED=0
kubernetes=34.4
conformance=$here/../../conformance
ratelimit=${HEDDLE_RATELIMIT:-$cache/ratelimit}

# A line that changes whenever a file below the given paths does.
key() { (cd "$here" && find "$@" -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16); }

# once NAME OUTPUT KEY COMMAND…: runs COMMAND unless OUTPUT is there and was made with this key.
once() {
  local name=$1 output=$2 key=$3
  shift 3
  [ ! -e "$cache/$output" ] || [ "$(cat "$cache/$name.key" 2>/dev/null)" != "$key" ] || return 0
  echo "cluster: building $name" >&2
  "$@"
  echo "$key" > "$cache/$name.key"
}

build_kube() {
  local version="v1.$kubernetes" flags="-s -w" package
  # Clients decide by the version what a server can do.
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=${kubernetes%%.*} -X $package.gitTreeState=clean"
    flags+=" -X $package.gitCommit=k8s.io/kubernetes@$version -X $package.buildDate=1970-01-01T00:00:00Z"
  done
  (cd "$here/src/kube" && go build -p 2 -trimpath -ldflags "$flags" -o "$cache/bin/kube" .)
}
build_dns() { (cd "$here/src/dns" && go build -trimpath -ldflags '-s -w' -o "$cache/bin/coredns" .); }
build_cni() { mkdir -p "$cache/bin/cni" && (cd "$here/src/cni" && go build -trimpath -ldflags '-s -w' -o "$cache/bin/cni/" tool); }
build_apps() { (cd "$here/src/apps" && go build -trimpath -ldflags '-s -w' -o "$cache/bin/" ./cmd/...); }

# Gateway API's own conformance suite, and the application that its manifests run.
build_conformance() { (cd "$conformance" && go test -c -p 2 -trimpath -o "$cache/bin/conformance" .); }
build_conformance_echo() {
  mkdir -p "$cache/conformance"
  (cd "$conformance/echo" && go build -p 2 -trimpath -ldflags '-s -w' -o "$cache/conformance/" istio.io/istio/pkg/test/echo/cmd/{server,client})
  openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=echo -keyout "$cache/conformance/cert.key" -out "$cache/conformance/cert.crt" 2> /dev/null
}

# image NAME FILE ARGUMENT…: a docker-archive in the cache.
image() {
  local name=$1 file=$2
  shift 2
  python3 "$here/mkimage.py" "$name" "$cache/images/$file.tar" "$@"
}
# A root file system of Debian packages: what the distroless base images hold in a real build.
rootfs() { rm -rf "${cache:?}/rootfs/$1" && "$here/rootfs.sh" "$cache/rootfs/$1" "${@:2}"; }

pack_cluster() {
  image heddle.dev/cluster/pause:1 pause --user 65535:65535 --entrypoint '["/pause"]' "$cache/bin/pause=/pause"
  image heddle.dev/cluster/coredns:1.12.4 coredns --entrypoint '["/coredns"]' "$cache/bin/coredns=/coredns"
}
pack_echo() { image heddle.dev/echo:dev echo --user 65532:65532 --entrypoint '["/echo"]' "$cache/bin/echo=/echo"; }
pack_prometheus() {
  rootfs prometheus prometheus busybox-static
  image heddle.dev/prometheus:dev prometheus --user 65532:65532 --entrypoint '["/usr/bin/prometheus"]' "$cache/rootfs/prometheus"
}
pack_conformance() {
  local name
  name=$(awk '$1 == "image:" { print $2; exit }' "$(cd "$conformance" && go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api/conformance)/mesh/manifests.yaml")
  image "$name" conformance --entrypoint '["/usr/local/bin/server"]' "$cache/conformance/server=/usr/local/bin/server" \
    "$cache/conformance/client=/usr/local/bin/client" "$cache/conformance/cert.crt=/cert.crt" "$cache/conformance/cert.key=/cert.key"
}
pack_ratelimit() {
  image heddle.dev/ratelimit:dev ratelimit --user 65532:65532 --entrypoint '["/ratelimit"]' "$ratelimit=/ratelimit"
}
unpack_base() { rootfs base libc6 libgcc-s1 ca-certificates; }

once kube bin/kube "$(key src/kube)" build_kube
once coredns bin/coredns "$(key src/dns)" build_dns
once cni bin/cni/bridge "$(key src/cni)" build_cni
once apps bin/echo "$(key src/apps)" build_apps
once images images/coredns.tar "$(key mkimage.py src/apps src/dns)" pack_cluster
once echo-image images/echo.tar "$(key mkimage.py src/apps)" pack_echo
once prometheus-image images/prometheus.tar "$(key mkimage.py rootfs.sh)" pack_prometheus
"$here/../../../scripts/ratelimit.sh" "$ratelimit"
once ratelimit-image images/ratelimit.tar "$(key mkimage.py ../../ratelimit)" pack_ratelimit
once base-rootfs rootfs/base "$(key rootfs.sh)" unpack_base
once conformance bin/conformance "$(key ../../conformance/{go.mod,go.sum,conformance_test.go})" build_conformance
once conformance-echo conformance/server "$(key ../../conformance/echo)" build_conformance_echo
once conformance-image images/conformance.tar "$(key mkimage.py ../../conformance/{go.mod,echo})" pack_conformance
