#!/usr/bin/env bash
# prometheus.sh DIR: puts `prometheus` and `promtool` into DIR: links to those on PATH, else the binaries of Debian's package. Needs no
# root. The cluster of the end-to-end tests has the same package in an image.
set -euo pipefail
dir=$(realpath -m "$1")

[ ! -x "$dir/prometheus" ] || [ ! -x "$dir/promtool" ] || exit 0
mkdir -p "$dir"
if server=$(command -v prometheus) && tool=$(command -v promtool); then
  ln -sf "$server" "$dir/prometheus"
  ln -sf "$tool" "$dir/promtool"
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
echo "prometheus: fetching Debian's package" >&2
cd "$work"
download() { apt-get download -qq -o APT::Sandbox::User=root prometheus; }
# A new machine may have no lists of packages yet.
download 2> /dev/null || { apt-get update -qq && download; }
dpkg-deb -x prometheus_*.deb .
for name in promtool prometheus; do
  # Whole or not there, because tests may run it meanwhile.
  cp "$work/usr/bin/$name" "$dir/$name.new"
  mv "$dir/$name.new" "$dir/$name"
done
"$dir/prometheus" --version 2>&1 | head -n 1 >&2
