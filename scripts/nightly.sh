#!/usr/bin/env bash
# nightly.sh [PART...]: runs the parts that are too heavy for every run, one after another, and keeps the result of each in a row of
# docs/nightly.md; a part without a result has a row, too. A part that fails does not stop the others. Some parts need root.
set -euo pipefail
cd "$(dirname "$0")/.."
page=docs/nightly.md
logs=${CACHE:-.cache}/nightly
export RUST_BACKTRACE=0
all=(gitops telemetry sockets idle routes verdicts audit rollouts)

part() {
  case $1 in
    gitops) tests/gitops/run.sh ;;
    telemetry) tests/telemetry/run.sh ;;
    sockets) cargo build --workspace --bins && HELD_SOCKETS=1000 cargo test --workspace --test standalone open_connections ;;
    idle) HEDDLE_IDLE_REQUESTS=30000 cargo test --workspace --test idle_ends -- --nocapture ;;
    routes) HEDDLE_ROUTES=6000 cargo test --workspace --test routes -- --nocapture ;;
    verdicts) HEDDLE_VERDICTS=100000 cargo test --workspace --test verdicts -- --nocapture ;;
    audit) tests/e2e/cluster/build.sh && cargo build --workspace --bins && HEDDLE_AUDIT_CHANGES=100000 cargo test --workspace --test audit -- --nocapture ;;
    rollouts) HEDDLE_ROLLOUT_ROUNDS=50 tests/e2e/run.sh --rollouts ;;
  esac
}

# The lines that tell what a part has counted, as one cell of a table.
counted() {
  local lines
  lines=$({ grep -oE '(rollouts: [a-z]+: [0-9]+ of|rollouts: [0-9]+ ids|[0-9]+ of [0-9]+ requests have a rule|[0-9]+ passed, [0-9]+ denied|[0-9]+ changes by|[0-9]+ requests, [0-9]+ clients).*' "$1" || true; } | sed 's/$/;/' | tr '\n' ' ')
  printf '%s' "${lines%; }"
}

# Puts a row in the place of that of the same part, or at the end.
keep() {
  local text
  text=$(awk -v key="| $1 |" -v row="$2" 'index($0, key) == 1 { print row; found = 1; next } 1; END { if (!found) print row }' "$page")
  printf '%s\n' "$text" > "$page"
}

[ $# -gt 0 ] || set -- "${all[@]}"
for name in "$@"; do
  case " ${all[*]} " in
    *" $name "*) ;;
    *) echo "$name is not a part; use ${all[*]}" >&2; exit 2 ;;
  esac
done
mkdir -p "$logs"
[ -e "$page" ] || printf '%s\n' '# The last nightly run' '' \
  '`make nightly` writes this page. Each row is a test that is too heavy for `make test`.' \
  'A part that has no result yet has the row "not run".' '' \
  '| part | result | seconds | date | commit | counted |' '|---|---|---|---|---|---|' > "$page"
for name in "${all[@]}"; do
  grep -qF "| $name |" "$page" || keep "$name" "| $name | not run | - | - | - |  |"
done
code=0
for name in "$@"; do
  began=$SECONDS result=passed
  commit=$(git rev-parse --short HEAD)
  git diff --quiet HEAD -- . ":!$page" || commit+=", changed"
  echo "nightly: $name"
  part "$name" 2>&1 | tee "$logs/$name.log" || { result=FAILED; code=1; }
  counted=$(counted "$logs/$name.log")
  keep "$name" "| $name | $result | $((SECONDS - began)) | $(date -u +%F) | $commit | $counted |"
  echo "nightly: $name: $result"
done
exit $code
