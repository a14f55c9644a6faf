#!/usr/bin/env bash
# layers.sh TARGET[+TARGET]...: makes the targets one after another, and those with a plus between them at the same time, where all but the
# first have the lowest priority. Prints at the end how long each took, on the clock and of the processors. After one that fails no other begins.
set -euo pipefail
cd "$(dirname "$0")/.."
# Without stacks, the end of the output of a failed layer has the errors themselves.
export RUST_BACKTRACE=0
TIMEFORMAT='%0R %0U %0S'
results=$(mktemp -d)
beside=()
clean_up() {
  local group
  for group in "${beside[@]}"; do kill -s TERM -- "-$group" 2> /dev/null || true; done
  rm -rf "$results"
}
trap clean_up EXIT

# layer TARGET: the file `code` says at its end how it ended. The times go to a file of their own: standard error belongs to the layer.
layer() {
  local code=0
  { time make --no-print-directory "$1" 2>&3; } 3>&2 2> "$results/$1.times" || code=$?
  echo $code > "$results/$1.code"
}

lines=() code=0
for together in "$@"; do
  IFS=+ read -ra targets <<< "$together"
  # Lines of two layers would mix: those beside the first print when it has ended.
  for target in "${targets[@]:1}"; do
    # In a process group of its own, so that it can be ended with all that it started.
    set -m
    (renice -n 19 -p "$BASHPID" > /dev/null && layer "$target") > "$results/$target.output" 2>&1 &
    set +m
    beside+=($!)
  done
  layer "${targets[0]}"
  wait
  beside=()
  for target in "${targets[@]}"; do
    [ "$target" = "${targets[0]}" ] || cat "$results/$target.output"
    # In the line before it, a shell says that make was killed.
    read -r real user system < <(tail -n 1 "$results/$target.times")
    line=$(printf '%-14s %5d s %7d s of the processors' "$target" "$real" $((user + system)))
    read -r ended < "$results/$target.code"
    [ "$ended" -eq 0 ] || { line+="  FAILED"; code=$ended; }
    lines+=("$line")
  done
  [ $code -eq 0 ] || break
done
printf 'make test: %s\n' "${lines[@]}" "$(printf '%-14s %5d s' "in all" $SECONDS)"
[ $code -ne 0 ] || echo "make test: all layers passed"
exit $code
