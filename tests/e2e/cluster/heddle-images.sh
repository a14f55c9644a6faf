#!/usr/bin/env bash
# heddle-images.sh BIN_DIR: the two images of the Dockerfile, from the same files, where no Docker and no image registry is.
# Needs build.sh to have run, and HEDDLE_ENVOY. Prints the archives' paths.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=$1
cache=$(cd "${HEDDLE_CACHE:-$here/../../../.cache/e2e}" && pwd)

# Debug information is most of a development build and of no use in a pod.
stripped=$(mktemp -d)
trap 'rm -rf "$stripped"' EXIT
for name in heddle-operator heddle-agent heddle; do strip -o "$stripped/$name" "$bin/$name"; done

python3 "$here/mkimage.py" heddle.dev/heddle:dev "$cache/images/heddle.tar" --user 65532:65532 --entrypoint '["/usr/local/bin/heddle-operator"]' \
  "$cache/rootfs/base" "$stripped/heddle-operator=/usr/local/bin/heddle-operator" "$stripped/heddle=/usr/local/bin/heddle"
python3 "$here/mkimage.py" heddle.dev/sidecar:dev "$cache/images/sidecar.tar" --user 1337:1337 --entrypoint '["/usr/local/bin/heddle-agent"]' \
  "$cache/rootfs/base" "$(readlink -f "$HEDDLE_ENVOY")=/usr/local/bin/envoy" "$stripped/heddle-agent=/usr/local/bin/heddle-agent"
echo "$cache/images/heddle.tar" "$cache/images/sidecar.tar"
