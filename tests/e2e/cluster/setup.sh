#!/usr/bin/env bash
# setup.sh: installs the Debian packages that the cluster needs and that are missing. Root only.
set -euo pipefail

packages=(containerd runc iptables nftables busybox-static conntrack ipset socat ethtool openssl procps)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ "${#missing[@]}" -gt 0 ] || exit 0
echo "cluster: installing ${missing[*]}" >&2
# A machine image may deny that services start while packages are installed; ours are started by hand anyway.
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
