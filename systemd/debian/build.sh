#!/bin/bash
# build.sh [VERSION [DIRECTORY]]
#
# Makes a Debian package of what `make install PREFIX=/usr` installs: DIRECTORY/narfs_VERSION_ARCH.deb.
# VERSION is that of the program [narfs --version], DIRECTORY is target/deb. The package has in addition what Debian asks for: a
# copyright file and a changelog, compressed manual pages, and /etc/narfs/config.toml, which has every
# option as a comment. It depends on the libraries of the Debian that the program was built on, and so
# fits that one and newer ones.
#
# The same program and the same SOURCE_DATE_EPOCH [the time of the last commit] give the same bytes.
# Needs dpkg-deb; dpkg-shlibdeps (of dpkg-dev) where the program was built on something newer than
# Debian 12.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
umask 022

die() { echo "build.sh: $*" >&2; exit 1; }

usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' systemd/debian/build.sh >&2; exit 2; }
[ $# -le 2 ] && [[ ${1-} != -* ]] || usage
command -v dpkg-deb >/dev/null || die "dpkg-deb is missing: build the package on Debian"
[ -x target/release/narfs ] || die "target/release/narfs is missing: make build"
version=${1:-$(target/release/narfs --version | cut -d ' ' -f 2)}
arch=$(dpkg --print-architecture)
maintainer="${DEBFULLNAME:-The narfs authors} <${DEBEMAIL:-narfs@users.noreply.github.com}>"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root doc=$work/root/usr/share/doc/narfs
mkdir -p "$root/DEBIAN"
make --no-print-directory -s install PREFIX=/usr DESTDIR="$root"

# Since Debian 12 these are links into /usr, where packages must not have files.
for dir in sbin lib; do
    [ -d "$root/$dir" ] || continue
    mkdir -p "$root/usr/$dir"
    cp -a "$root/$dir/." "$root/usr/$dir/"
    rm -r "${root:?}/$dir"
done
find "$root/usr/share/man" -type f -exec gzip -9n {} +
install -D -m 644 systemd/config.toml "$root/etc/narfs/config.toml"
echo /etc/narfs/config.toml >"$root/DEBIAN/conffiles"

{
    echo "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"
    echo "Upstream-Name: narfs"
    echo "Source: https://github.com/narfs/narfs"
    echo "Comment: The program contains the Rust libraries that Cargo.lock of its source names, and with"
    echo " them RocksDB, zstd, xz, bzip2 and ring. Each may be used under one of these licences:"
    sed -n '/^allow = \[/,/^\]/s/^ *\(".*"\),$/ \1/p' deny.toml | tr -d '"'
    echo
    echo "Files: *"
    echo "Copyright: $(sed -n 's/^Copyright (c) //p' LICENSE)"
    echo "License: Expat"
    sed '1,/^Copyright/d; /./!s/$/./; s/^/ /' LICENSE | sed 1d
} >"$doc/copyright"
# The same text, and what `make uninstall` reads.
rm -f "$doc/LICENSE" "$doc/installed-files"
gzip -9n >"$doc/changelog.gz" <<CHANGELOG
narfs ($version) unstable; urgency=medium

  * The changes of each version are in CHANGELOG.md.

 -- $maintainer  $(date -uR -d "@$SOURCE_DATE_EPOCH")
CHANGELOG
install -D -m 644 systemd/debian/lintian-overrides "$root/usr/share/lintian/overrides/narfs"

# depends: the packages with the libraries that the programs are linked to.
depends() {
    if command -v dpkg-shlibdeps >/dev/null; then
        mkdir "$work/debian"
        printf 'Source: narfs\n\nPackage: narfs\nArchitecture: any\n' >"$work/debian/control"
        (cd "$work" && dpkg-shlibdeps -O -e"$root/usr/bin/narfs" -e"$root/usr/sbin/mount.narfs") |
            sed -n 's/^shlibs:Depends=//p'
        return
    fi
    # Those of Debian 12, if they are enough.
    local newest needed
    for newest in GLIBC_2.36 GLIBCXX_3.4.30; do
        needed=$(grep -aho "${newest%_*}_[0-9][0-9.]*" "$root/usr/bin/narfs" | sort -V | tail -n 1)
        [ "$(printf '%s\n' "$newest" "$needed" | sort -V | tail -n 1)" = "$newest" ] ||
            die "the program needs $needed, newer than Debian 12: apt-get install dpkg-dev finds its package"
    done
    echo "libc6 (>= 2.36), libgcc-s1 (>= 4.2), libstdc++6 (>= 12)"
}
depends=$(depends)
[ -n "$depends" ] || die "dpkg-shlibdeps does not say what the program depends on"
size=$(du -sk --apparent-size --exclude=DEBIAN "$root" | cut -f 1)
sed -e "s|@VERSION@|$version|; s|@ARCHITECTURE@|$arch|; s|@MAINTAINER@|$maintainer|" \
    -e "s|@SIZE@|$size|; s|@DEPENDS@|$depends|" systemd/debian/control >"$root/DEBIAN/control"
install -m 755 systemd/debian/postinst systemd/debian/prerm systemd/debian/postrm "$root/DEBIAN/"
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"

directory=${2:-target/deb}
mkdir -p "$directory"
package=$directory/narfs_${version}_$arch.deb
dpkg-deb --root-owner-group --build "$root" "$package" >/dev/null
echo "$package"
