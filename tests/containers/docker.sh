#!/bin/bash
# docker.sh CACHE: runs containers with real docker on a closure view of a binary cache in a
# directory that has bash, python3 and curl: with binds, and with
# systemd/examples/containers/compose.yaml. It starts its own docker daemon, without a network.
# Needs root, docker and docker-compose. Prints the results, and stops at the first failure.
. "$(dirname "$0")/engine.sh"
need dockerd:docker.io docker:docker.io runc:runc docker-compose:docker-compose
begin
at_nix

mkdir "$dir/docker"
export DOCKER_HOST=unix://$dir/docker/socket DOCKER_CONFIG=$dir/docker/config DOCKER_BUILDKIT=0
dockerd --host "$DOCKER_HOST" --data-root "$dir/docker/data" --exec-root "$dir/docker/run" --pidfile "$dir/docker/pid" \
    --iptables=false --ip6tables=false --bridge=none --storage-driver=vfs --exec-opt native.cgroupdriver=cgroupfs \
    >"$dir/docker/log" 2>&1 &
daemons+=($!)
docker() { timeout -k 5 60 docker "$@"; }
for _ in {1..100}; do
    ! docker version >/dev/null 2>&1 || break
    sleep 0.1
done
docker version >/dev/null || { tail -n 20 "$dir/docker/log" >&2; fail "dockerd does not answer"; }
docker build -q -t empty "$examples" >/dev/null 2>"$dir/out" || { cat "$dir/out" >&2; fail "docker build"; }

run=(docker run --rm --network none)
bound=("${run[@]}" -v "/nix/.narfs/closures/web/store:/nix/store:ro")
programs "a bind of the view" "${bound[@]}" empty
[ "$("${run[@]}" -v /nix:/nix:ro,rslave empty "$bash/bin/bash" -c 'echo whole')" = whole ] || fail "the whole mount"
ok "the whole mount at /nix"
one_page_cache "two containers" "${bound[@]}" empty
tried=(-v "$dir/shared:/tmp:ro" empty)
enclosed "a container" "${bound[@]}" "${tried[@]}"
with_rights "with more rights" "${bound[@]}" --cap-add DAC_READ_SEARCH "${tried[@]}"

# The example for docker compose. Its services list their /nix/store.
cp "$examples"/{compose.yaml,Dockerfile} "$dir/docker/"
export PYTHON=${python%/bin/*}
compose=(docker-compose)
! docker compose version >/dev/null 2>&1 || compose=(docker compose)
compose() { timeout -k 5 60 "${compose[@]}" -f "$dir/docker/compose.yaml" "$@"; }
compose up -d >"$dir/out" 2>&1 || { cat "$dir/out" >&2; fail "docker-compose up"; }
for service in "whole 8081 $nix/store" "view 8082 $view"; do
    read -r name port store <<<"$service"
    for _ in {1..50}; do
        ! curl -sf "http://127.0.0.1:$port/" >"$dir/page" 2>/dev/null || break
        sleep 0.1
    done
    shown=$(grep -c '<li>' "$dir/page") || { compose logs >&2; fail "the service $name of compose.yaml does not answer"; }
    [ "$shown" = "$(find "$store" -mindepth 1 -maxdepth 1 | wc -l)" ] || fail "the service $name of compose.yaml lists $shown paths"
    ok "the service $name of compose.yaml lists $shown paths"
done
compose down -t 0 >/dev/null 2>&1 || fail "docker-compose down"
echo "ok with docker $(docker version --format '{{.Server.Version}}') and $("${compose[@]}" version | sed -n 1p)"
