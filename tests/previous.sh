#!/usr/bin/env bash
# Builds the program of the release before into target/previous/wasmfs, for tests that have it and
# today's take turns. What both are built from is built once: they share the target directory.
set -euo pipefail
cd "$(dirname "$0")/.."
commit=cea5001
target=${CARGO_TARGET_DIR:-target}
[ -x "$target/previous/wasmfs" ] && [ "$(cat "$target/previous/commit")" = "$commit" ] && exit
rm -rf "$target/previous"
mkdir -p "$target/previous/source"
has() { git cat-file -e "$commit^{commit}" 2>/dev/null; }
# A clone of the newest commit alone lacks it.
has || git fetch --quiet --unshallow 2>/dev/null || true
if ! has; then
    echo "no commit $commit here (\`git fetch --unshallow\` brings it)" | tee "$target/previous/absent" >&2
    exit
fi
git archive "$commit" | tar x -C "$target/previous/source"
cargo build --release --workspace --bin wasmfs --target-dir "$target" \
    --manifest-path "$target/previous/source/Cargo.toml"
# The name is today's program's.
mv "$target/release/wasmfs" "$target/previous/wasmfs"
echo "$commit" >"$target/previous/commit"
