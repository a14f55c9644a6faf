#!/usr/bin/env bash
# setup.sh [--check]: installs the Debian packages whose programs the cluster needs and the machine lacks (root only).
# With --check it only names them, and fails if there are any.
set -euo pipefail

# program=package. By program, for Docker's own packages bring a containerd too.
needs=(containerd=containerd runc=runc iptables=iptables nft=nftables conntrack=conntrack ipset=ipset socat=socat ethtool=ethtool
  openssl=openssl pgrep=procps strip=binutils)
missing=()
for need in "${needs[@]}"; do command -v "${need%=*}" > /dev/null || missing+=("${need#*=}"); done

# Not taken from Debian: its Go is too old for Kubernetes.
for tool in go python3; do
  command -v $tool > /dev/null || { echo "cluster: $tool is missing (Go 1.24 or newer, Python 3.9 or newer with pip)" >&2; exit 1; }
done
[ "${#missing[@]}" -gt 0 ] || exit 0
if [ "${1:-}" = --check ]; then
  echo "cluster: missing: apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
echo "cluster: installing ${missing[*]}" >&2
apt-get update -qq
# A machine image may deny that services start while packages are installed; ours are started by hand anyway.
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
