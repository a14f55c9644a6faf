#!/usr/bin/env bash
# mkgomod.sh VERSION (34.4, say): writes go.mod for Kubernetes v1.VERSION from upstream's own. Upstream replaces its staging modules by
# folders of its repository; here they are required and replaced by their published v0.VERSION. `go mod tidy` has no place here.
set -euo pipefail
cd "$(dirname "$0")"
version=$1
upstream=$(go mod download -json "k8s.io/kubernetes@v1.$version" | sed -n 's/.*"GoMod": "\(.*\)",/\1/p')
staging=$(sed -n 's#^\t\(k8s.io/[^ ]*\) => ./staging.*#\1#p' "$upstream")

# Not every patch version of the sample repositories is published, and no component imports them: an empty module stands in.
sample='k8s.io/sample-(cli-plugin|controller|apiserver)'
mkdir -p stub
printf 'module stub\n\ngo 1.24.0\n' > stub/go.mod

{
  printf 'module heddle.dev/e2e/kube\n\n'
  grep '^go ' "$upstream"
  printf '\nrequire (\n\tk8s.io/kubernetes v1.%s\n' "$version"
  # All that upstream pins, but the staging modules, which have no version there.
  sed -n '/^require (/,/^)/p' "$upstream" | grep -vE '^(require|\))' | grep -vE ' v0\.0\.0( |$)'
  for module in $staging; do [[ $module =~ $sample ]] || printf '\t%s v0.%s\n' "$module" "$version"; done
  printf ')\n\nreplace (\n'
  for module in $staging; do
    if [[ $module =~ $sample ]]; then printf '\t%s => ./stub\n' "$module"; else printf '\t%s => %s v0.%s\n' "$module" "$module" "$version"; fi
  done
  printf ')\n'
} > go.mod

# Go adds what upstream leaves implicit, and sorts.
go list -mod=mod -deps . > /dev/null
