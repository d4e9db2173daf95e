# Everything a checkout needs. `make demo` and `make test` set up the machine by themselves when they
# are run as root; as an ordinary user, install fuse3 and python3-venv first.

.PHONY: build program check deny demo docs fuzz install lint snapshots test unit bench bench-smoke

PREFIX ?= /usr/local
TARGET := $(or $(CARGO_TARGET_DIR),target)
# One profile, and one choice of features for what is built in: so that each crate is built once.
CARGO_BUILD := cargo build --release --workspace

# All that the tests need; what `make install` installs comes last, and is what they run.
build:
	$(CARGO_BUILD) --bin wasmfs --features wasmfs-cli/fault
	cp $(TARGET)/release/wasmfs $(TARGET)/release/wasmfs-faulty
	$(CARGO_BUILD) --all-targets
	$(CARGO_BUILD) --bin wasmfs

# The program alone.
program:
	$(CARGO_BUILD) --bin wasmfs

demo: program
	tests/setup.sh demo
	tests/demo.sh

# As root: the tests mount as root and as an ordinary user.
test:
	tests/previous.sh
	$(MAKE) build
	tests/setup.sh
	cargo test --release --workspace -- --test-threads=2

# What can be checked without root, FUSE and network, in two minutes once it is built.
check: lint unit docs

lint:
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings

# Those tests that need neither root nor a mount. All of the workspace, as when it was built: one
# choice of features.
unit:
	cargo test --release --workspace --no-fail-fast --lib --bin wasmfs --test house --test pages \
		--test publishing \
		--test several_engines --test opening --test collecting --test fuzz --test filesystem
	cargo test --release --workspace --doc

# What commands print, and the reference of commands, as they are now: read the difference.
snapshots: program
	INSTA_UPDATE=always WASMFS_UPDATE=1 cargo test --release -p wasmfs-cli page_of_errors
	INSTA_UPDATE=always WASMFS_UPDATE=1 cargo test --release -p wasmfs-tests --test cli -- \
		printed help the_reference

docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps --document-private-items

# Licenses, versions and sources of all that is built in.
deny:
	command -v cargo-deny >/dev/null || cargo install cargo-deny --locked --quiet
	cargo deny --all-features check licenses bans sources

# Whatever bytes somebody brings, for FUZZ_SECONDS: with coverage and sanitizers where there is a
# nightly compiler, and with mutations of good ones everywhere.
FUZZ_SECONDS ?= 60
fuzz:
	WASMFS_FUZZ_SECONDS=$(FUZZ_SECONDS) cargo test --release -p wasmfs-store --test fuzz
	if cargo +nightly --version >/dev/null 2>&1; then \
		command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked --quiet; \
		cd store && cargo +nightly fuzz run artifact -- -max_total_time=$(FUZZ_SECONDS); \
	fi

# As root, half an hour: writes tests/bench/RESULTS.md, with its figures and its picture.
bench: build
	tests/setup.sh bench
	$(TARGET)/release/wasmfs-bench --out tests/bench

# Whether every part of it still works; the figures say nothing.
bench-smoke: build
	tests/setup.sh smoke
	$(TARGET)/release/wasmfs-bench --modules boolector,quickjs --rounds 0.02 --keys 2000 --hosts 2 --store-gb 0 --json >/dev/null

install: program
	install -D $(TARGET)/release/wasmfs $(DESTDIR)$(PREFIX)/bin/wasmfs
	install -D -m 644 packaging/systemd/wasmfs.service $(DESTDIR)$(PREFIX)/lib/systemd/user/wasmfs.service
	install -D -m 644 packaging/systemd/wasmfs-system.service $(DESTDIR)$(PREFIX)/lib/systemd/system/wasmfs.service
