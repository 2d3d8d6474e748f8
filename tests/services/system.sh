#!/bin/bash
# system.sh, sourced: a Debian whose systemd is process 1, in namespaces and a control group of its own.
#
#   make_debian SUITE       makes the Debian by debootstrap from the mirror that apt uses here (or
#                           MIRROR), once: target/services/SUITE
#   boot_debian SUITE [BIND]...
#                           boots a new copy of it; each BIND, FROM:TO[:ro], is bound into it
#   inside COMMAND...       runs a command in it
#   end_debian              ends it, and removes the copy
#
# Before the boot, files can be added in $upper, which lies over the Debian. The caller defines `die`, and
# runs in a mount namespace of its own. systemd is process 1 of its pid namespace, so all its processes
# end with it.

services=$PWD/target/services
root=$services/root upper=$services/root.upper
cgroups=$services/cgroups group=$services/cgroups/narfs-services-$$
init='' booted=''

make_debian() {
    local suite=$1 mirror base=$services/$1
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

# boot_here BASE [BIND]...: prepares the root in the mount namespace of this process, and executes its systemd.
boot_here() {
    local bind from to mode
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$upper,workdir=$root.work" "$root"
    shift
    for bind in "$@"; do
        IFS=: read -r from to mode <<<"$bind"
        mkdir -p "$root$to"
        mount --bind ${mode:+-o "$mode"} "$from" "$root$to"
    done
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
    export container=narfs-tests
    exec /lib/systemd/systemd --system --unit=multi-user.target --show-status=no </dev/null
}

# prepare_debian: an empty $upper.
prepare_debian() {
    rm -rf --one-file-system "$root" "$root".*
    mkdir -p "$root" "$upper" "$root.work" "$cgroups"
}

boot_debian() {
    local suite=$1 running=''
    shift
    # A separate control group: otherwise it would interfere with this machine's systemd.
    mountpoint -q "$cgroups" || mount -t cgroup2 cgroup2 "$cgroups"
    mkdir "$group"
    sh -c 'echo $$ >"$1/cgroup.procs"; shift; exec setpriv --pdeathsig KILL \
        unshare --mount --propagation private --pid --fork --uts --ipc --cgroup --kill-child "$@"' sh "$group" \
        "${BASH_SOURCE[0]}" --boot "$services/$suite" "$@" >"$services/boot.log" 2>&1 &
    booted=$!
    for _ in $(seq 300); do
        sleep 0.1
        init=$(cat "/proc/$booted/task/$booted/children" 2>/dev/null) || die "systemd did not start; see $services/boot.log"
        init=${init%% *}
        # Until then the process is still that script, in the namespaces of this machine.
        [ "$(cat "/proc/$init/comm" 2>/dev/null)" = systemd ] || continue
        running=$(inside systemctl is-system-running 2>/dev/null) || true
        case $running in running | degraded) break ;; esac
    done
    case $running in running | degraded) ;; *) die "systemd is ${running:-not there} after 30 s; see $services/boot.log" ;; esac
}

inside() { nsenter --target "$init" --mount --pid --uts --ipc --cgroup --root --wd "$@"; }

end_debian() {
    if [ -n "$init" ]; then kill -KILL "$init"; wait "$booted" 2>/dev/null || true; fi
    init=
    for _ in $(seq 50); do
        ! [ -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || { sleep 0.1; continue; }
        break
    done
    ! mountpoint -q "$cgroups" || umount "$cgroups"
    rm -rf --one-file-system "$root" "$root".*
}

# boot_debian runs this file, too.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    [ "${1-}" = --boot ] || { echo "system.sh is for other scripts, which source it" >&2; exit 2; }
    set -euo pipefail
    boot_here "${@:2}"
fi
