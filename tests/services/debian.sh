#!/bin/bash
# debian.sh [SUITE]...
#
# The life of the Debian package on each SUITE (bookworm and trixie), under its own systemd: it is installed,
# serves /nix from a binary cache, is replaced by a newer package while programs in /nix run, and is
# removed and purged. debian-steps.sh does the work there, and says what it checks.
#
# The package is made of what is in target/release. The Debians are made by debootstrap (system.sh) and
# kept in target/services.
#
# Needs root, /dev/fuse, debootstrap, dpkg-deb, and what tests/world/make-world.sh needs.
set -euo pipefail
self=$(realpath "${BASH_SOURCE[0]}")
cd "$(dirname "$self")/../.."
export PATH=$PATH:/usr/sbin:/sbin

die() { echo "debian: $*" >&2; exit 1; }
. tests/services/system.sh

case "$*" in *[!a-z\ ]*) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$self" >&2; exit 2 ;; esac
[ "$(id -u)" = 0 ] || die "must be run by root"
[ -c /dev/fuse ] || die "there is no /dev/fuse: modprobe fuse; in a container, pass --device /dev/fuse"
[ -x target/release/narfs ] && [ -x target/release/mount-narfs ] || die "target/release/narfs is missing: make build"
if [ -z "${IN_NAMESPACE-}" ]; then
    export IN_NAMESPACE=1
    exec unshare --mount --propagation private "$self" "$@"
fi

mkdir -p "$services"
exec 9>"$services/lock"
flock 9
trap 'status=$?; trap - EXIT; set +e; end_debian; exit "$status"' EXIT
trap 'exit 130' INT TERM

tests/world/make-world.sh target/world/debian hello bash coreutils
# Two packages of the same files; the second has a higher version, and was made a second time.
version=$(target/release/narfs --version | cut -d ' ' -f 2)
export SOURCE_DATE_EPOCH=1700000000 DPKG_DEB_COMPRESSOR_TYPE=none
packages=$services/packages
rm -rf "$packages"
old=$(systemd/debian/build.sh "$version" "$packages")
new=$(systemd/debian/build.sh "$version+1" "$packages")
sum=$(sha256sum "$new")
systemd/debian/build.sh "$version+1" "$packages" >/dev/null
sha256sum --quiet -c - <<<"$sum" || die "the package differs from one build to the next"

for suite in ${*:-bookworm trixie}; do
    make_debian "$suite"
    prepare_debian
    boot_debian "$suite" "$PWD/target/world/debian:/world:ro" "$packages:/packages:ro" \
        "$PWD/tests/services:/steps:ro"
    echo "$suite: $(inside systemctl --version | head -n 1), $(inside dpkg --version | head -n 1)"
    inside bash /steps/debian-steps.sh "/packages/${old##*/}" "/packages/${new##*/}" || {
        inside journalctl --no-pager --output cat --lines 50 >&2
        die "failed on $suite"
    }
    end_debian
done
rm -r "$packages"
