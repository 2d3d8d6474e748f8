#!/bin/bash
# restarts.sh [--seconds N] [WAY]...
#
# What programs in /nix notice when its daemon is killed, restarted, replaced and stopped: for N
# seconds (60) in each WAY of running a daemon, or in the given ones:
#
#   fstab        /etc/fstab, mount.narfs and narfs-daemon.service
#   mount-unit   nix.automount, nix.mount and narfs-daemon.service
#   service      narfs.service
#   keeper       narfs mount, without systemd
#
# With OLD, a directory with the programs of another version, that takes the place of this one and back, too.
#
# systemd is a real one: that of a Debian (SUITE, trixie), booted in namespaces and a control group of its
# own, where `make install` has put what is in target/release. restarts.py does the work there, and says
# what it does. The Debian is made by debootstrap from the mirror that apt uses here (or MIRROR), and kept in
# target/services for the next time; figures go to target/services/restarts.json.
#
# Needs root, /dev/fuse, debootstrap, and what tests/world/make-world.sh needs.
set -euo pipefail
self=$(realpath "${BASH_SOURCE[0]}")
cd "$(dirname "$self")/../.."
export PATH=$PATH:/usr/sbin:/sbin

die() { echo "restarts: $*" >&2; exit 1; }
suite=${SUITE:-trixie}
. tests/services/system.sh

seconds=60
if [ "${1-}" = --seconds ]; then
    seconds=${2-}
    shift 2
fi
case $seconds/$* in *[!0-9]*/* | /* | */-*) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$self" >&2; exit 2 ;; esac

[ "$(id -u)" = 0 ] || die "must be run by root"
[ -c /dev/fuse ] || die "there is no /dev/fuse: modprobe fuse; in a container, pass --device /dev/fuse"
[ -x target/release/narfs ] && [ -x target/release/mount-narfs ] || die "target/release/narfs is missing: make build"
if [ -z "${IN_NAMESPACE-}" ]; then
    export IN_NAMESPACE=1
    exec unshare --mount --propagation private "$self" --seconds "$seconds" "$@"
fi

mkdir -p "$services"
exec 9>"$services/lock"
flock 9
make_debian "$suite"
tests/world/make-world.sh target/world/restarts hello bash coreutils python3

cleanup() {
    status=$?
    trap - EXIT
    set +e
    end_debian
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

prepare_debian
make --no-print-directory -s install DESTDIR="$upper" >/dev/null
# Debug information is many times the size of the program, which is copied often.
strip --strip-debug "$upper/usr/local/bin/narfs"
mkdir -p "$upper/usr/local/lib/narfs-tests" "$root.state"
cp tests/services/restarts.py "$upper/usr/local/lib/narfs-tests/"
if [ -n "${OLD-}" ]; then
    [ -x "$OLD/narfs" ] || die "there is no program $OLD/narfs"
    strip --strip-debug -o "$upper/usr/local/lib/narfs-tests/other-version" "$OLD/narfs"
fi

# The database should not be on overlayfs.
boot_debian "$suite" "$PWD/target/world/restarts:/world:ro" "$services:/results" "$root.state:/var/lib/narfs"
echo "$(inside systemctl --version | head -n 1), Linux $(uname -r), $(nproc) cores"
inside python3 /usr/local/lib/narfs-tests/restarts.py --seconds "$seconds" /world /results/restarts.json "$@"
