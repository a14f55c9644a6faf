#!/usr/bin/env bash
# check.sh: what a cluster must be able to do before the mesh's own tests say anything; takes about half a minute.
# On the cluster of up.sh, or on that of KUBECONFIG (with KUBECTL), whose nodes must have heddle.dev/echo:dev.
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
export KUBECONFIG=${KUBECONFIG:-$state/kubeconfig}
namespace=check-$$

# KUBECTL may hold arguments.
# shellcheck disable=SC2086
kubectl() { ${KUBECTL:-$cache/bin/kube kubectl} "$@"; }
k() { kubectl -n "$namespace" "$@"; }
trap 'kubectl delete namespace "$namespace" --wait=false > /dev/null 2>&1 || true' EXIT

passed=0 failed=0
# ok WHAT COMMAND…: counts; the output is shown only of what fails.
ok() {
  local what=$1 output
  shift
  if output=$("$@" 2>&1); then
    passed=$((passed + 1))
    echo "ok    $what"
  else
    failed=$((failed + 1))
    printf 'FAIL  %s\n%s\n' "$what" "$(tail -n 5 <<< "$output" | sed 's/^/      /')"
  fi
}
# eventually COMMAND…: for half a minute; the last try's output is that of the whole.
eventually() {
  local end=$((SECONDS + 30)) output
  until output=$("$@" 2>&1); do [ $SECONDS -lt $end ] || { echo "$output"; return 1; }; sleep 0.3; done
}

[ "${KUBECONFIG}" != "$state/kubeconfig" ] || "$here/load-images.sh" "$cache/images/echo.tar" > /dev/null
kubectl create namespace "$namespace" > /dev/null
eventually k get serviceaccount default
k apply -f "$here/manifests/check.yaml" > /dev/null

ok "all nodes are ready" kubectl wait --for=condition=Ready nodes --all --timeout=30s
ok "the echo application rolls out" k rollout status deployment/echo --timeout=90s
ok "a client pod is ready" k wait --for=condition=Ready pod/client --timeout=60s

# answered ARGUMENT…: ten requests from the client pod, each answered by the application.
answered() {
  local report
  report=$(k exec client -- /echo client -n=10 "$@")
  echo "$report"
  grep -q '"versions":{"v1":10}' <<< "$report" && grep -q '"errors":0,' <<< "$report"
}
ok "HTTP by a service's name" eventually answered http://echo/
ok "HTTP by its full name" eventually answered "http://echo.$namespace.svc.cluster.local/"
ok "HTTP/2 without TLS" answered -proto=h2c http://echo/
ok "gRPC" answered -proto=grpc echo:9090
ok "TCP where the server speaks first" answered -proto=tcp echo:3306

# During a rollout of pods that serve on after SIGTERM no request is lost.
rollout_keeps_answering() {
  local report
  k exec client -- /echo client -n=600 -qps=60 -c=4 -keepalive=false http://echo/ > "$work/report" &
  local load=$!
  k rollout restart deployment/echo && k rollout status deployment/echo --timeout=90s
  wait $load
  report=$(cat "$work/report")
  echo "$report"
  grep -q '"versions":{"v1":600}' <<< "$report"
}
work=$(mktemp -d)
ok "a rollout loses no request" rollout_keeps_answering
rm -rf "$work"

# review AUDIENCE: what the API server says of a token that is meant for `mesh.example`.
review() {
  printf '{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":"%s","audiences":["%s"]}}' \
    "$(k create token default --audience mesh.example)" "$1" | kubectl create -f - -o 'jsonpath={.status.authenticated} {.status.user.username}'
}
accepted() { [ "$(review mesh.example)" = "true system:serviceaccount:$namespace:default" ]; }
refused() { [ "$(review other.example | cut -d' ' -f1)" != true ]; }
ok "a token is accepted for its audience" accepted
ok "and for no other" refused

ok "a native sidecar starts before the application" k wait --for=condition=Ready pod/sidecar --timeout=60s
ok "a job with a sidecar completes" k wait --for=condition=Complete job/once --timeout=60s
logs() { k logs job/once -c app | grep -q '"count":1,'; }
ok "logs" eventually logs
killed() { k wait --for='jsonpath={.status.containerStatuses[0].state.terminated.reason}=OOMKilled' pod/greedy --timeout=60s; }
# Prometheus' image has a shell; the echo application's has not.
if [ "${KUBECONFIG}" = "$state/kubeconfig" ]; then
  "$here/load-images.sh" "$cache/images/prometheus.tar" > /dev/null
  ok "a memory limit is enforced" killed
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
