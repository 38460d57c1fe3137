# The two commands of the README are `make quickstart` and `make test`; each does all its own set-up.
.DEFAULT_GOAL := help

target := x86_64-unknown-linux-gnu
# Whatever the user's own settings say: the agent has to be found again.
export CARGO_TARGET_DIR := $(CURDIR)/target
export BOOTPROOF_AGENT := $(CARGO_TARGET_DIR)/$(target)/agent/bootproof-agent
# Where rustup puts Rust, also for shells that do not know of it.
export PATH := $(PATH):$(HOME)/.cargo/bin

# The guest's agent is static, so that it runs in any guest.
build_agent := RUSTFLAGS='-C target-feature=+crt-static' cargo build --quiet --locked --profile agent \
  --target $(target) --no-default-features --bin bootproof-agent

# Machines through libvirt, where its C library is; looked for when it is needed, after what is missing was installed.
features = $(shell pkg-config --exists libvirt 2>/dev/null && echo --features libvirt)

help: ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 20

setup: ## install what is missing on this host (Debian, Ubuntu)
	@scripts/install-prerequisites
	@scripts/check-rust

# What the tests use besides, and skip where it cannot be had.
setup-tests: setup
	@scripts/install-prerequisites tests

agent: setup
	@$(build_agent)

# Both at a time: each has stretches in which it keeps one core busy and no more.
release: setup
	@$(build_agent) & agent=$$!; cargo build --locked --release $(features); built=$$?; wait $$agent && exit $$built

quickstart: release ## boot a real machine with etcd and PostgreSQL, and leave the proof
	@target/release/bootproof run quickstart

test: setup-tests agent ## everything that has to pass, real machines included
	@scripts/check-rust clippy rustfmt
	cargo fmt --check
	cargo clippy --quiet --locked --all-targets $(features) -- -D warnings
	cargo clippy --quiet --locked --no-default-features --bin bootproof-agent -- -D warnings
	cargo test --locked $(features) --lib --bins --tests

nightly: release ## what takes longer than a commit may wait for
	BOOTPROOF_CRASH_MOMENTS=100 cargo test --locked --test crash
	target/release/bootproof run quickstart --control all
	target/release/bootproof run fork-six --control all
	target/release/bootproof run baremetal-iso --control all
	target/release/bootproof run activation-power-cut --control all
	target/release/bootproof run install-refusals
	target/release/bootproof run install-refusals --control all
	target/release/bootproof run install-tls
	target/release/bootproof run install-tls --control all
	target/release/bootproof run install-faults
	target/release/bootproof run install-faults --control all
	target/release/bootproof run host-lifecycle
	target/release/bootproof run host-lifecycle --control all
	target/release/bootproof run portable-regressions
	target/release/bootproof run portable-regressions --control all
	target/release/bootproof run deployer-bootstrap
	target/release/bootproof run deployer-bootstrap --control all
	target/release/bootproof run netboot --control all

bench: agent ## ratios against the plain tools, medians of alternating runs
	cargo bench --locked

.PHONY: help setup setup-tests agent release quickstart test nightly bench
