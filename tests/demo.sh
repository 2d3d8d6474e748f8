#!/bin/bash
# The whole walk on one page, without the network: a signed binary cache, copied, mounted, used;
# then the same world after a mass rebuild. `make demo` runs it; all that it makes is below
# target/demo, and nothing stays mounted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

demo=$PWD/target/demo
nix=$demo/nix
export NARFS_STATE=$demo/state NARFS_CONFIG=/dev/null PATH=$PWD/target/release:$PATH

die() { echo "demo: $*" >&2; exit 1; }
say() { printf '\n'; printf '# %s\n' "$@"; }
show() { printf '$ %s\n' "$*"; "$@"; }

[ "$(id -u)" = 0 ] || die "must be run by root, who may mount"
[ -x target/release/narfs ] || die "target/release/narfs is missing: make build"
[ -c /dev/fuse ] || modprobe fuse 2>/dev/null || die "there is no /dev/fuse: in a container, pass --device /dev/fuse"

cleanup() {
    status=$?
    if mountpoint -q "$nix"; then narfs umount "$nix" || umount -l "$nix"; fi
    exit "$status"
}
trap cleanup EXIT

say "A small Nix store and a signed binary cache of it, made of packages of this machine."
world=tests/world/make-world.sh
show $world target/demo/world hello bash coreutils
key=$(cat "$demo/world/key.pub")
hello=$(grep -E -- '-hello-[0-9]' "$demo/world/roots")

umount -l "$nix" 2>/dev/null || true # what a demo that was killed left behind
rm -rf "$NARFS_STATE"
mkdir -p "$nix"

say "Mounted from an empty state: nothing is here, and what is looked up is fetched and verified."
show narfs mount "$nix" --from "file://$demo/world/cache" --trusted-public-key "$key"
show ls -l "$nix/store"

say "Looking at a path asks for what it is; looking inside brings it."
show ls -ld "$nix/store/${hello##*/}"
show ls -l "$nix/store/${hello##*/}/bin"

say "A program from the mount, which is /nix in a mount namespace of its own: its interpreter" \
    "and libraries are the store's."
mkdir -p /nix
in_nix() { unshare --mount --propagation private sh -euc 'mount --bind "$0" /nix; exec "$@"' "$nix" "$@"; }
printf '$ %s\n' "$hello/bin/hello"
in_nix "$hello/bin/hello"

say "Just that came, and what it needs to run."
show narfs status
show ls "$nix/store"

say "A whole closure ahead, kept from now on; and what may go, goes and comes back."
show narfs pin "$hello"
show narfs pins
show narfs prefetch --no-recursive $(grep -E -- '-coreutils-[0-9]' "$demo/world/roots")
show narfs evict --to 5M
show sha256sum "$nix/store/$(basename "$(grep -E -- "-coreutils-[0-9]" "$demo/world/roots")")/bin/ls"

say "All of it at once, deduplicated."
show narfs copy --from "file://$demo/world/cache" --trusted-public-key "$key" --all
show narfs stats

say "Now a mass rebuild: libc6 gets another hash, and so does every path that needs it. The" \
    "binary cache is new from end to end; the state, mounted all the while, hardly grows."
show $world --salt rebuild --key target/demo/world/key.sec target/demo/rebuild hello bash coreutils
show narfs copy --from "file://$demo/rebuild/cache" --trusted-public-key "$key" --all
show narfs stats
rebuilt=$(grep -E -- '-hello-[0-9]' "$demo/rebuild/roots")
printf '$ %s\n' "$rebuilt/bin/hello"
in_nix "$rebuilt/bin/hello"

show narfs umount "$nix"

say "The same with the public binary cache, whose key narfs knows:"
echo "  narfs mount /nix --from https://cache.nixos.org   # what is looked up is fetched, or at once:"
echo "  narfs copy --from https://cache.nixos.org /nix/store/HASH-hello-VERSION"
