# The two commands of the README are `make demo` and `make test`. Each sets the machine up first (testbed/setup.sh says
# what it installs) and needs root, for network namespaces and a TUN device.

SHELL := /bin/sh
.DELETE_ON_ERROR:
.PHONY: demo test test-long bench lint lint-deps build setup

# The main kubectl of the tests; test-long adds the newest and an older one.
KUBECTL_VERSIONS ?= 33
KUBECTL_VERSIONS_LONG = 31 33 36

# An engineer's plain kubectl reaches a private API server through agent, edge and connector, step by step.
demo:
	KUBECTL_VERSIONS="$(KUBECTL_VERSIONS)" testbed/setup.sh packages nextest kubectl
	cargo build --package adit --package adit-testbed --bins --quiet
	target/debug/demo

# Format, lints, every test. From a clean checkout it has 20 minutes on 2 cores (.ci/run).
test: setup lint build
	cargo test --workspace --doc --quiet
	cargo nextest run --workspace --no-tests fail

# What does not fit: every kubectl version, licences and advisories of what we depend on.
test-long:
	KUBECTL_VERSIONS="$(KUBECTL_VERSIONS_LONG)" testbed/setup.sh
	$(MAKE) lint lint-deps build
	cargo nextest run --workspace --profile long

# Throughput, latency, retransmits and memory, beside the bare path and other tunnels, in one run of about eight minutes.
# BENCH="--quick" takes three; BENCH="--help" lists what else there is.
bench:
	testbed/bench.sh $(BENCH)

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings

lint-deps:
	cargo deny --version >/dev/null 2>&1 || { \
		echo "make: cargo-deny is missing: building it with cargo install (a few minutes)"; \
		cargo install cargo-deny --locked --quiet; }
	cargo deny check licenses bans sources
	if cargo deny fetch db; then cargo deny check advisories; \
	else echo "make: SKIPPED: advisories, since their database cannot be fetched"; fi

# Tests, and the programs that they start as processes.
build:
	cargo build --workspace --all-targets --quiet

setup:
	KUBECTL_VERSIONS="$(KUBECTL_VERSIONS)" testbed/setup.sh
