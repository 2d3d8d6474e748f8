# engine.sh: shared by the scripts beside it. Each is called with a binary cache in a directory that
# has bash, python3 and curl, and begins with
#
#     . "$(dirname "$0")/engine.sh"
#     need COMMAND:PACKAGE...
#     begin
#
# Afterwards a state is mounted at $nix, the closure view `web` of bash, python3, curl and a file of
# 30 MB is at $view, and $image is a root that contains only mount points. Everything created is
# below $dir, in a separate mount namespace, and removed at the end, as are the daemons in $daemons.
#
# The checks below take the command that runs a container; program and arguments are appended to it,
# such as `podman run --rm -v "$view:/nix/store:ro" IMAGE`.
# shellcheck shell=bash
set -euo pipefail
[ $# = 1 ] || { echo "usage: ${0##*/} CACHE" >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=$(realpath "$1")
examples=$(realpath "$here/../../systemd/examples/containers")
narfs=$(realpath -m "${NARFS:-$here/../../target/release/narfs}")

fail() { echo "FAILED: $*" >&2; [ -z "${dir:-}" ] || tail -n 20 "$dir/log" >&2; exit 1; }
ok() { echo "ok: $*"; }

need() { # COMMAND:PACKAGE...
    [ "$(id -u)" = 0 ] || fail "must be run by root"
    [ -x "$narfs" ] || fail "there is no $narfs: make build"
    [ -c /dev/fuse ] || modprobe fuse 2>/dev/null || fail "there is no /dev/fuse: in a container, pass --device /dev/fuse"
    local pair missing=
    for pair in "$@"; do
        ! command -v "${pair%:*}" >/dev/null || continue
        [[ " $missing " == *" ${pair#*:} "* ]] || missing="$missing ${pair#*:}"
    done
    [ -z "$missing" ] || fail "missing for ${0##*/}: apt-get install$missing"
    [ -n "${IN_NAMESPACE:-}" ] && return
    # A mount namespace with /sys/fs/cgroup as crun and runc need it, and with shared mounts, as
    # systemd sets them up.
    export IN_NAMESPACE=1
    exec unshare -m --propagation slave bash -c \
        'umount -R -l /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 none /sys/fs/cgroup; mount --make-rshared /; exec "$@"' \
        bash bash "$0" "$cache"
}

daemons=()
finish() {
    local status=$? pid
    set +e
    if [ -e "$dir/storage.conf" ]; then
        podman pod rm -f -a -t 0 >/dev/null 2>&1
        podman rm -f -a -t 0 >/dev/null 2>&1
    fi
    for pid in "${daemons[@]}"; do
        kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null
    done
    timeout 20 "$narfs" umount "$nix" >/dev/null 2>&1 || umount -l "$nix" 2>/dev/null
    # at_nix: a daemon keeps running while its file system is mounted in its mount namespace.
    ! grep -q "^$dir/state /nix " /proc/self/mounts || umount -l /nix
    # Mounts left by an engine that was killed.
    grep -o " $dir/[^ ]*" /proc/self/mounts | sort -r | xargs -r -n 1 umount -l 2>/dev/null
    rm -rf --one-file-system "$dir"
    exit "$status"
}

# The full store path of a package in the cache.
path() {
    cat "$cache"/*.narinfo | sed -nE "s/^StorePath: (.*\/[a-z0-9]{32}-$1-[0-9].*)/\1/p" | sed -n 1p | grep . ||
        fail "no $1 in $cache"
}

mount_narfs() {
    "$narfs" mount "$nix" --from "file://$cache" --no-require-sigs 2>>"$dir/log" || fail "narfs mount"
}

begin() {
    dir=$(mktemp -d -t "narfs-${0##*/}-XXXXXX")
    nix=$dir/nix image=$dir/image
    trap finish EXIT
    export NARFS_STATE=$dir/state NARFS_CONFIG=/dev/null PATH=${narfs%/*}:$PATH
    mkdir -p "$nix" "$dir/shared" "$image"/{nix/store,proc,sys,dev,tmp,etc,run,var/tmp}
    printf 'root:x:0:0::/:/none\n' >"$image/etc/passwd"
    mount_narfs
    bash=$(path bash)
    curl=$(path curl)
    head -c 30000000 /dev/urandom >"$dir/thirty-megabytes"
    big=$("$narfs" add "$dir/thirty-megabytes")
    local start i
    start=$(date +%s%N)
    "$narfs" closure web "$bash" "$(path python3)" "$curl" "$big" >/dev/null
    echo "the view was created in $(( ($(date +%s%N) - start) / 1000000 )) ms: $("$narfs" closures web | sed -n 1p)"
    view=$nix/.narfs/closures/web/store
    # Debian's package python3 may be grouped with others, and its program is a link into the store.
    python=$(find "$view"/*python3*/bin -name python3 -print -quit 2>/dev/null) || true
    [ -n "$python" ] || fail "no python3 in the view"
    python=/nix/store/${python#"$view/"}
    # Paths in the store, known to the kernel, and not in the view.
    mkdir -p "$dir/secret/bin"
    ln -s bin/program "$dir/secret/link"
    for i in {1..20}; do
        echo "secret $i" >"$dir/secret/bin/program"
        "$narfs" add "$dir/secret" --name "secret-$i" >/dev/null
    done
}

# Mounts narfs at /nix, as on a real host; only in this namespace.
at_nix() { mkdir -p /nix && mount --rbind "$nix" /nix; }

# with_rights WHAT RUN...: like `enclosed`, for a container with CAP_DAC_READ_SEARCH. Before Linux
# 6.9 a file system cannot refuse all file handles.
with_rights() {
    if [ "$(printf '%s\n' 6.9 "$(uname -r)" | sort -V | sed -n 1p)" = 6.9 ]; then
        enclosed "$@"
    else
        echo "skipped: before Linux 6.9, CAP_DAC_READ_SEARCH can open what the kernel knows of the store; this is $(uname -r)"
    fi
}

# programs WHAT RUN...: runs three programs of the view, each in a container.
programs() {
    local what=$1 out; shift
    out=$("$@" "$bash/bin/bash" -c 'echo $((6*7)) $BASH_VERSION') || fail "$what: bash"
    [ "${out%% *}" = 42 ] || fail "$what: bash: $out"
    out=$("$@" "$python" -c '
import json, os, ssl, sys
store = os.listdir("/nix/store")
print(len(store), "paths, Python", sys.version.split()[0], end="")
assert any(p.endswith(sys.argv[1]) for p in store), store
try:
    open("/nix/store/x", "w")
    raise SystemExit("the view can be written to")
except OSError: pass' "${bash##*/}") || fail "$what: python3"
    [ "${out%% *}" = "$(find "$view" -mindepth 1 -maxdepth 1 | wc -l)" ] || fail "$what: $out"
    out=$out$("$@" "$curl/bin/curl" --version | sed -n '1s/^curl \([^ ]*\).*/, curl \1/p') || fail "$what: curl"
    case $out in *curl*) ok "$what: $out" ;; *) fail "$what: curl" ;; esac
}

# Number of READ requests since the daemon was started.
reads() { "$narfs" stats --json | sed -n '/"requests"/,/}/s/.*"read": \([0-9]*\).*/\1/p' | sed -n 1p; }

# unread WHAT COMMAND...: checks that a command causes no READ request after it has run before.
# Retried, since other users of this machine may drop the kernel's caches.
unread() {
    local what=$1 before more=1; shift
    for _ in 1 2 3 4 5; do
        before=$(reads)
        "$@" >/dev/null || fail "$what"
        more=$(($(reads) - before))
        [ "$more" != 0 ] || return 0
    done
    fail "$what: $more READ requests"
}

# one_page_cache WHAT RUN...: checks that a container causes no READ requests for what another one
# has read.
one_page_cache() {
    local what=$1 before first; shift
    local digest=("$@" "$python" -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$big")
    before=$(reads)
    [ "$("${digest[@]}")" = "$(sha256sum <"$dir/thirty-megabytes" | cut -d ' ' -f 1)" ] || fail "$what: the file of 30 MB"
    first=$(($(reads) - before))
    [ "$first" -gt 0 ] || fail "$what: the first container read the file of 30 MB by $first READ requests"
    unread "$what: the file of 30 MB once more" "${digest[@]}"
    unread "$what: python3 once more" "$@" "$python" -c 'import json, ssl'
    ok "$what: the first container read 30 MB by $first READ requests, the next one by 0; python3 by 0"
}

# enclosed WHAT RUN...: checks that nothing outside of the view is accessible. RUN has $dir/shared
# at /tmp.
enclosed() {
    local what=$1; shift
    [ -e "$dir/shared/known.json" ] || "$here/enclosed.py" known "$nix/store" "$view" >"$dir/shared/known.json"
    cp "$here/enclosed.py" "$dir/shared/"
    "$@" "$python" /tmp/enclosed.py try /tmp/known.json >"$dir/enclosed" 2>&1 ||
        { cat "$dir/enclosed" >&2; fail "$what: something outside of the view was reached"; }
    sed "s/^/ok: $(sed 's/[&/]/\\&/g' <<<"$what"): /" "$dir/enclosed"
}

# Sets up podman with all its data below $dir, and for use without systemd, so that scripts call it
# as usual. It has one image, localhost/empty, made from $image.
podman_here() {
    export CONTAINERS_CONF=$dir/containers.conf CONTAINERS_STORAGE_CONF=$dir/storage.conf
    cat >"$CONTAINERS_CONF" <<CONF
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "$dir/podman/tmp"
CONF
    cat >"$CONTAINERS_STORAGE_CONF" <<CONF
[storage]
driver = "vfs"
graphroot = "$dir/podman/root"
runroot = "$dir/podman/run"
CONF
    tar -C "$image" -c . | podman import --quiet - localhost/empty >/dev/null || fail "podman import"
}
podman() { timeout -k 5 60 podman "$@"; }
