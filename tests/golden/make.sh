#!/bin/bash
# make.sh NARFS DIRECTORY: makes a small state with a given program, and says what is in it.
#
# It is run with an old program to keep what that program writes: a test reads the result with the
# program of today. DIRECTORY must not exist; a state cannot be made twice the same, for it has times
# in it. It takes root, /dev/fuse, tar and zstd. What it makes in DIRECTORY:
#
#   state.tar.zst   `state`, the state directory, and `result`, a link that is a root of it
#   state.json      what the program says of it once it is packed: for each command that it knows the
#                   JSON of that, and for each path the hash of its NAR, null where nothing is here
#
# These are format-N.tar.zst and format-N.json here. They were made by the programs that were built
# from acc9224 (format 1), 321c778 (format 2), a17a984 (format 3) and 90b18e9 (format 4), and
# format-4-frames, which has chunks in frames as well, from 529f90a. The paths are
# those of cache.tar.zst, of which cache.py says how it is made.
set -euo pipefail

narfs=$(realpath "$1")
mkdir "$2"
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
dir=$(realpath "$2")
export NARFS_STATE=$dir/state NARFS_CONFIG=/dev/null

tar -C "$dir" --zstd -xf "$here/cache.tar.zst"
from=(--from "file://$dir/cache" --trusted-public-key "$(cat "$dir/cache/key.pub")")
path() { grep -m 1 -- "-$1\$" "$dir/cache/store-paths"; }
knows() { "$narfs" "$1" --help >/dev/null 2>&1; }
run() { printf '$ narfs %s\n' "$*"; "$narfs" "$@"; }

mkdir "$dir/nix" "$dir/tree" "$dir/tree/empty"
cleanup() { if mountpoint -q "$dir/nix"; then umount -l "$dir/nix"; fi; }
trap cleanup EXIT

# Paths that are fetched and one that is added.
mapfile -t twins < <(grep -e '-twin-1.0$' "$dir/cache/store-paths")
run copy "${from[@]}" "$(path joint-1.0)" "$(path tool-1.0)" "$(path note-1.0)" "$(path fixed-1.0)" \
    "$(path pointer-1.0)"
# Where states say which paths nobody vouches for, there are such paths with signatures: of keys that are
# not trusted.
lookups=("${from[@]}")
if "$narfs" key forget --help >/dev/null 2>&1; then lookups=("${from[@]:0:2}" --no-require-sigs); fi
run copy "${lookups[@]}" "$(path spare-1.0)"
run copy "${from[@]}" "$(path tool-2.0)"
printf 'added to %s\n' "$(path base-1.0)" >"$dir/tree/file"
install -m 755 "$dir/tree/file" "$dir/tree/program"
ln -s file "$dir/tree/link"
run add "$dir/tree" --name added-1.0

# Of a path that is looked up and not looked into nothing is here but what it is.
run mount "$dir/nix" "${lookups[@]}"
stat --format %F "$dir/nix/store/$(basename "$(path extra-1.0)")"
if knows trace; then
    run trace start job
    wc -c "$dir/nix/store/$(basename "$(path spare-1.0)")/spare"
    wc -c "$dir/nix/store/$(basename "$(path base-1.0)")/lib/libbase.so"
    cat "$dir/nix/store/$(basename "$(path tool-2.0)")/bin/same-tool"
    run trace stop job
    run trace start empty
    run trace stop empty
fi
run umount "$dir/nix"

if knows pin; then
    run pin "${from[@]}" "$(path note-1.0)"
    run pin "${from[@]}" "$(path joint-1.0)"
    # What is not pinned is dropped, and some of it comes back under other numbers. That more than
    # nothing stays makes the command fail.
    run evict --to 0 || true
    run copy "${from[@]}" "$(path tool-2.0)"
fi
if knows profile; then
    # Of `tool-1.0`, which was dropped, and `app` the trees are needed, of `leaf` its narinfo.
    run profile install "${from[@]}" "$(path tool-1.0)"
    run profile install "${from[@]}" "$(path app-1.0)" --priority 4
    run profile remove tool
    run profile rollback
    for n in tool-1.0 tool-2.0 joint-1.0; do
        run profile -p system set "${from[@]}" "$(path "$n")"
    done
    run profile -p system delete-generations 1
    run profile -p per-user/ann/profile install "${from[@]}" "${twins[0]}"
fi
if knows channel; then
    run channel add golden "$dir/cache/store-paths"
    run channel add later --no-update https://channels.example.org/store-paths.xz
fi
if knows gc; then
    run add-root "$dir/result" "$(path pointer-1.0)"
    # It leads to wherever the state lies.
    ln -sfn ../../../result "$dir"/state/gcroots/auto/*
    ln -s "$(path fixed-1.0)" "$dir/state/gcroots/direct"
fi
if knows closures; then
    run closure fixed "${from[@]}" "$(path tool-2.0)" "$(path joint-1.0)"
    run closure following "${from[@]}" --profile system "$(path note-1.0)"
    run closure gone "${from[@]}" "$(path fixed-1.0)"
    run closure gone --delete
fi

packed=(state)
if [ -L "$dir/result" ]; then packed+=(result); fi
rm -f "$dir"/state/db/LOG* "$dir"/state/narfs.log "$dir"/state/control.sock
tar --sort=name --owner=0 --group=0 --numeric-owner -C "$dir" -c "${packed[@]}" |
    zstd -q -19 --ultra --long -o "$dir/state.tar.zst"

# say NAME COMMAND…: one member of the JSON, where the program knows the command.
say() {
    local name=$1
    shift
    if knows "$1"; then printf '  "%s": %s,\n' "$name" "$("$narfs" "$@" --json)"; fi
}
nar_hash() { if "$narfs" dump "$1" 2>/dev/null >"$dir/nar"; then sha256sum <"$dir/nar" | sed 's/\(.*\)  -/"\1"/'; else echo null; fi; }
{
    echo "{"
    say path-info path-info
    if knows profile; then say known path-info --closure "$(path app-1.0)" "$(path extra-1.0)"; fi
    say verify verify
    say pins pins
    # Links are named by where the state lies.
    say roots roots | sed "s|$dir|DIRECTORY|g"
    say profiles profiles
    if knows profile; then
        for profile in default system per-user/ann/profile; do
            say "profile history $profile" profile history -p "$profile"
        done
        for profile in default per-user/ann/profile; do
            say "profile list $profile" profile list -p "$profile"
        done
    fi
    say channels channel list
    say traces trace list
    if knows trace; then say "trace job" trace show job; fi
    say closures closures
    echo '  "nars": {'
    "$narfs" path-info | sort | while read -r path; do
        [ -z "${comma:-}" ] || echo ,
        printf '    "%s": %s' "$path" "$(nar_hash "$path")"
        comma=1
    done
    printf '\n  },\n  "ls": {\n'
    "$narfs" path-info | sort | while read -r path; do
        if listing=$("$narfs" ls -R --json "$path" 2>/dev/null); then
            [ -z "${comma:-}" ] || echo ,
            printf '    "%s": %s' "$path" "$listing"
            comma=1
        fi
    done
    printf '\n  }\n}\n'
} >"$dir/state.json"
