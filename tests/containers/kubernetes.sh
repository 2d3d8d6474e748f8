#!/bin/bash
# kubernetes.sh CACHE: runs the Kubernetes manifests of systemd/examples/containers with `podman
# kube play`, on a binary cache in a directory that has bash, python3 and curl; narfs at /nix is
# first that of the host, then that of the DaemonSet. Needs root, podman, crun, catatonit and
# python3. Prints the results, and stops at the first failure.
. "$(dirname "$0")/engine.sh"
need podman:podman crun:crun catatonit:catatonit python3:python3-minimal ldd:libc-bin strip:binutils
begin
at_nix
podman_here

# Pods of podman 4.3 require cgroups, and crun needs CAP_SYS_RESOURCE for device rules. crun
# therefore gets a cgroup without any rules.
sed -i 's/^cgroups = .*/cgroups = "enabled"/; s/^\[engine\]/&\nruntime = "without-rules"/' "$CONTAINERS_CONF"
printf '[engine.runtimes]\nwithout-rules = ["%s"]\n' "$dir/without-rules" >>"$CONTAINERS_CONF"
cat >"$dir/without-rules" <<'CRUN'
#!/bin/bash
for ((i = 1; i < $#; i++)); do
    [ "${!i}" = --bundle ] || continue
    i=$((i + 1))
    python3 - "${!i}/config.json" <<'PYTHON'
import json, sys
with open(sys.argv[1]) as file: spec = json.load(file)
spec["linux"].pop("resources", None)
# podman 4.3 does not know hostPID.
if any("nsenter" in word for word in spec["process"]["args"]):
    spaces = spec["linux"]["namespaces"]
    spec["linux"]["namespaces"] = [space for space in spaces if space["type"] != "pid"]
spec["linux"]["cgroupsPath"] = "/narfs-test/" + spec["linux"]["cgroupsPath"].rsplit("/", 1)[-1]
with open(sys.argv[1], "w") as file: json.dump(spec, file)
PYTHON
done
exec crun "$@"
CRUN
chmod +x "$dir/without-rules"

# The manifest with its placeholders replaced, and edited by a sed expression.
filled() { sed -e "s#/nix/store/HASH-python3-VERSION#${python%/bin/*}#" -e "${2:-}" "$examples/$1.yaml"; }
play() { # NAME FILE
    podman kube play --network none "$2" >"$dir/out" 2>&1 || { cat "$dir/out" >&2; fail "podman kube play of $1"; }
}
# lists CONTAINER STORE: checks that the service in a pod lists the paths of the store.
lists() {
    local shown
    for _ in {1..50}; do
        shown=$(podman exec "$1" "$python" -c 'import urllib.request as u; print(u.urlopen("http://127.0.0.1:8080/").read().count(b"<li>"))' 2>"$dir/out") &&
            break
        sleep 0.1
    done
    [ "$shown" = "$(find "$2" -mindepth 1 -maxdepth 1 | wc -l)" ] ||
        { cat "$dir/out" >&2; podman logs "$1" >&2; fail "$1 lists ${shown:-nothing}"; }
    ok "$1 lists $shown paths"
}

for name in view whole-store; do
    filled "kubernetes-$name" >"$dir/$name.yaml"
    play "$name" "$dir/$name.yaml"
done
lists view-web "$view"
lists whole-store-pod-0-web "$nix/store"
for name in view whole-store; do podman kube down "$dir/$name.yaml" >/dev/null 2>&1; done

# The DaemonSet: /nix is a directory on the node's disk, and narfs runs in a pod. Its image contains
# the program with its libraries, and the binary cache instead of one on the network.
umount /nix
mkdir -p "$dir/node" "$dir/node-state" "$dir/daemon"/{usr/local/bin,dev,proc,sys,etc,run,tmp,var/tmp}
mount --bind "$dir/node" /nix
strip -o "$dir/daemon/usr/local/bin/narfs" "$narfs"
for program in "$narfs" /bin/sh /bin/mkdir; do
    [ "$program" = "$narfs" ] || cp -L --parents "$program" "$dir/daemon/"
    ldd "$program" | grep -o '/[^ ]*' | xargs -I '{}' cp -L --parents '{}' "$dir/daemon/"
done
cp -r "$cache" "$dir/daemon/cache"
tar -C "$dir/daemon" -c . | podman import --quiet - localhost/narfs >/dev/null || fail "podman import"
# podman 4.3 supports pods only, so it gets the template.
{ printf 'apiVersion: v1\nkind: Pod\n'; filled kubernetes-daemonset | sed -e '1,/^  template:/d' -e 's/^    //' \
    -e 's/^metadata:/&\n  name: daemon/' -e "s#/var/lib/narfs#$dir/node-state#" \
    -e 's#https://cache.nixos.org#file:///cache --no-require-sigs#' -e "/mountPath/s#$dir/node-state#/var/lib/narfs#"
} >"$dir/daemon.yaml"
# The kernel may still serve from its caches what was accessed before.
sees() { podman exec whole-store-pod-0-web "$python" -c 'import os, sys; os.stat(sys.argv[1])' "$1" 2>/dev/null; }
start_daemon() {
    play daemonset "$dir/daemon.yaml"
    for _ in {1..100}; do
        # A dead mount counts as a mount point as well.
        ! [ -x "${python%/bin/*}/bin" ] || return 0
        sleep 0.1
    done
    podman logs daemon-narfs >&2
    fail "the DaemonSet's pod has not mounted /nix/store for the node"
}
sees_again() {
    for _ in {1..50}; do
        ! sees "$1" || return 0
        sleep 0.1
    done
    fail "a pod that runs does not see the store that the next pod of the DaemonSet has mounted"
}
start_daemon
play whole-store "$dir/whole-store.yaml"
lists whole-store-pod-0-web /nix/store
ok "the pod of the DaemonSet has mounted /nix/store for the node and another pod"
# Terminated as by a kubelet.
podman stop -t 20 daemon-narfs >/dev/null
podman kube down "$dir/daemon.yaml" >/dev/null 2>&1
! mountpoint -q /nix/store || fail "/nix/store is mounted after the DaemonSet's pod has ended"
! sees "$bash" || fail "a pod still sees the store after the DaemonSet's pod has ended"
start_daemon
sees_again "$bash"
ok "a pod that runs has the store again when the next pod of the DaemonSet has mounted it"
# podman 4.3 sends SIGKILL here.
podman kube down "$dir/daemon.yaml" >/dev/null 2>&1
! sees "$curl" || fail "a pod still sees the store after the DaemonSet's pod was killed"
start_daemon
sees_again "$curl"
ok "and when the pod before was killed, and left a dead mount"
podman kube down "$dir/whole-store.yaml" >/dev/null 2>&1
podman stop -t 20 daemon-narfs >/dev/null
podman kube down "$dir/daemon.yaml" >/dev/null 2>&1

# The DaemonSet that has narfs run outside of its pod. The node is this mount namespace, and its process 1 this
# shell. There is no network in the pods, nor for the node.
for program in /bin/{cp,mv,ln,rm,mkdir,sleep} /usr/bin/{nsenter,sha256sum}; do
    cp -L --parents "$program" "$dir/daemon/"
    ldd "$program" | grep -o '/[^ ]*' | xargs -I '{}' cp -L --parents '{}' "$dir/daemon/"
done
mkdir -p "$dir/opt" "$dir/config"
image_of() { # PROGRAM
    cp "$1" "$dir/daemon/usr/local/bin/narfs"
    tar -C "$dir/daemon" -c . | podman import --quiet - localhost/narfs >/dev/null || fail "podman import"
}
kept=$(filled kubernetes-daemonset-kept)
# The ConfigMap as a directory, which podman 4.3 supports.
sed -n '/^  config.toml: |/,/^---/{ /^    /s/^    //p }' <<<"$kept" | sed -e "s#/var/lib/narfs#$dir/kept-state#" \
    -e "s#https://cache.nixos.org#file://$cache#" -e 's/^\[mount\]/require-sigs = false\n&/' >"$dir/config/config.toml"
{ printf 'apiVersion: v1\nkind: Pod\n'; sed -e '1,/^  template:/d' -e 's/^    //' -e 's/^metadata:/&\n  name: kept/' \
    -e "s#/opt/narfs#$dir/opt#g; s/--target 1 /--target $$ /" -e "s#configMap:#hostPath:#; s#^      name: narfs\$#      path: $dir/config#" <<<"$kept"
} >"$dir/kept.yaml"
on_node() { env -u NARFS_STATE "$dir/opt/narfs" --config "$dir/opt/config.toml" "$@"; }
serves() { on_node status --json 2>/dev/null | sed -n 's/^ *"pid": \([0-9]*\).*/\1/p'; }
# start_kept BEFORE: starts the pod, and waits until another process than BEFORE serves the state.
start_kept() {
    play "the kept DaemonSet" "$dir/kept.yaml"
    for _ in {1..900}; do
        daemon=$(serves) || true
        [ -z "$daemon" ] || [ "$daemon" = "$1" ] || ! [ -x "${python%/bin/*}/bin" ] || return 0
        sleep 0.1
    done
    podman logs kept-narfs >&2
    cat "$dir/kept-state/narfs.log" >&2
    fail "the pod of the DaemonSet has not started narfs on the node"
}
strip -o "$dir/first" "$narfs"
image_of "$dir/first"
start_kept none
play whole-store "$dir/whole-store.yaml"
lists whole-store-pod-0-web /nix/store
podman stop -t 5 kept-narfs >/dev/null
podman kube down "$dir/kept.yaml" >/dev/null 2>&1
[ "$(serves)" = "$daemon" ] || fail "the daemon has ended with the pod of the DaemonSet"
sees "$bash" || fail "a pod does not see the store after the pod of the DaemonSet has ended"
ok "the mount stays when the pod of the DaemonSet has ended, also for what is new to the kernel"
cp "$dir/first" "$dir/second"
echo >>"$dir/second"
image_of "$dir/second"
start_kept "$daemon"
lists whole-store-pod-0-web /nix/store
# The upgrade replaces the keeper after the daemon, and then the pod removes the program that was before.
for _ in {1..900}; do
    [ "$(find "$dir/opt" -name 'narfs-*' | wc -l)" != 1 ] || break
    sleep 0.1
done
[ "$(find "$dir/opt" -name 'narfs-*' | wc -l)" = 1 ] || fail "the program of the first image is left"
daemon=$(serves)
cmp "/proc/$daemon/exe" "$dir/second" || fail "the daemon is not that of the new image"
ok "the pod of a new image has its program take over, and a pod that runs notices nothing"
kill -9 "$daemon"
lists whole-store-pod-0-web /nix/store
podman kube down "$dir/whole-store.yaml" >/dev/null 2>&1
podman kube down "$dir/kept.yaml" >/dev/null 2>&1
on_node umount /nix/store || fail "umount on the node"
! [ -d /sys/fs/cgroup/narfs ] || rmdir /sys/fs/cgroup/narfs
echo "ok with the manifests and $(podman --version)"
