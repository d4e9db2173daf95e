# Everything a checkout needs. `make demo` and `make test` set up the machine
# by themselves; as an ordinary user, install fuse3 and python3-venv first.

.PHONY: build demo test lint install bench bench-smoke

PREFIX ?= /usr/local

build:
	cargo build --release --workspace --all-targets

demo:
	tests/setup.sh demo
	cargo build --release --workspace
	tests/demo.sh

# As root: the tests mount as root and as an ordinary user.
test: build
	tests/setup.sh
	cargo test --release --workspace -- --test-threads=2

lint:
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings

# As root, half an hour: writes tests/bench/RESULTS.md, with its figures and its picture.
bench: build
	tests/setup.sh bench
	target/release/wasmfs-bench --out tests/bench

# Whether every part of it still works; the figures say nothing.
bench-smoke: build
	tests/setup.sh smoke
	target/release/wasmfs-bench --modules boolector,quickjs --rounds 0.02 --keys 2000 --hosts 2 --store-gb 0 --json >/dev/null

install: build
	install -D target/release/wasmfs $(DESTDIR)$(PREFIX)/bin/wasmfs
	install -D -m 644 packaging/systemd/wasmfs.service $(DESTDIR)$(PREFIX)/lib/systemd/user/wasmfs.service
	install -D -m 644 packaging/systemd/wasmfs-system.service $(DESTDIR)$(PREFIX)/lib/systemd/system/wasmfs.service
