#!/usr/bin/env bash
# node.sh COMMAND…: runs a command in the node's namespaces.
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

[ -e "$state/pids" ] || die "not up"
# The recorded process is unshare, outside; its child is the node's first.
outer=$(awk '$1 == "node" {print $2}' "$state/pids")
exec nsenter -t "$(pgrep -P "$outer" | head -1)" --wd=/ -m -n -p -u -i -C "$@"
