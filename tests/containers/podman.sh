#!/bin/bash
# podman.sh CACHE: runs containers of real podman on closure views of a binary cache in a directory,
# which has bash, python3, curl and coreutils: by a bind, as a device, and after the view has changed.
# The image holds nothing but mount points. Needs root, podman and crun. Prints what it found, and
# fails at the first thing that is not as it should be.
set -euo pipefail
cache=$(realpath "$1")
narfs=$(realpath "${NARFS:-$(dirname "$0")/../../target/release/narfs}")

if [ -z "${IN_NAMESPACE:-}" ]; then
    # A mount namespace, where /sys/fs/cgroup is what crun wants.
    export IN_NAMESPACE=1
    exec unshare -m --propagation slave bash -c \
        'umount -R -l /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 none /sys/fs/cgroup; exec "$@"' bash "$0" "$@"
fi

dir=$(mktemp -d -t narfs-podman-XXXXXX)
export NARFS_STATE=$dir/state NARFS_CONFIG=/dev/null CONTAINERS_CONF=$dir/containers.conf
cleanup() {
    "$narfs" umount "$dir/nix" >/dev/null 2>&1 || umount -l "$dir/nix" 2>/dev/null || true
    umount -R -l /etc/cdi 2>/dev/null || true
    rm -rf --one-file-system "$dir"
}
trap cleanup EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }

# A CDI directory of this namespace only.
mkdir -p /etc/cdi "$dir/cdi" "$dir/nix"
mount --bind "$dir/cdi" /etc/cdi
printf '[containers]\ndefault_ulimits=["nofile=1024:1024","nproc=1024:1024"]\n' >"$CONTAINERS_CONF"
podman() {
    timeout 60 podman --root "$dir/root" --runroot "$dir/run" --tmpdir "$dir/tmp" --storage-driver vfs \
        --cgroup-manager cgroupfs --events-backend file "$@"
}
container() { podman run --rm --cgroups=disabled --network none "$@"; }

mount_narfs() { "$narfs" mount "$dir/nix" --from "file://$cache" --no-require-sigs 2>/dev/null; }
mount_narfs
path() { grep -lE "^StorePath: .*/[a-z0-9]{32}-$1-[0-9]" "$cache"/*.narinfo | head -n 1 |
    xargs sed -n 's/^StorePath: //p' | grep . || fail "no $1 in $cache"; }
bash=$(path bash) curl=$(path curl) coreutils=$(path coreutils)
# Nothing but mount points.
image=$dir/image
mkdir -p "$image"/{nix/store,proc,sys,dev,tmp,etc,run,var/tmp}
printf 'root:x:0:0::/:/none\n' >"$image/etc/passwd"
podman import --quiet - localhost/empty >/dev/null < <(tar -C "$image" -c .)

start=$(date +%s%N)
"$narfs" closure web "$bash" "$(path python3)" "$curl" >/dev/null
echo "the view was made in $(( ($(date +%s%N) - start) / 1000000 )) ms: $("$narfs" closures web | head -n 1)"
view=$dir/nix/.narfs/closures/web/store
# Debian has the interpreter in a package of its own, or Nix that package in a group with others.
for python in "$view"/*python3*/bin/python3 "$view"/*python3*/bin/python3.[0-9] "$view"/*python3*/bin/python3.[0-9][0-9]; do
    [ ! -f "$python" ] || break
done
python=/nix/store/${python#"$view/"}

run() { # WHAT OPTION...: three programs of the view in a container
    local what=$1; shift
    [ "$(container "$@" "$bash/bin/bash" -c 'echo $((6*7)) $BASH_VERSION' | cut -d ' ' -f 1)" = 42 ] || fail "$what: bash"
    container "$@" "$python" -c '
import json, os, ssl, sys
store = os.listdir("/nix/store")
print(len(store), "paths,", sys.version.split()[0])
assert any(p.endswith(sys.argv[1]) for p in store), store
assert not os.path.exists(sys.argv[2]), "a path that is not in the view"
try:
    open("/nix/store/x", "w")
    raise SystemExit("the view can be written to")
except OSError: pass' "${bash##*/}" "$coreutils" >"$dir/out" || fail "$what: python3"
    [ "$(cut -d ' ' -f 1 "$dir/out")" = "$(ls "$view" | wc -l)" ] || fail "$what: $(cat "$dir/out")"
    container "$@" "$curl/bin/curl" --version | head -n 1 | cut -d ' ' -f 1-2
    echo "ok: $what: $(cat "$dir/out")"
}
# coreutils must not be in the view for the test of what is absent.
! [ -e "$view/${coreutils##*/}" ] || coreutils=/nix/store/00000000000000000000000000000000-x
run "a bind of the view" -v "$view:/nix/store:ro" localhost/empty
"$narfs" cdi web
run "a device" --device narfs.dev/store=web localhost/empty
run "a root without an image" -v "$view:/nix/store:ro" --rootfs "$image"
[ "$(container -v "$dir/nix:/nix:ro,rslave" localhost/empty "$bash/bin/bash" -c 'echo whole')" = whole ] || fail "the whole mount"
echo "ok: the whole mount at /nix"

# The page cache is one: what one container has read, the next one does not ask for.
reads() { "$narfs" stats --json | sed -n '/"requests"/,/}/s/.*"read": \([0-9]*\).*/\1/p' | head -n 1; }
# Others on this machine may have the kernel drop its caches: so it is tried again.
more=1
for _ in 1 2 3 4 5; do
    before=$(reads)
    container -v "$view:/nix/store:ro" localhost/empty "$python" -c 'import json, ssl' || fail "python3 once more"
    more=$(( $(reads) - before ))
    [ "$more" != 0 ] || break
done
[ "$more" = 0 ] || fail "one more container asked for $more parts of files"
echo "ok: one more container with python3 reads all from the page cache"

# A container that runs sees the view change, and goes on with what it has open.
name=narfs-podman-$$
podman run --rm -d --name "$name" --cgroups=disabled --network none -v "$view:/nix/store:ro" localhost/empty \
    "$bash/bin/bash" -c 'while read -r line; do :; done < <(:); while :; do read -t 1 <> <(:) || true; done' >/dev/null
inside() { podman exec "$name" "$@"; }
inside "$curl/bin/curl" --version >/dev/null || fail "curl in a running container"
"$narfs" closure web "$bash" >/dev/null
! inside "$curl/bin/curl" --version >/dev/null 2>&1 || fail "curl is there after the view was replaced"
inside "$bash/bin/bash" -c 'echo ok: a running container sees the view that replaced the first'
daemon=$("$narfs" status --json | sed -n 's/^ *"pid": \([0-9]*\).*/\1/p')
kill -9 "$daemon"
inside "$bash/bin/bash" -c 'echo ok: and goes on when the daemon is killed'
"$narfs" closure --delete web
! inside "$bash/bin/bash" -c 'exit 0' >/dev/null 2>&1 || fail "a deleted view is there"
echo "ok: a deleted view is gone for it"
podman rm -f -t 0 "$name" >/dev/null 2>&1 || true
echo "all well with $(command podman --version)"
