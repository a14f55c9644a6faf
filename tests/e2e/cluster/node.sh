#!/usr/bin/env bash
# node.sh COMMAND…: runs a command in the node's namespaces.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
state=${HEDDLE_E2E_STATE:-${HEDDLE_CACHE:-$here/../../../.cache/e2e}/state}
outer=$(sed -n 's/^node //p' "$state/pids")
exec nsenter -t "$(pgrep -P "$outer" | head -1)" --wd=/ -m -n -p -u -i -C "$@"
