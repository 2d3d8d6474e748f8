#!/bin/bash
# three.sh PYTHON: runs a service in three podman containers that share one store, and shows their
# cost. PYTHON is the store path of a python3, /nix/store/HASH-python3-VERSION; narfs must be
# mounted as a whole (`narfs mount /nix`). Needs root, podman and curl. Cleans up at the end.
#
# The second and third container send no read requests for what the first one has read, and fetch
# nothing. The remaining requests are Python's: it checks whether each file that it opens is a
# terminal, which the kernel passes on.
set -euo pipefail
[ $# = 1 ] || { echo "usage: three.sh /nix/store/HASH-python3-VERSION" >&2; exit 2; }
python=$1 name=narfs-three shared=$(mktemp -d)
finish() {
    podman rm -f -t 0 "$name"-{1,2,3} >/dev/null 2>&1 || true
    podman rmi "$name" >/dev/null 2>&1 || true
    narfs closure --delete "$name" 2>/dev/null || true
    rm -rf "$shared"
}
trap finish EXIT

# The containers see only the closure of python3 at /nix/store.
narfs closure "$name" "$python" | sed -n 1p
store=$(narfs closures --json "$name" | sed -n 's/^ *"store": "\(.*\)".*/\1/p')

# The image contains only mount points.
mkdir -p "$shared"/image/{nix/store,run,proc,sys,dev,etc,tmp,var/tmp}
tar -C "$shared/image" -c . | podman import --quiet - "$name" >/dev/null

# The service listens on a socket in a directory shared by host and containers.
cat >"$shared/service.py" <<'PYTHON'
import http.server, json, os, socketserver, ssl, sys

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"name": sys.argv[1], "process": os.getpid(), "python": sys.version.split()[0],
                           "store paths": len(os.listdir("/nix/store"))}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_): pass

socketserver.ThreadingUnixStreamServer(f"/run/{sys.argv[1]}.socket", Page).serve_forever()
PYTHON

# Counters of the daemon: requests, READ requests among them, bytes fetched.
figures() {
    narfs metrics | awk '/^narfs_fuse_requests_total/ { all += $2 } /^narfs_fuse_requests_total.*"read"/ { reads = $2 }
        /^narfs_fetched_bytes_total/ { bytes = $2 } END { print all + 0, reads + 0, bytes + 0 }'
}
for i in 1 2 3; do
    read -r -a before < <(figures)
    podman run -d --name "$name-$i" --network none -v "$store:/nix/store:ro" -v "$shared:/run" "$name" \
        "$python/bin/python3" /run/service.py "$i" >/dev/null
    tries=0
    until curl -sf --unix-socket "$shared/$i.socket" http://localhost/; do
        sleep 0.1
        [ $((tries += 1)) -lt 100 ] || { podman logs "$name-$i" >&2; exit 1; }
    done
    echo
    read -r -a after < <(figures)
    cost[i]="$((after[0] - before[0])) $((after[1] - before[1])) $((after[2] - before[2]))"
done

# Memory while all three run: private to each container, and shared with the others.
echo
printf '%-12s %10s %6s %14s %12s %12s\n' container requests READs 'bytes fetched' 'own KiB' 'shared KiB'
for i in 1 2 3; do
    memory=$(awk '/^Private/ { own += $2 } /^Shared/ { shared += $2 } END { print own, shared }' \
        "/proc/$(podman inspect -f '{{.State.Pid}}' "$name-$i")/smaps_rollup")
    printf '%-12s %10s %6s %14s %12s %12s\n' "$name-$i" ${cost[i]} $memory
done
