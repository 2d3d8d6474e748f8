#!/bin/bash
# volumes.sh CACHE: creates volumes from closure views with real podman, on a binary cache in a
# directory that has bash, curl and coreutils, and runs containers with them, through the volume
# plugin of the daemon. The image contains only mount points. Needs root, podman and crun. Prints
# the results, and stops at the first failure.
set -euo pipefail
cache=$(realpath "$1")
narfs=$(realpath "${NARFS:-$(dirname "$0")/../../target/release/narfs}")

if [ -z "${IN_NAMESPACE:-}" ]; then
    # A mount namespace with /sys/fs/cgroup as crun needs it.
    export IN_NAMESPACE=1
    exec unshare -m --propagation slave bash -c \
        'umount -R -l /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 none /sys/fs/cgroup; exec "$@"' bash "$0" "$@"
fi

dir=$(mktemp -d -t narfs-volumes-XXXXXX)
export NARFS_STATE=$dir/state NARFS_CONFIG=/dev/null CONTAINERS_CONF=$dir/containers.conf
socket=$dir/plugins/narfs.sock
cleanup() {
    podman rm -f -t 0 "narfs-volumes-$$" >/dev/null 2>&1 || true
    "$narfs" umount "$dir/nix" >/dev/null 2>&1 || umount -l "$dir/nix" 2>/dev/null || true
    rm -rf --one-file-system "$dir"
}
trap cleanup EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }

mkdir -p "$dir/nix"
cat >"$CONTAINERS_CONF" <<CONF
[containers]
default_ulimits=["nofile=1024:1024","nproc=1024:1024"]
[engine]
volume_plugin_timeout = 30
[engine.volume_plugins]
narfs = "$socket"
CONF
podman() {
    timeout 60 podman --root "$dir/root" --runroot "$dir/run" --tmpdir "$dir/tmp" --storage-driver vfs \
        --cgroup-manager cgroupfs --events-backend file "$@"
}
container() { podman run --rm --cgroups=disabled --network none "$@"; }
mount_narfs() {
    "$narfs" mount "$dir/nix" --from "file://$cache" --no-require-sigs --volume-plugin "$socket" 2>/dev/null
}
refused() { # WHAT TEXT COMMAND...: checks that podman fails with this error
    local what=$1 text=$2 said; shift 2
    if said=$(podman "$@" 2>&1); then fail "$what: podman $* succeeds"; fi
    [[ $said == *"$text"* ]] || fail "$what: $said"
    echo "ok: $what: ${said##*: }"
}
path() { grep -lE "^StorePath: .*/[a-z0-9]{32}-$1-[0-9]" "$cache"/*.narinfo | head -n 1 |
    xargs sed -n 's/^StorePath: //p' | grep . || fail "no $1 in $cache"; }

mount_narfs
bash=$(path bash) curl=$(path curl) coreutils=$(path coreutils)
image=$dir/image
mkdir -p "$image"/{nix/store,proc,sys,dev,tmp,etc,run,var/tmp}
printf 'root:x:0:0::/:/none\n' >"$image/etc/passwd"
podman import --quiet - localhost/empty >/dev/null < <(tar -C "$image" -c .)

start=$(date +%s%N)
podman volume create --driver narfs -o "closure=$bash:$curl" web >/dev/null
echo "ok: a volume was created in $(( ($(date +%s%N) - start) / 1000000 )) ms: $("$narfs" closures web | head -n 1)"
view=$dir/nix/.narfs/closures/web/store
inspected=$(podman volume inspect web)
for text in '"Driver": "narfs"' "$bash" '"removable": true' "\"paths\": $(ls "$view" | wc -l)"; do
    [[ $inspected == *"$text"* ]] || fail "inspect does not show $text: $inspected"
done
[ "$(podman volume ls --format '{{.Driver}} {{.Name}}')" = 'narfs web' ] || fail "$(podman volume ls)"
echo "ok: podman lists and inspects it"

run() { # WHAT VOLUME: programs of the volume in a container
    local out
    out=$(container -v "$2:/nix/store:ro" localhost/empty "$bash/bin/bash" -c '
        paths=(/nix/store/*); echo ${#paths[@]}
        for p in "$@"; do [ -e "$p" ] && echo "there is $p"; done
        { : >/nix/store/x; } 2>/dev/null && echo "it can be written to"; true' bash "$coreutils") || fail "$1: bash"
    [ "$out" = "$(ls "$dir/nix/.narfs/closures/$2/store" | wc -l)" ] || fail "$1: $out"
    container -v "$2:/nix/store:ro" localhost/empty "$curl/bin/curl" --version >/dev/null || fail "$1: curl"
    echo "ok: $1: $out paths"
}
# coreutils must not be in the view for the test of absent paths.
! [ -e "$view/${coreutils##*/}" ] || coreutils=/nix/store/00000000000000000000000000000000-x
run "programs run on the volume" web
container -v web:/nix/store localhost/empty "$bash/bin/bash" -c '! { : >/nix/store/x; } 2>/dev/null' ||
    fail "a volume that is not :ro can be written to"
echo "ok: it is read-only also without :ro"

daemon() { "$narfs" status --json | sed -n 's/^ *"pid": \([0-9]*\).*/\1/p'; }
kill -9 "$(daemon)"
run "and after the daemon was killed" web
keeper=$(sed -n 's/^PPid:\t//p' "/proc/$(daemon)/status")
kill -STOP "$keeper"; kill -9 "$(daemon)"
( sleep 1; kill -CONT "$keeper" ) &
run "podman waits while no daemon is there" web
wait

# A volume follows a profile, also in a running container.
"$narfs" profile -p app install "$bash" "$curl" >/dev/null 2>&1
podman volume create --driver narfs -o profile=app app >/dev/null
name=narfs-volumes-$$
podman run --rm -d --name "$name" --cgroups=disabled --network none -v app:/nix/store:ro localhost/empty \
    "$bash/bin/bash" -c 'while :; do read -t 1 <> <(:) || true; done' >/dev/null
podman exec "$name" "$curl/bin/curl" --version >/dev/null || fail "curl of the profile"
"$narfs" profile -p app remove curl >/dev/null 2>&1
! podman exec "$name" "$curl/bin/curl" --version >/dev/null 2>&1 || fail "curl is accessible after it was removed"
podman exec "$name" "$bash/bin/bash" -c 'echo "ok: a running container sees the generation that its volume follows"'
refused "a volume in use is not removed" 'being used' volume rm app
podman rm -f -t 0 "$name" >/dev/null

# A view of narfs closure stays when its volume is removed; a view made by podman is deleted.
"$narfs" closure theirs "$bash" "$curl" >/dev/null
podman volume create --driver narfs theirs >/dev/null
run "a view of narfs closure as a volume" theirs
podman volume rm web app theirs >/dev/null
[ "$("$narfs" closures | sed -n 's/ .*//p' | tr -d '\n')" = theirs ] || fail "left: $("$narfs" closures)"
[ -z "$(podman volume ls --quiet)" ] || fail "podman has volumes: $(podman volume ls)"
echo "ok: only the views created by podman are removed"

refused "no options" 'define its contents with -o closure=' volume create --driver narfs new
refused "an unknown option" 'a volume has no option "device"' volume create --driver narfs -o device=/x new
refused "no such path" 00000000000000000000000000000000 \
    volume create --driver narfs -o closure=/nix/store/00000000000000000000000000000000-x new
refused "no such profile" "there is no profile 'none'" volume create --driver narfs -o profile=none new
podman volume create --driver narfs theirs >/dev/null
"$narfs" closure --delete theirs
refused "a view that was deleted" 'no closure view "theirs"' run --rm --cgroups=disabled --network none \
    -v theirs:/nix/store:ro localhost/empty "$bash/bin/bash"
[ -z "$("$narfs" closures)" ] || fail "left: $("$narfs" closures)"
"$narfs" umount "$dir/nix"
[ ! -e "$socket" ] || fail "the socket still exists"
refused "no daemon" "$socket" volume create --driver narfs -o "closure=$bash" new
echo "ok with $(command podman --version)"
