#!/usr/bin/env bash
# python.sh DIR: a virtual environment in DIR with what the tests need.
set -euo pipefail
dir=$1
want="grpcio==1.85.1 grpcio-health-checking==1.85.1"

[ "$(cat "$dir/.installed" 2>/dev/null)" != "$want" ] || exit 0
python3 -m venv "$dir"
# shellcheck disable=SC2086 # a list of requirements
"$dir/bin/pip" install --quiet --disable-pip-version-check $want
echo "$want" > "$dir/.installed"
