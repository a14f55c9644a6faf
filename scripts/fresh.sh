#!/usr/bin/env bash
# fresh.sh COMMAND...: runs COMMAND as on a new machine: in a clone of the committed tree in a temporary folder, with no
# target/, no .cache/ and an empty HOME, so that the caches of cargo, Go, pip and npm are empty too.
# Toolchains and the configuration of package registries stay as they are. Whatever happens, it ends the processes that
# COMMAND started, removes the folder, and exits with the code of COMMAND.
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: fresh.sh COMMAND..." >&2; exit 2; }

source=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
# Short: paths of Unix sockets have at most 107 bytes.
place=$(mktemp -d "${TMPDIR:-/tmp}/fresh.XXXXXX")
place=$(realpath "$place")
# Tests run sidecars as a user of their own.
chmod 755 "$place"
command=

# Processes of COMMAND: they inherit HEDDLE_FRESH, or their program, folder or root is in the temporary folder.
ours() {
  {
    grep -lzxF "HEDDLE_FRESH=$place" /proc/[0-9]*/environ
    find /proc/[0-9]* -maxdepth 1 \( -name exe -o -name cwd -o -name root \) -lname "$place/*"
  } 2>/dev/null | cut -d/ -f3 | sort -u
}

# end SIGNAL SECONDS: signals them, and waits until all have ended or the time is over.
end() {
  local deadline=$((SECONDS + $2)) left
  while left=$(ours || true) && [ -n "$left" ]; do
    # shellcheck disable=SC2086 # a list of process ids
    kill -s "$1" $left 2>/dev/null || true
    [ $SECONDS -lt $deadline ] || return 1
    sleep 0.2
  done
}

clean_up() {
  local code=$?
  trap '' INT TERM HUP
  # This shell and its own children are none of them.
  cd /
  unset HEDDLE_FRESH
  # The group first: COMMAND ends its own children, and puts back what it changed on the machine.
  if [ -n "$command" ] && kill -s TERM -- "-$command" 2>/dev/null; then
    timeout 60 tail --pid="$command" -f /dev/null || true
  fi
  end TERM 20 || end KILL 20 || echo "fresh: still running: $(ours | xargs)" >&2
  awk -v place="$place/" 'index($2, place) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r -n1 umount --lazy
  # Go makes the folders of its modules read-only.
  chmod -R u+w "$place" 2>/dev/null || true
  rm -rf --one-file-system "$place"
  exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

[ -z "$(git -C "$source" status --porcelain)" ] || echo "fresh: what is not committed is left out" >&2
git clone --quiet --no-checkout "$source" "$place/heddle"
git -C "$place/heddle" checkout --quiet --detach "$(git -C "$source" rev-parse HEAD)"
mkdir -p "$place/user/.cargo" "$place/tmp"

# Toolchains by their real places, before HOME changes.
export RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}
[ ! -d "${PYENV_ROOT:-$HOME/.pyenv}" ] || export PYENV_ROOT=${PYENV_ROOT:-$HOME/.pyenv}
# Configuration (registries, proxies, certificates) is not a cache.
for file in config.toml config; do
  [ ! -f "${CARGO_HOME:-$HOME/.cargo}/$file" ] || cp "${CARGO_HOME:-$HOME/.cargo}/$file" "$place/user/.cargo/"
done
if command -v go > /dev/null; then GOENV=$(go env GOENV) && export GOENV; fi
configuration() { [ -n "${!1:-}" ] || [ ! -f "$2" ] || export "$1=$2"; }
configuration NPM_CONFIG_USERCONFIG "$HOME/.npmrc"
configuration GIT_CONFIG_GLOBAL "$HOME/.gitconfig"
configuration PIP_CONFIG_FILE "$HOME/.pip/pip.conf"
configuration PIP_CONFIG_FILE "${XDG_CONFIG_HOME:-$HOME/.config}/pip/pip.conf"

# What would lead back to a cache, or was set for another build: by make, cargo or a virtual environment.
for name in ${!XDG_*} ${!SCCACHE_*} ${!HEDDLE_*} ${!CARGO_PKG_*} ${!CARGO_TARGET_*} ${!CARGO_BUILD_*} ${!CARGO_MANIFEST_*} \
  ${!RUSTC*} CARGO CACHE BIN MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES VIRTUAL_ENV PYTHONPATH GOBIN GOTMPDIR; do
  unset "$name"
done
export HEDDLE_FRESH=$place HOME=$place/user TMPDIR=$place/tmp
export CARGO_HOME=$HOME/.cargo CARGO_INSTALL_ROOT=$HOME/.cargo
export GOPATH=$HOME/go GOMODCACHE=$HOME/go/pkg/mod GOCACHE=$HOME/.cache/go-build
export PIP_CACHE_DIR=$HOME/.cache/pip NPM_CONFIG_CACHE=$HOME/.npm

cd "$place/heddle"
echo "fresh: $* (at $(git rev-parse --short HEAD), in $PWD)" >&2
# A session of its own, so that one signal reaches all of it.
setsid "$@" < /dev/null &
command=$!
code=0
wait "$command" || code=$?
command=
echo "fresh: $*: exit code $code after $SECONDS s" >&2
exit "$code"
