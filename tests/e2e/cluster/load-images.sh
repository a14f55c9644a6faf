#!/usr/bin/env bash
# load-images.sh ARCHIVE…: gives images to the running node.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
for archive; do "$here/node.sh" ctr -n k8s.io images import "$(readlink -f "$archive")"; done
