#!/usr/bin/env bash
# The system unit on a real systemd, in namespaces of its own: keeper and worker
# are killed, the service is reloaded, stopped under a user and started again.
# As root, by hand: not every machine can run a second systemd. Changes nothing
# outside, and ends within three minutes whatever happens.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
if [ "${1:-}" = inside ]; then
    mount --make-rprivate /
    for dir in /run /tmp /root /etc/systemd/system /var/lib/systemd /var/cache; do
        mount -t tmpfs tmpfs "$dir"
    done
    mkdir -p /run/wasmfs-test /run/systemd/system
    cp "$root/target/release/wasmfs" /run/wasmfs-test/
    sed -e 's|/usr/bin/wasmfs|/run/wasmfs-test/wasmfs|' -e 's|/var/lib/wasmfs|/run/wasmfs-test/store|' \
        packaging/systemd/wasmfs-system.service >/etc/systemd/system/wasmfs.service
    printf '[Unit]\nDescription=nothing else\n' >/etc/systemd/system/test.target
    exec env -i container=lxc PATH="$PATH" /lib/systemd/systemd --system --unit=test.target
fi
if [ "${1:-}" = steps ]; then
    export WASMFS_STORE=/run/wasmfs-test/store WASMFS_MOUNT=/var/cache/wasm-modules
    wasmfs=/run/wasmfs-test/wasmfs
    of() { "$wasmfs" status --json | python3 -c "import json, sys; print(json.load(sys.stdin)$1)"; }
    is() { [ "$2" = "$3" ] && echo "ok: $1" || { echo "NOT OK: $1: $2, not $3"; exit 1; }; }
    systemctl start wasmfs
    echo '(module)' >/tmp/m.wat
    "$wasmfs" publish /tmp/m.wat --key key >/dev/null
    sleep 1000 <"$WASMFS_MOUNT/key" &
    keeper=$(systemctl show wasmfs -p MainPID --value) worker=$(of '["worker"]["pid"]')
    is "systemd watches the keeper" "$keeper" "$(of '["keeper"]["pid"]')"
    kill -KILL "$keeper"
    sleep 2
    is "a killed keeper is started again" "$(systemctl show wasmfs -p NRestarts --value)" 1
    is "… and takes the worker over" "$(of '["worker"]["pid"]')" "$worker"
    is "… and is the one that systemd watches" "$(systemctl show wasmfs -p MainPID --value)" "$(of '["keeper"]["pid"]')"
    kill -KILL "$worker"
    is "a killed worker is replaced" "$(sleep 1; of '["worker"]["replacements"]')" 1
    systemctl reload wasmfs
    is "a reload replaces it as well" "$(of '["worker"]["replacements"]')" 2
    systemctl stop wasmfs
    is "stopped, the path is free" "$(ls "$WASMFS_MOUNT" | wc -l)" 0
    is "… and its user is served" "$(wc -c <"/proc/$!/fd/0")" "$(stat -L -c %s "/proc/$!/fd/0")"
    systemctl start wasmfs
    is "started, both are served" "$(of '["mounts"].__len__()')" 2
    kill $!
    sleep 1
    is "… until the old one has no user" "$(of '["mounts"].__len__()')" 1
    systemctl stop wasmfs
    is "without users it ends cleanly" "$(systemctl show wasmfs -p ActiveState --value)" inactive
    is "… and closes the store" "$(grep -c '"closed": true' "$WASMFS_STORE/state.json")" 1
    exit
fi
timeout -k 1 180 unshare --fork --pid --mount --mount-proc --cgroup --kill-child "$0" inside &
outside=$!
init=
finish() {
    # With its first process the namespace ends, and everything in it.
    [ -z "$init" ] || kill -KILL "$init" 2>/dev/null || true
    wait $outside 2>/dev/null || true
}
trap finish EXIT
for _ in $(seq 50); do
    sleep 0.2
    init=$(pgrep -P "$(pgrep -P $outside || echo 0)" || true)
    [ -z "$init" ] || nsenter -t "$init" -m -p -C systemctl is-active test.target >/dev/null 2>&1 && break
done
timeout 120 nsenter -t "$init" -m -p -C "$root/tests/systemd.sh" steps
