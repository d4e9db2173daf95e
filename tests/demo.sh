#!/usr/bin/env bash
# wasmfs in a minute: a real solver from the mount, by the unmodified wasmtime
# CLI, and a publish over the file it is running.
set -euo pipefail
cd "$(dirname "$0")/.."
hosts=${WASMFS_TEST_HOSTS:-/var/tmp/wasmfs-hosts-$(id -u)}
wasmfs=$(realpath "${CARGO_TARGET_DIR:-target}")/release/wasmfs
wasmtime=$hosts/wasmtime
dir=$(mktemp -d)
export WASMFS_STORE=$dir/store WASMFS_MOUNT=$dir/wasm-modules
module=$WASMFS_MOUNT/boolector.cwasm
solver=

finish() {
    [ -z "$solver" ] || kill "$solver" 2>/dev/null || true
    "$wasmfs" unmount --lazy >/dev/null 2>&1 || true
    rm -rf "$dir"
}
trap finish EXIT

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() {
    printf '$ %s\n' "$*"
    "$@"
}
problem='(set-logic QF_BV)
(declare-fun a () (_ BitVec 16)) (declare-fun b () (_ BitVec 16))
(assert (= (bvmul a b) #x07e5)) (assert (bvult #x0001 a)) (assert (bvult #x0001 b))
(assert (bvult a #x0100)) (assert (bvult b #x0100))
(check-sat) (exit)'
# Boolector ends with 10 for sat.
solve() { "$wasmtime" run --allow-precompiled "$1" -m || [ $? = 10 ]; }

say "Mount an empty store."
run "$wasmfs" mount

say "Compile a real program, the SMT solver Boolector, with the host's own wasmtime, and publish it."
"$wasmtime" compile "$hosts/boolector.wasm" -o "$dir/boolector.cwasm"
run "$wasmfs" publish "$dir/boolector.cwasm"
run ls -li "$WASMFS_MOUNT"

say "The unmodified wasmtime CLI runs it from the mount: which two numbers multiply to 2021?"
solve "$module" <<<"$problem"

say "Start another one, which waits for its problem with the module mapped."
mkfifo "$dir/problem"
"$wasmtime" run --allow-precompiled "$module" -m <"$dir/problem" >"$dir/answer" &
solver=$!
exec 3>"$dir/problem"
for _ in $(seq 100); do grep -q boolector.cwasm "/proc/$solver/maps" && break || sleep 0.05; done

say "Publish another build over it. On a plain file this is how hosts crash."
"$wasmtime" compile -O opt-level=0 "$hosts/boolector.wasm" -o "$dir/boolector.cwasm"
run "$wasmfs" publish --default "$dir/boolector.cwasm"
run ls -li "$WASMFS_MOUNT" "$WASMFS_MOUNT/.wasmfs/versions/boolector.cwasm"
echo "process $solver still maps inode $(awk '/boolector.cwasm/ {print $5; exit}' "/proc/$solver/maps")"

say "It gets its problem now, and solves it with the version it started with."
printf '%s\n' "$problem" >&3
exec 3>&-
wait "$solver" || [ $? = 10 ]
solver=
cat "$dir/answer"

say "Who starts now gets the new version."
solve "$module" <<<"$problem"
run "$wasmfs" log boolector.cwasm

say "Unmount."
run "$wasmfs" unmount
