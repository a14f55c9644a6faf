#!/usr/bin/env bash
# nightly.sh [PART...]: runs the parts that are too heavy for every run, one after another, and keeps the result of each in a row of
# docs/nightly.md. A part that fails does not stop the others. Some parts need root.
set -euo pipefail
cd "$(dirname "$0")/.."
page=docs/nightly.md
logs=${CACHE:-.cache}/nightly
export RUST_BACKTRACE=0
all=(gitops telemetry sockets verdicts audit rollouts)

part() {
  case $1 in
    gitops) tests/gitops/run.sh ;;
    telemetry) tests/telemetry/run.sh ;;
    sockets) cargo build --workspace --bins && HELD_SOCKETS=1000 cargo test --workspace --test standalone open_connections ;;
    verdicts) HEDDLE_VERDICTS=100000 cargo test --workspace --test verdicts -- --nocapture ;;
    audit) tests/e2e/cluster/build.sh && HEDDLE_AUDIT_CHANGES=100000 cargo test --workspace --test audit -- --nocapture ;;
    rollouts) HEDDLE_ROLLOUT_ROUNDS=50 tests/e2e/run.sh --rollouts ;;
  esac
}

# The lines that tell what a part has counted, as one cell of a table.
counted() {
  local lines
  lines=$({ grep -E '^(rollouts: [a-z]+: [0-9]+ of|rollouts: [0-9]+ ids|[0-9]+ passed, [0-9]+ denied|[0-9]+ changes by)' "$1" || true; } | sed 's/$/;/' | tr '\n' ' ')
  printf '%s' "${lines%; }"
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
  'Written by `make nightly`, which runs what is too heavy for `make test`: a row for each part.' '' \
  '| part | result | seconds | date | commit | counted |' '|---|---|---|---|---|---|' > "$page"
code=0
for name in "$@"; do
  began=$SECONDS result=passed
  echo "nightly: $name"
  part "$name" 2>&1 | tee "$logs/$name.log" || { result=FAILED; code=1; }
  row="| $name | $result | $((SECONDS - began)) | $(date -u +%F) | $(git rev-parse --short HEAD) | $(counted "$logs/$name.log") |"
  rest=$(grep -v "^| $name |" "$page")
  printf '%s\n%s\n' "$rest" "$row" > "$page"
  echo "nightly: $name: $result"
done
exit $code
