#!/usr/bin/env bash
# heddle-images.sh BIN_DIR: the two images of the Dockerfile, from the same files, where no Docker and no image registry is.
# Needs build.sh to have run. Envoy is HEDDLE_ENVOY, or else fetched. Prints the archives' paths.
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
bin=${1:?the directory of the built binaries}

for name in heddle-operator heddle-agent heddle; do [ -x "$bin/$name" ] || die "no $name in $bin"; done
[ -d "$cache/rootfs/base" ] || die "no root file system in $cache: run build.sh"
HEDDLE_ENVOY=${HEDDLE_ENVOY:-$cache/envoy/envoy}
"$here/../../../scripts/envoy.sh" "$HEDDLE_ENVOY" >&2

# Debug information is most of a development build and of no use in a pod.
stripped=$(mktemp -d)
trap 'rm -rf "$stripped"' EXIT
for name in heddle-operator heddle-agent heddle; do strip -o "$stripped/$name" "$bin/$name"; done

python3 "$here/mkimage.py" heddle.dev/heddle:dev "$cache/images/heddle.tar" --user 65532:65532 --entrypoint '["/usr/local/bin/heddle-operator"]' \
  "$cache/rootfs/base" "$stripped/heddle-operator=/usr/local/bin/heddle-operator" "$stripped/heddle=/usr/local/bin/heddle" \
  "$(readlink -f "$HEDDLE_ENVOY")=/usr/local/bin/envoy"
python3 "$here/mkimage.py" heddle.dev/sidecar:dev "$cache/images/sidecar.tar" --user 1337:1337 --entrypoint '["/usr/local/bin/heddle-agent"]' \
  "$cache/rootfs/base" "$(readlink -f "$HEDDLE_ENVOY")=/usr/local/bin/envoy" "$stripped/heddle-agent=/usr/local/bin/heddle-agent"
echo "$cache/images/heddle.tar" "$cache/images/sidecar.tar"
