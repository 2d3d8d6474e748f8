#!/bin/bash
# podman.sh CACHE: runs containers with real podman on closure views of a binary cache in a
# directory that has bash, python3 and curl: the example of three containers, then with a bind, as a
# device, and after a change of the view. The image contains only mount points. Needs root, podman
# and crun. Prints the results, and stops at the first failure.
. "$(dirname "$0")/engine.sh"
need podman:podman crun:crun
begin
podman_here
container=(podman run --rm)

# The second and third container read and fetch nothing. Retried, since other users of this machine
# may drop the kernel's caches.
for _ in 1 2 3; do
    timeout -k 5 120 "$examples/three.sh" "${python%/bin/*}" >"$dir/out" || fail "the example of three containers"
    cost=$(awk '/^narfs-three-[23] / { sum += $3 + $4; rows++ } END { print rows ":" sum }' "$dir/out")
    [ "$cost" != 2:0 ] || break
done
cat "$dir/out"
[ "$cost" = 2:0 ] || fail "the second and third container of the example have read or fetched something"

# A CDI directory in this mount namespace only.
mkdir -p /etc/cdi "$dir/cdi"
mount --bind "$dir/cdi" /etc/cdi

bound=("${container[@]}" -v "$view:/nix/store:ro")
programs "a bind of the view" "${bound[@]}" localhost/empty
"$narfs" cdi web
programs "a device" "${container[@]}" --device narfs.dev/store=web localhost/empty
programs "a root without an image" "${bound[@]}" --rootfs "$image"
[ "$("${container[@]}" -v "$nix:/nix:ro,rslave" localhost/empty "$bash/bin/bash" -c 'echo whole')" = whole ] || fail "the whole mount"
ok "the whole mount at /nix"
one_page_cache "two containers" "${bound[@]}" localhost/empty

tried=(-v "$dir/shared:/tmp:ro" localhost/empty)
enclosed "a container" "${bound[@]}" "${tried[@]}"
with_rights "with more rights" "${bound[@]}" --cap-add DAC_READ_SEARCH "${tried[@]}"
# Checks that the test would detect access to the whole store.
! "${container[@]}" -v "$nix/store:/nix/store:ro" "${tried[@]}" "$python" /tmp/enclosed.py try /tmp/known.json >"$dir/out" 2>&1 ||
    fail "the whole store passes for a view"
grep -q REACHED "$dir/out" || fail "$(cat "$dir/out")"

# A running container sees the view change, and keeps its open files.
name=narfs-podman-$$
podman run --rm -d --name "$name" -v "$view:/nix/store:ro" localhost/empty \
    "$bash/bin/bash" -c 'while read -r line; do :; done < <(:); while :; do read -t 1 <> <(:) || true; done' >/dev/null
inside() { podman exec "$name" "$@"; }
inside "$curl/bin/curl" --version >/dev/null || fail "curl in a running container"
"$narfs" closure web "$bash" >/dev/null
! inside "$curl/bin/curl" --version >/dev/null 2>&1 || fail "curl is accessible after the view was replaced"
inside "$bash/bin/bash" -c 'echo ok: a running container sees the view that replaced the first'
daemon=$("$narfs" status --json | sed -n 's/^ *"pid": \([0-9]*\).*/\1/p')
kill -9 "$daemon"
inside "$bash/bin/bash" -c 'echo ok: and continues when the daemon is killed'
"$narfs" closure --delete web
! inside "$bash/bin/bash" -c 'exit 0' >/dev/null 2>&1 || fail "a deleted view is accessible"
ok "a deleted view is gone for it"
podman rm -f -t 0 "$name" >/dev/null 2>&1 || true

echo "ok with $(podman --version)"
