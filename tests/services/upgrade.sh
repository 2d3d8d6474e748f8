#!/bin/bash
# upgrade.sh [--seconds N] OLD [CASE]...
#
# What programs in /nix notice when one version of narfs replaces another, for N seconds (2) before
# and after each change. OLD is a directory with the programs `narfs` and `mount-narfs` of the
# previous version; NARFS is the directory of the new ones [target/release]. upgrade.py describes
# the cases.
#
# Needs root, /dev/fuse, python3, and what tests/world/make-world.sh needs.
set -euo pipefail
self=$(realpath "${BASH_SOURCE[0]}")
cd "$(dirname "$self")/../.."
export PATH=$PATH:/usr/sbin:/sbin

die() { echo "upgrade: $*" >&2; exit 1; }

options=()
while [[ ${1-} == --seconds ]]; do
    options+=("$1" "${2-}"); shift 2
done
[ $# -gt 0 ] && [[ $1 != -* ]] || { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$self" >&2; exit 2; }
old=$(realpath -m "$1") new=$(realpath -m "${NARFS:-target/release}"); shift
[ "$(id -u)" = 0 ] || die "must be run by root"
[ -c /dev/fuse ] || modprobe fuse 2>/dev/null || die "there is no /dev/fuse: in a container, pass --device /dev/fuse"
world=$PWD/target/world/torture
tests/world/make-world.sh "$world" hello bash coreutils python3
exec unshare --mount --propagation private \
    python3 -B tests/services/upgrade.py "${options[@]}" "$old" "$new" "$PWD/target/upgrade" "$world" "$@"
