#!/bin/bash
# containerd.sh CACHE: runs containers with real containerd, by ctr, on a closure view of a binary
# cache in a directory that has bash, python3 and curl: with a root that contains only mount points,
# and with an image of it. Needs root, containerd and runc. Prints the results, and stops at the
# first failure.
. "$(dirname "$0")/engine.sh"
need containerd:containerd ctr:containerd runc:runc
begin

mkdir "$dir/containerd"
cat >"$dir/containerd.toml" <<CONF
version = 2
root = "$dir/containerd/root"
state = "$dir/containerd/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "$dir/containerd/socket"
CONF
containerd -c "$dir/containerd.toml" >"$dir/containerd/log" 2>&1 &
daemons+=($!)
export CONTAINERD_ADDRESS=$dir/containerd/socket CONTAINERD_SNAPSHOTTER=native
ctr() { timeout -k 5 60 ctr "$@"; }
for _ in {1..50}; do
    ! ctr version >/dev/null 2>&1 || break
    sleep 0.1
done
ctr version >/dev/null || { cat "$dir/containerd/log" >&2; fail "containerd does not answer"; }

# run OPTION... -- IMAGE-OR-ROOT PROGRAM...: without CPU shares, since that controller may be
# missing.
run() {
    local options=()
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    local root=$2; shift 2
    ctr run --rm --cpu-shares 0 "${options[@]}" "$root" "c-$BASHPID-$RANDOM" "$@"
}
bound=(run --mount "type=bind,src=$view,dst=/nix/store,options=rbind:ro")
programs "a root without an image" "${bound[@]}" --rootfs -- "$image"

# An image archive in the format of `docker save`: a layer, the image configuration, and a manifest.
mkdir "$dir/archive"
tar -C "$image" -cf "$dir/archive/layer.tar" .
printf '{"architecture":"%s","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$(dpkg --print-architecture)" "$(sha256sum <"$dir/archive/layer.tar" | cut -d ' ' -f 1)" >"$dir/archive/image.json"
printf '[{"Config":"image.json","RepoTags":["localhost/empty:latest"],"Layers":["layer.tar"]}]' >"$dir/archive/manifest.json"
tar -C "$dir/archive" -c manifest.json image.json layer.tar | ctr image import - >/dev/null || fail "ctr image import"
programs "an imported image" "${bound[@]}" -- localhost/empty:latest

one_page_cache "two containers" "${bound[@]}" --rootfs -- "$image"
tried=(--mount "type=bind,src=$dir/shared,dst=/tmp,options=rbind:ro" --rootfs)
enclosed "a container" "${bound[@]}" "${tried[@]}" -- "$image"
with_rights "with more rights" "${bound[@]}" --cap-add CAP_DAC_READ_SEARCH "${tried[@]}" -- "$image"
echo "ok with $(containerd --version | cut -d ' ' -f 1,3) and $(runc --version | sed -n 1p)"
