#!/bin/bash
# make-world.sh [OPTION]... OUT PACKAGE...
#
# Makes a Nix store and a signed binary cache out of Debian packages that are installed on
# this machine, with real Nix, no network and no nixpkgs: each package is a derivation
# whose builder copies the files and points them at the store paths of what they need.
# Its references, closures and signatures are genuine, and its programs run.
#
#   OUT/root          the store: a Nix root that --store and NIX_REMOTE take
#   OUT/cache         a signed binary cache of it, with listings
#   OUT/key.sec .pub  the signing key (made when missing)
#   OUT/roots         the outputs of the named packages, one a line
#   OUT/paths         these and all they need: all that the binary cache holds
#
#   --salt SALT            the same world after a mass rebuild: the hash of libc6 is another,
#                          and so are those of all that need it; nothing else differs
#   --compression METHOD   of the binary cache: zstd (default), xz, none, …
#   --key NAME.sec         sign with this key (and NAME.pub) instead of OUT/key.sec
#
# What is there already, made of the same packages in the same way, is not made again.
#
# Needs root, nix-bin, patchelf and util-linux. The store is built at /nix/store in a mount
# namespace of its own: a /nix that is there is neither seen nor touched.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C

usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }
die() { echo "make-world: $*" >&2; exit 1; }

salt='' compression=zstd key='' names=()
while [ $# -gt 0 ]; do
    case $1 in
        --salt | --compression | --key) [ $# -gt 1 ] || { usage >&2; exit 2; } ;;&
        --salt) salt=$2; shift 2 ;;
        --compression) compression=$2; shift 2 ;;
        --key) key=$(realpath "$2"); shift 2 ;;
        -h | --help) usage; exit 0 ;;
        -*) usage >&2; exit 2 ;;
        *) names+=("$1"); shift ;;
    esac
done
[ ${#names[@]} -ge 2 ] || { usage >&2; exit 2; }
[ "$(id -u)" = 0 ] || die "must be run by root, who may mount"
for tool in nix-build nix-store patchelf unshare dpkg-query; do
    command -v $tool >/dev/null || die "$tool is missing: apt-get install nix-bin patchelf util-linux"
done

unshare --mount true 2>/dev/null || die "this needs the right to mount: in a container, CAP_SYS_ADMIN"

mkdir -p "${names[0]}" /nix
out=$(realpath "${names[0]}") packages=("${names[@]:1}")
case $out/ in /nix/*) die "$out lies in /nix, which this script covers" ;; esac
exec 9>"$out/lock"
flock 9

arch=$(dpkg --print-architecture)
dpkg-query -W -f '${db:Status-Status}\t${Architecture}\t${Package}\t${Version}\t${Pre-Depends}, ${Depends}\t${Provides}\n' |
    grep -P "^installed\t($arch|all)\t" | cut -f 3- >"$out/installed"
made=$({ echo "$salt,$compression,$key,${packages[*]}"; cat "$out/installed" "$here"/*; } | sha256sum)
if [ "$made" = "$(cat "$out/made" 2>/dev/null)" ]; then exit 0; fi
rm -rf "$out/made" "$out/cache"
mkdir -p "$out/root/nix/store" "$out/nix-conf" "$out/tmp"

# Nix works in OUT alone, whatever this machine's own configuration says.
unset NIX_PATH NIX_REMOTE NIX_USER_CONF_FILES
export NIX_CONF_DIR=$out/nix-conf HOME=$out/tmp XDG_CACHE_HOME=$out/tmp XDG_CONFIG_HOME=$out/tmp TMPDIR=$out/tmp
export NIX_STATE_DIR=/nix/var/nix NIX_LOG_DIR=/nix/var/log/nix NIX_STORE_DIR=/nix/store NIX_REMOTE=local
cat >"$out/nix-conf/nix.conf" <<CONF
build-users-group =
sandbox = false
substituters =
max-jobs = auto
cores = 1
keep-build-log = false
fsync-metadata = false
auto-optimise-store = false
experimental-features = nix-command
CONF

key=${key:-$out/key.sec}
case $key in *.sec) ;; *) die "a key is a pair of files, NAME.sec and NAME.pub" ;; esac

export out here salt compression key
unshare --mount --propagation private bash -euc '
    mount --bind "$out/root/nix" /nix
    [ -s "$key" ] || nix-store --generate-binary-cache-key world-1 "$key" "${key%.sec}.pub"
    nix-build "$here/world.nix" --no-out-link --argstr installed "$out/installed" --argstr salt "$salt" \
        --argstr packages "$*" >"$out/roots.new" 2>"$out/build.log" || { tail -n 20 "$out/build.log" >&2; exit 1; }
    nix-store -qR $(cat "$out/roots.new") | sort -u >"$out/paths.new"
    nix copy --to "file://$out/cache?compression=$compression&write-nar-listing=true&secret-key=$key" \
        $(cat "$out/roots.new") 2>>"$out/build.log" || { tail -n 20 "$out/build.log" >&2; exit 1; }
' make-world "${packages[@]}"

[ "$key" -ef "$out/key.sec" ] || cp "${key%.sec}.pub" "$out/key.pub"
mv "$out/roots.new" "$out/roots"
mv "$out/paths.new" "$out/paths"
rm -rf "$out/tmp" "$out/nix-conf"
echo "$made" >"$out/made"
echo "$out: $(wc -l <"$out/paths") store paths, a binary cache of $(du -sm "$out/cache" | cut -f 1) MiB, $SECONDS s" >&2
