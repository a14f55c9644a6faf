#!/usr/bin/env bash
# run.sh [--measure | --screenshots FOLDER]: the dashboard in a real Chromium. Needs Node 18, npm and Chromium: as root on Debian it
# installs those that are missing. target/debug has to be built, and HEDDLE_ENVOY is the Envoy of the demo.
set -euo pipefail
cd "$(dirname "$0")"
libraries=../../cli/src/dashboard/libraries

browser() {
  local name
  for name in "${CHROMIUM:-}" chromium chromium-browser google-chrome; do
    if [ -n "$name" ] && type -P "$name"; then return; fi
  done
  return 1
}

missing=()
command -v node > /dev/null || missing+=(nodejs)
command -v npm > /dev/null || missing+=(npm)
browser > /dev/null || missing+=(chromium)
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "the tests of the dashboard lack ${missing[*]}; install them (Debian: apt-get install ${missing[*]}), or name a Chromium by CHROMIUM" >&2
    exit 1
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi
node -e 'process.exit(process.versions.node.split(".")[0] < 18 ? 1 : 0)' || {
  echo "the tests of the dashboard need Node 18 or newer, not $(node --version)" >&2
  exit 1
}
CHROMIUM=$(browser)
export CHROMIUM

# No package runs a script of its own at its installation.
for folder in . "$libraries"; do
  npm ci --prefix "$folder" --ignore-scripts --no-audit --no-fund --loglevel=error
done

case "${1:-}" in
  --measure) exec node measure.mjs ;;
  --screenshots) exec node screenshots.mjs "${2:?a folder}" ;;
esac
npm run --prefix "$libraries" --silent check
node --test --test-concurrency=1 ./*.test.mjs
