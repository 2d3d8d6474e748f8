#!/bin/bash
# torture.sh [--seconds N] [--programs N] [--orphans N] [programs|load]...
#
# Runs both torture tests, or the given ones; `programs.py --help` and `load.py --help` describe
# them. Both end by themselves and clean up. The exit status is 1 if one of them found a fault.
# Measurements of the load go to target/torture.
#
# NARFS is the program [target/release/narfs]. The tests use /nix in their own mount namespace, drop
# the kernel's caches now and then, and disturb other measurements on the machine.
#
# Needs root, /dev/fuse, cc, python3, mke2fs, loop devices, and what tests/world/make-world.sh needs.
set -euo pipefail
self=$(realpath "${BASH_SOURCE[0]}")
here=$(dirname "$self")
cd "$here/../.."
export PATH=$PATH:/usr/sbin:/sbin

die() { echo "torture: $*" >&2; exit 1; }

narfs=$(realpath -m "${NARFS:-target/release/narfs}")
seconds=1800 programs=500 orphans=96 which=()
while [ $# -gt 0 ]; do
    case $1 in
        --seconds) seconds=$2; shift 2 ;;
        --programs) programs=$2; shift 2 ;;
        --orphans) orphans=$2; shift 2 ;;
        programs | load) which+=("$1"); shift ;;
        *) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$self" >&2; exit 2 ;;
    esac
done
[ ${#which[@]} -gt 0 ] || which=(programs load)
[ "$(id -u)" = 0 ] || die "must be run by root"
[ -x "$narfs" ] || die "there is no $narfs: make build"
[ -c /dev/fuse ] || modprobe fuse 2>/dev/null || die "there is no /dev/fuse: in a container, pass --device /dev/fuse"
for tool in cc python3 mke2fs unshare; do
    command -v $tool >/dev/null || die "$tool is missing: apt-get install gcc libc6-dev python3 e2fsprogs util-linux"
done
[ -c /dev/loop-control ] || modprobe loop 2>/dev/null || die "there are no loop devices"

mkdir -p target/torture
status=0
for what in "${which[@]}"; do
    case $what in
        programs) words=(--programs "$programs" --orphans "$orphans" "$narfs" "$PWD/target/torture/programs") ;;
        load)
            world=$PWD/target/world/torture
            tests/world/make-world.sh "$world" hello bash coreutils python3
            words=(--seconds "$seconds" --results "$PWD/target/torture/load" "$narfs" "$PWD/target/torture/state" "$world") ;;
    esac
    unshare --mount --propagation private python3 -B "$here/$what.py" "${words[@]}" || status=1
done
exit $status
