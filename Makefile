# narfs: build, test, demonstrate, install. Each target first installs what it needs, where that
# is missing: Debian packages (as root) and cargo tools.

.DEFAULT_GOAL := build
.NOTPARALLEL:
.PHONY: build unit test check licences advisories docs demo bench world containers restarts torture upgrade-test fuzz
.PHONY: deb deb-test install uninstall help clean

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

export PREFIX ?= /usr/local
export DESTDIR ?=
FUZZ_SECONDS ?= 60
RESTARTS_SECONDS ?= 60
TORTURE_SECONDS ?= 1800
TORTURE_PROGRAMS ?= 500
TORTURE_FLIPS ?= 1000
TORTURE_FILES ?= 300
TORTURE_MOMENTS ?= 200

# One profile for the program, its tests, the lints and the documentation: the dependencies, most of all
# RocksDB's 340 C++ files, are compiled once. Where a second clone needs them, ccache has them.
CARGO_PROFILE := --release
export PATH := $(PATH):$(HOME)/.cargo/bin

BUILD_PACKAGES := g++ clang libclang-dev ccache
WORLD_PACKAGES := nix-bin patchelf util-linux
TEST_PACKAGES := $(WORLD_PACKAGES) hello bash coreutils python3-minimal python3 zstd attr acl busybox-static procps openssl systemd fuse3 e2fsprogs
BENCH_WORLD := hello perl git python3 gcc vim sqlite3 curl
BENCH_PACKAGES := $(WORLD_PACKAGES) $(BENCH_WORLD) squashfs-tools erofs-utils

# $(call debian,PACKAGE…): installs the packages that are missing.
define debian
missing=; for p in $(1); do \
    [ "$$(dpkg-query -W -f '$${db:Status-Status}' "$$p" 2>/dev/null)" = installed ] || missing="$$missing $$p"; done; \
if [ -n "$$missing" ]; then \
    if [ "$$(id -u)" != 0 ]; then echo "missing packages; as root: apt-get install$$missing" >&2; exit 1; fi; \
    echo "installing$$missing"; export DEBIAN_FRONTEND=noninteractive; apt-get update -qq; \
    apt-get install -y -qq --no-install-recommends $$missing </dev/null >/dev/null; fi
endef

# Rust itself is not installed: which toolchain a machine has is its owner's choice.
define rust
version=$$(cargo --version 2>/dev/null | cut -d ' ' -f 2) || version=; \
if [ -z "$$version" ] || [ "$$(printf '%s\n' 1.90 "$$version" | sort -V | head -n 1)" != 1.90 ]; then \
    echo "narfs needs Rust 1.90 or newer (here: $${version:-none}), which Debian 12 does not have." >&2; \
    echo "Install it with rustup, as https://rustup.rs says, and run make again." >&2; exit 1; fi
endef

# $(call cargo_tool,COMMAND,VERSION): installs a cargo command that is missing.
define cargo_tool
cargo $(1) --version >/dev/null 2>&1 || cargo install cargo-$(1) --version '$(2)' --locked
endef

# Tests say how long they took. libtest calls that unstable; its permission is given to the test programs
# only, since cargo would take it for a reason to build all dependencies again. The first failure does not
# hide the next one. Documentation has no tests.
CARGO_TEST := cargo test $(CARGO_PROFILE) --workspace --no-fail-fast --config 'target."cfg(unix)".runner=["env","RUSTC_BOOTSTRAP=1"]'
# Most tests wait for daemons and disks most of the time, so that two for each core take half as long.
TIMES := -Zunstable-options --report-time --test-threads=$$((2 * $$(nproc)))

##@ Daily
build: ## the program: target/release/narfs (default)
	@$(rust)
	@$(call debian,$(BUILD_PACKAGES))
	cargo build $(CARGO_PROFILE) --workspace

unit: ## unit tests and the rules of the architecture: without root, without FUSE
	@$(rust)
	@$(call debian,$(BUILD_PACKAGES))
	@tests/timed.sh "make unit" $(CARGO_TEST) --lib --bins --test architecture -- $(TIMES)

check: ## format and lints
	@$(rust)
	@$(call debian,$(BUILD_PACKAGES))
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || rustup component add rustfmt clippy
	cargo fmt --all --check
	cargo clippy $(CARGO_PROFILE) --workspace --all-targets -- -D warnings

ifdef T
test:
	@$(rust)
	@$(call debian,$(BUILD_PACKAGES))
	@[ "$$(id -u)" != 0 ] || { $(call debian,$(TEST_PACKAGES)); }
	@targets=$$(tests/targets.sh "$(T)"); \
	tests/timed.sh "make test T=$(T)" $(CARGO_TEST) $$targets -- "$(T)" $(TIMES)
else
test: ## format, lints and every test, with real FUSE mounts (root); T=eviction: only tests with that in their path
	@failed=; \
	$(MAKE) --no-print-directory check || failed=1; \
	$(call debian,$(TEST_PACKAGES)); \
	tests/timed.sh "make test" $(CARGO_TEST) --tests -- $(TIMES) || failed=1; \
	[ -z "$$failed" ] || { echo "make test: FAILED" >&2; exit 1; }
endif

docs: ## the documentation of the code, and the links and commands in README and docs/
	@$(rust)
	@$(call debian,$(BUILD_PACKAGES))
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links -A rustdoc::bare-urls" cargo doc $(CARGO_PROFILE) --workspace --no-deps --document-private-items
	cargo test $(CARGO_PROFILE) --workspace --test architecture links

##@ The whole system
demo: build ## makes a small signed binary cache, mounts it, runs a program from it (root)
	@$(call debian,$(WORLD_PACKAGES) hello)
	tests/demo.sh

containers: build ## containers of real podman, containerd and docker on views, and the examples (root)
	@engines=; for e in podman crun catatonit containerd runc docker:docker.io dockerd:docker.io docker-compose; do \
	    command -v "$${e%:*}" >/dev/null || engines="$$engines $${e#*:}"; done; \
	$(call debian,$(WORLD_PACKAGES) bash python3 curl coreutils $$engines)
	tests/world/make-world.sh target/world/containers bash python3 curl coreutils
	@failed=; for engine in podman volumes containerd docker kubernetes; do \
	    tests/timed.sh "make containers: $$engine" tests/containers/$$engine.sh target/world/containers/cache || failed+=" $$engine"; done; \
	[ -z "$$failed" ] || { echo "make containers: FAILED:$$failed" >&2; exit 1; }

restarts: build ## kills, restarts and replaces the daemon while /nix is used, under systemd and without (root)
	@$(call debian,$(WORLD_PACKAGES) debootstrap debian-archive-keyring hello bash coreutils python3)
	@tests/timed.sh "make restarts" tests/services/restarts.sh --seconds $(RESTARTS_SECONDS)

upgrade-test: build ## another version, in the directory OLD, and this one take each other's place while /nix is used (root)
	@$(call debian,$(WORLD_PACKAGES) debootstrap debian-archive-keyring hello bash coreutils python3)
	@[ -n "$(OLD)" ] || { echo "name the directory with narfs and mount-narfs of the version before: make upgrade-test OLD=DIRECTORY" >&2; exit 2; }
	tests/services/upgrade.sh $(OLD)
	OLD=$(OLD) tests/services/restarts.sh --seconds $(RESTARTS_SECONDS)

# $(call rounds,N,TEST): N rounds of a test, each by its seed; `SEED=n make test T=TEST` repeats one.
define rounds
ROUNDS=$(1) cargo test $(CARGO_PROFILE) --test system $(2) -- --nocapture
endef

torture: build ## flipped bytes, lost files, full disks; programs while all is collected; TORTURE_SECONDS (1800) of everything at once (root)
	@$(call debian,$(TEST_PACKAGES) gcc libc6-dev)
	PROPTEST_CASES=2000 cargo test $(CARGO_PROFILE) --lib engine::model
	$(call rounds,$(TORTURE_FLIPS),damaged_files::a_flipped_byte)
	$(call rounds,$(TORTURE_FILES),damaged_files::a_file)
	$(call rounds,$(TORTURE_FILES),damaged_files::without_a_source)
	$(call rounds,$(TORTURE_MOMENTS),filled_disk)
	@tests/timed.sh "make torture" tests/torture/torture.sh --programs $(TORTURE_PROGRAMS) --seconds $(TORTURE_SECONDS)

deb-test: deb ## the Debian package is installed, upgraded and purged on two Debians, under systemd (root)
	@$(call debian,$(WORLD_PACKAGES) debootstrap debian-archive-keyring hello bash coreutils python3)
	@tests/timed.sh "make deb-test" tests/services/debian.sh

fuzz: ## each fuzz target for FUZZ_SECONDS (60)
	@$(rust)
	@$(call debian,$(BUILD_PACKAGES))
	@$(call cargo_tool,fuzz,^0.13)
	targets=$$(RUSTC_BOOTSTRAP=1 cargo fuzz list --fuzz-dir tests/fuzz); \
	for t in $$targets; do \
	    mkdir -p tests/fuzz/corpus/$$t; \
	    RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz "$$t" tests/fuzz/corpus/$$t tests/fuzz/seeds/$$t -- -max_total_time=$(FUZZ_SECONDS); done

##@ Continuous integration: .ci/run
licences: ## licences, sources and bans of the dependencies
	@$(rust)
	@$(call cargo_tool,deny,^0.20)
	cargo deny check licenses bans sources

advisories: ## known vulnerabilities of the dependencies, where their database can be had
	@$(rust)
	@$(call cargo_tool,deny,^0.20)
	@if timeout 120 cargo deny fetch db; then cargo deny check --disable-fetch advisories; \
	else echo "NOT CHECKED: the database of advisories cannot be fetched from here" >&2; fi

##@ Measuring
world: ## the world of the benchmarks and its mass rebuild, 500 MB each: target/world (root)
	@$(call debian,$(BENCH_PACKAGES))
	tests/world/make-world.sh target/world/bench $(BENCH_WORLD)
	tests/world/make-world.sh --salt rebuild --key target/world/bench/key.sec target/world/rebuild $(BENCH_WORLD)

bench: build world ## the benchmarks, with the tools they are compared to (root)
	target/release/narfs-bench --cache target/world/bench/cache --cache target/world/rebuild/cache \
	    --key target/world/bench/key.pub --json target/bench/results.json --svg target/bench/reads.svg \
	    --baseline bench/baseline.json

##@ Installing
target/release/narfs:
	$(MAKE) build

install: target/release/narfs ## what was built, below DESTDIR and PREFIX (/usr/local)
	@systemd/install.sh install

uninstall: ## removes what `make install` has installed, and nothing else
	@systemd/install.sh uninstall

deb: build ## a Debian package: target/deb
	systemd/debian/build.sh

##@ Other
clean: ## what building and the targets above left behind
	rm -rf target tests/fuzz/target

help: ## this list
	@awk -F ':.*## ' '/^##@ / { printf "%s%s\n", n++ ? "\n" : "", substr($$0, 5) } /^[a-z-]+:.*## / { printf "  %-14s%s\n", $$1, $$2 }' Makefile
