#!/usr/bin/env bash
# prometheus.sh DIR: puts `prometheus` and `promtool` into DIR: links to those on PATH, else the binaries of Debian's package. Root is
# needed only where apt has no lists of packages yet. The cluster of the end-to-end tests has the same package in an image.
set -euo pipefail
dir=$(realpath -m "$1")

fail() { echo "prometheus: $*" >&2; exit 1; }
version() { echo "prometheus: $1: $("$1" --version 2>&1 | head -n 1)" >&2; }

[ ! -x "$dir/prometheus" ] || [ ! -x "$dir/promtool" ] || exit 0
mkdir -p "$dir"
if server=$(command -v prometheus); then
  # Both of one version: the server's own neighbor.
  tool=$(dirname "$server")/promtool
  if [ -x "$tool" ]; then
    version "$server"
    ln -sf "$server" "$dir/prometheus"
    ln -sf "$tool" "$dir/promtool"
    exit 0
  fi
  echo "prometheus: $server has no promtool beside it and is not used" >&2
fi

install="install prometheus and promtool 2.42 or newer, or set HEDDLE_PROMETHEUS to a directory that has both"
for needed in apt-get dpkg-deb; do
  command -v "$needed" > /dev/null || fail "$needed is not here, so Debian's package cannot be fetched; $install"
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
echo "prometheus: fetching Debian's package" >&2
cd "$work"
download() { apt-get download -qq -o APT::Sandbox::User=root prometheus; }
if ! download; then
  # A new machine may have no lists of packages yet.
  [ "$(id -u)" = 0 ] || fail "apt-get cannot download the package; run apt-get update as root, or $install"
  echo "prometheus: updating the lists of packages" >&2
  apt-get update -qq && download || fail "apt-get cannot download the package; $install"
fi
dpkg-deb -x prometheus_*.deb .
for name in promtool prometheus; do
  # Whole or not there, because tests may run it meanwhile.
  cp "$work/usr/bin/$name" "$dir/$name.new"
  mv "$dir/$name.new" "$dir/$name"
done
version "$dir/prometheus"
