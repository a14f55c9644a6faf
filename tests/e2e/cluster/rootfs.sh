#!/usr/bin/env bash
# rootfs.sh DIR PACKAGE…: a small root file system from Debian packages and all that they need, unpacked without their scripts.
set -euo pipefail
root=$1
shift
mkdir -p "$root"
root=$(cd "$root" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

# Needed only by the scripts of packages, which do not run here.
unneeded='^(perl.*|debconf|cdebconf|debianutils|dpkg|tar|passwd|adduser|mount|init-system-helpers|gcc-[0-9]+-base|daemon|lsb-base|sysvinit-utils|libjs-.*|fonts-.*|prometheus-node-exporter.*|smartmontools|moreutils|systemd.*|python.*|libsystemd-shared)$'
packages=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances --no-pre-depends "$@" \
  | grep -E '^[a-z0-9]' | grep -v ':i386' | grep -vE "$unneeded" | sort -u)

cd "$work"
# shellcheck disable=SC2086 # a list of packages
apt-get download -qq -o APT::Sandbox::User=root $packages
for file in *.deb; do dpkg-deb -x "$file" "$root"; done

cd "$root"
rm -rf usr/share/{doc,man,locale,lintian,bug,info} usr/share/perl* usr/lib/x86_64-linux-gnu/perl*
mkdir -p tmp etc var/run run dev proc sys root
chmod 1777 tmp
printf 'root:x:0:0:root:/root:/bin/sh\nheddle:x:1337:1337::/:/bin/false\nnonroot:x:65532:65532::/:/bin/false\n' > etc/passwd
printf 'root:x:0:\nheddle:x:1337:\nnonroot:x:65532:\n' > etc/group
ldconfig -r "$root"
# What the package's script would have made of its certificates.
if [ -d usr/share/ca-certificates ]; then
  mkdir -p etc/ssl/certs
  find usr/share/ca-certificates -name '*.crt' -print0 | sort -z | xargs -0 cat > etc/ssl/certs/ca-certificates.crt
fi
if [ -e bin/busybox ]; then
  for applet in $(bin/busybox --list); do
    [ -e "bin/$applet" ] || [ -e "usr/bin/$applet" ] || [ -e "usr/sbin/$applet" ] || ln -s busybox "bin/$applet"
  done
fi
