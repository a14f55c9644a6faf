#!/bin/bash
# writes ./go.mod for Kubernetes v1.$1 from upstream's own go.mod: same requires, staging replaces -> published v0.$1
set -eu
V=$1   # e.g. 34.4
MOD=$(go mod download -json k8s.io/kubernetes@v1.$V | sed -n 's/.*"GoMod": "\(.*\)",/\1/p')
# not every sample repository's patch version is on the module proxy, and no component imports them: an empty local module stands in
STUB='k8s.io/sample-(cli-plugin|controller|apiserver)'
mkdir -p stub; printf 'module stub\n\ngo 1.24.0\n' > stub/go.mod
STAGING=$(sed -n 's#^\t\(k8s.io/[^ ]*\) => ./staging.*#\1#p' "$MOD")
{
  echo "module heddle.dev/e2e/kube"; echo
  grep '^go ' "$MOD"; echo
  # the version-pinned requirements of upstream, minus the staging ones (v0.0.0)
  echo "require ("; echo "	k8s.io/kubernetes v1.$V"
  sed -n '/^require (/,/^)/p' "$MOD" | grep -vE '^(require|\))' | grep -v ' v0\.0\.0\( \|$\)'
  for m in $STAGING; do [[ $m =~ $STUB ]] || echo "	$m v0.$V"; done
  echo ")"; echo
  echo "replace ("
  for m in $STAGING; do if [[ $m =~ $STUB ]]; then echo "	$m => ./stub"; else echo "	$m => $m v0.$V"; fi; done
  echo ")"
} > go.mod
