#!/bin/bash
# install.sh install|uninstall: what `make install` and `make uninstall` do, below DESTDIR [none] and
# PREFIX [/usr/local].
#
# The files are first laid out in target/install, and that tree is what is installed. Their names, and the
# directories that were made for them, are kept in PREFIX/share/doc/narfs/installed-files: so `uninstall`
# needs no build, and removes exactly what was installed, by whichever version. Files that the version
# before has installed, and this one has not, are removed by `install`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
umask 022
die() { echo "$1: $2" >&2; exit 1; }

prefix=${PREFIX-/usr/local}
case $prefix in /*) ;; *) die install "PREFIX must be an absolute path, not '$prefix'" ;; esac
prefix=${prefix%/} root=${DESTDIR-}
root=${root%/}
docs=$prefix/share/doc/narfs
list=$docs/installed-files
tree=$PWD/target/install

# put MODE DIRECTORY FILE...
put() { install -D -m "$1" -t "$tree$2" "${@:3}"; }

# lay_out: makes the tree.
lay_out() {
    local narfs=target/release/narfs unit
    rm -rf "$tree"
    # Line tables, more than the program itself, are left behind (-s).
    install -D -s -m 755 "$narfs" "$tree$prefix/bin/narfs"
    install -D -s -m 755 target/release/mount-narfs "$tree/sbin/mount.narfs"
    ln -s mount.narfs "$tree/sbin/umount.fuse.narfs"
    ln -s mount.narfs "$tree/sbin/mount.fuse.narfs"
    put 644 "$prefix/lib/systemd/system" systemd/*.service systemd/*.timer systemd/*.socket
    for unit in "$tree$prefix"/lib/systemd/system/*; do
        sed -i "s|/usr/local/bin/|$prefix/bin/|; s|PREFIX/share/|$prefix/share/|" "$unit"
    done
    install -D -m 644 systemd/tmpfiles.conf "$tree$prefix/lib/tmpfiles.d/narfs.conf"
    install -D -m 644 systemd/sysusers.conf "$tree$prefix/lib/sysusers.d/narfs.conf"
    put 644 "$docs" README.md CHANGELOG.md LICENSE systemd/config.toml
    put 644 "$docs/docs" docs/*.md
    put 644 "$docs/examples" $(find systemd/examples -maxdepth 1 -type f)
    put 644 "$docs/examples/containers" systemd/examples/containers/*
    chmod 755 "$tree$docs/examples/containers/three.sh"
    rm -rf target/man
    "$narfs" manual target/man
    for section in 1 5 8; do put 644 "$prefix/share/man/man$section" target/man/*."$section"; done
    completion bash "$prefix/share/bash-completion/completions/narfs"
    completion zsh "$prefix/share/zsh/site-functions/_narfs"
    completion fish "$prefix/share/fish/vendor_completions.d/narfs.fish"
}

completion() { # SHELL FILE
    install -D -m 644 /dev/stdin "$tree$2" < <(target/release/narfs completions "$1")
}

# The list of what is installed; a name with a slash at its end is a directory that was made for it.
installed() { [ ! -e "$root$list" ] || cat "$root$list"; }

case ${1-} in
    install)
        lay_out
        files=$(cd "$tree" && find . ! -type d -printf '/%P\n' && echo "$list")
        gone=$(installed | grep -v '/$' | grep -Fxv -e "$files") || true
        made=$(installed | grep '/$') || true
        for directory in $(cd "$tree" && find . -mindepth 1 -type d -printf '/%P\n'); do
            [ -d "$root$directory" ] || made+=$'\n'$directory/
        done
        printf '%s\n' "$files" "$made" | grep . | LC_ALL=C sort -u >"$tree$list"
        mkdir -p "$root/"
        find "$tree" ! -type d -printf '%P\0' |
            tar -C "$tree" -c --null -T - --owner=0 --group=0 | tar -C "$root/" -x
        for file in $gone; do rm -f "$root$file"; done
        ;;
    uninstall)
        [ -e "$root$list" ] ||
            die uninstall "there is no $root$list: give the DESTDIR and PREFIX of the installation; what has no list gets one by \`make install\`"
        for name in $(LC_ALL=C sort -r "$root$list"); do
            case $name in
                */) [ ! -d "$root$name" ] || rmdir --ignore-fail-on-non-empty "$root$name" ;;
                *) rm -f "$root$name" ;;
            esac
        done
        ;;
    *) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
