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
dir=$PWD/target/services suite=${SUITE:-trixie}
base=$dir/$suite root=$dir/root cgroups=$dir/cgroups
group=$cgroups/narfs-restarts-$$

# make_base: creates the Debian, once.
make_base() {
    [ ! -e "$base.made" ] || return 0
    command -v debootstrap >/dev/null || die "debootstrap is missing: apt-get install debootstrap"
    mirror=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' 'Origin: Debian' | head -n 1)}
    [ -n "$mirror" ] || die "apt has no mirror of Debian: set MIRROR"
    echo "making a Debian $suite from $mirror" >&2
    rm -rf --one-file-system "$base"
    unshare --mount --propagation private debootstrap --variant=minbase --include=systemd,python3 \
        "$suite" "$base" "$mirror" >"$base.log" 2>&1 || { tail -n 5 "$base.log" >&2; die "no Debian $suite"; }
    rm -rf "$base"/var/cache/apt/archives/*.deb
    touch "$base.made"
}

# boot: prepares the root in the mount namespace of this process, and executes its systemd.
boot() {
    mount -t overlay overlay -o "lowerdir=$base,upperdir=$root.upper,workdir=$root.work" "$root"
    mkdir "$root/world" "$root/results"
    mount --bind -o ro "$dir/../world/restarts" "$root/world"
    mount --bind "$dir" "$root/results"
    # The database should not be on overlayfs.
    mkdir "$root.state" "$root/var/lib/narfs"
    mount --bind "$root.state" "$root/var/lib/narfs"
    mount -t proc proc "$root/proc"
    # Disables units that would change this machine.
    mount --bind "$root/proc/sys/vm" "$root/mnt"
    mount --bind -o ro "$root/proc/sys" "$root/proc/sys"
    mount --move "$root/mnt" "$root/proc/sys/vm"
    mount -t sysfs sysfs "$root/sys"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mount -t tmpfs -o mode=755 tmpfs "$root/dev"
    for node in null zero full random urandom tty fuse autofs; do
        [ -e "/dev/$node" ] || continue
        touch "$root/dev/$node"
        mount --bind "/dev/$node" "$root/dev/$node"
    done
    ln -s /proc/self/fd "$root/dev/fd"
    mkdir "$root/dev/shm"
    mount -t tmpfs tmpfs "$root/dev/shm"
    cd "$root"
    pivot_root . mnt
    umount -l /mnt
    mount --make-rshared /
    export container=narfs-restarts
    exec /lib/systemd/systemd --system --unit=multi-user.target --show-status=no </dev/null
}

if [ "${1-}" = --boot ]; then
    boot
fi

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

mkdir -p "$dir"
exec 9>"$dir/lock"
flock 9
make_base
tests/world/make-world.sh target/world/restarts hello bash coreutils python3

init=
cleanup() {
    status=$?
    trap - EXIT
    set +e
    # systemd is process 1 of its pid namespace, so all its processes end with it.
    if [ -n "$init" ]; then kill -KILL "$init"; wait "$booted" 2>/dev/null; fi
    for _ in $(seq 50); do
        ! [ -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || { sleep 0.1; continue; }
        break
    done
    ! mountpoint -q "$cgroups" || umount "$cgroups"
    rm -rf --one-file-system "$root" "$root".*
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

rm -rf --one-file-system "$root" "$root".*
mkdir -p "$root" "$root.upper" "$root.work" "$cgroups"
make --no-print-directory -s install DESTDIR="$root.upper" >/dev/null
# Debug information is many times the size of the program, which is copied often.
strip --strip-debug "$root.upper/usr/local/bin/narfs"
mkdir -p "$root.upper/usr/local/lib/narfs-tests"
cp tests/services/restarts.py "$root.upper/usr/local/lib/narfs-tests/"
if [ -n "${OLD-}" ]; then
    [ -x "$OLD/narfs" ] || die "there is no program $OLD/narfs"
    strip --strip-debug -o "$root.upper/usr/local/lib/narfs-tests/other-version" "$OLD/narfs"
fi

# A separate control group: otherwise it would interfere with this machine's systemd.
mount -t cgroup2 cgroup2 "$cgroups"
mkdir "$group"
sh -c 'echo $$ >"$1/cgroup.procs"; shift; exec setpriv --pdeathsig KILL \
    unshare --mount --propagation private --pid --fork --uts --ipc --cgroup --kill-child "$@"' sh "$group" "$self" --boot >"$dir/boot.log" 2>&1 &
booted=$!
inside() { nsenter --target "$init" --mount --pid --uts --ipc --cgroup --root --wd "$@"; }
for _ in $(seq 300); do
    sleep 0.1
    init=$(cat "/proc/$booted/task/$booted/children" 2>/dev/null) || die "systemd did not start; see $dir/boot.log"
    init=${init%% *}
    # Until then the process is still this script, in the namespaces of this machine.
    [ "$(cat "/proc/$init/comm" 2>/dev/null)" = systemd ] || continue
    running=$(inside systemctl is-system-running 2>/dev/null) || true
    case $running in running | degraded) break ;; esac
done
case ${running-} in running | degraded) ;; *) die "systemd is ${running:-not there} after 30 s; see $dir/boot.log" ;; esac
echo "$(inside systemctl --version | head -n 1), Linux $(uname -r), $(nproc) cores"
inside python3 /usr/local/lib/narfs-tests/restarts.py --seconds "$seconds" /world /results/restarts.json "$@"
