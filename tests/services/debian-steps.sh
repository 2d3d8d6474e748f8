#!/bin/bash
# debian-steps.sh OLD NEW: what debian.sh does with two packages in a Debian of its own.
#
# Each function is a step, and they build on each other. No step may take a mount away from a program that
# uses it, and the last one leaves nothing behind.
set -euo pipefail
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
old=$1 new=$2
world=/world cache=file:///world/cache
units="narfs.service narfs-daemon.service narfs-gc.timer narfs-http.socket narfs-plugin.socket narfs-nix.socket"

fail() { echo "  wrong: $*" >&2; cat /tmp/dpkg.log >&2; exit 1; }
# await WHAT COMMAND...: waits until a command succeeds.
await() {
    for _ in $(seq 1200); do
        if "${@:2}"; then return; fi
        sleep 0.1
    done
    fail "after two minutes, still not: $1"
}
dpkg_() { dpkg "$@" </dev/null >/tmp/dpkg.log 2>&1; }
# path NAME: the store path of a package of the world.
path() { grep -E -- "-$1-[0-9]" $world/roots; }
processes() {
    for process in /proc/[0-9]*; do
        if [ "$(readlink "$process/exe")" = /usr/bin/narfs ]; then echo "${process#/proc/}"; fi
    done
}
# daemon [--state DIR]: the process number of the daemon.
daemon() { narfs "$@" status --json | sed -n 's/^  "pid": \([0-9]*\),$/\1/p'; }
# Files, users and groups.
inventory() {
    find / -xdev \( -path /tmp -o -path /var/tmp -o -path /var/log -o -path /var/cache -o -path '/var/lib/dpkg/*-old' \) \
        -prune -o -print | sort
    getent passwd
    getent group
}

# reader: starts a program of /nix that reads a file of /nix from the daemon again and again.
reader() {
    local coreutils file
    coreutils=$(path coreutils) file=$(find "$(path bash)" -name bash -type f | head -n 1)
    systemd-run --quiet --unit=reader "$(path bash)/bin/bash" -c '
        set -u; n=0
        while [ "$("$1/bin/dd" if="$2" iflag=direct bs=128K status=none | "$1/bin/sha256sum")" = "$3  -" ]; do
            n=$((n + 1)); echo $n >/tmp/reads; done; exit 1' \
        reader "$coreutils" "$file" "$(sha256sum <"$world/root$file" | cut -d ' ' -f 1)"
    goes_on
}
reads() { number=$(cat /tmp/reads 2>/dev/null) || true; echo "${number:-0}"; }
goes_on() {
    local before
    before=$(reads)
    more() { [ "$(reads)" -gt $((before + 3)) ] || ! systemctl -q is-active reader; }
    await "the program in /nix goes on" more
    systemctl -q is-active reader || fail "the program in /nix met an error"
}

the_package_starts_nothing() {
    dpkg_ --install "$old" || fail "the package cannot be installed"
    dpkg -V narfs || fail "files are not as in the package"
    for unit in $units; do
        case $(systemctl is-enabled "$unit")/$(systemctl is-active "$unit") in
        disabled/inactive) ;;
        *) fail "$unit is enabled or runs" ;;
        esac
    done
    [ -z "$(processes)" ] || fail "a process runs"
    ! mountpoint -q /nix || fail "/nix is mounted"
    getent passwd narfs >/dev/null || fail "there is no user narfs"
}

systemd_understands_the_units() {
    # Settings of systemd 254, which older versions do not know and ignore.
    local newer='RestartSteps|RestartMaxDelaySec|FileDescriptorStorePreserve'
    systemd-analyze verify --man=no /usr/lib/systemd/system/narfs* 2>&1 |
        grep narfs | grep -vE "Unknown key.*($newer)" >/tmp/verify || true
    [ ! -s /tmp/verify ] || fail "$(cat /tmp/verify)"
}

a_store_that_is_there_is_not_hidden() {
    local path=/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-hello
    mkdir -p $path
    ! systemctl start narfs.service 2>/dev/null || fail "the service runs over another store"
    failed() { [ "$(systemctl is-active narfs.service)" = failed ]; }
    await "the service gives up" failed
    [ "$(systemctl show --property NRestarts --value narfs.service)" = 0 ] || fail "the service tries again and again"
    rm -r /nix
    systemctl reset-failed narfs.service
}

the_service_serves_nix() {
    printf 'from = ["%s"]\ntrusted-public-keys = ["%s"]\n' "$cache" "$(cat $world/key.pub)" >/etc/narfs/config.toml
    narfs config check >/dev/null || fail "the configuration is not read"
    systemctl enable --quiet --now narfs.service narfs-gc.timer
    [ "$("$(path hello)/bin/hello")" = "Hello, world!" ] || fail "the program in /nix does not run"
    # A state of another place, which a keeper looks after.
    mkdir /mnt/other
    narfs --state /srv/other-state mount /mnt/other --offline
    reader
}

an_upgrade_is_not_noticed_in_nix() {
    local before others
    before=$(daemon) others=$(daemon --state /srv/other-state)
    dpkg_ --install "$new" || fail "the package cannot be upgraded"
    ! grep -iE "fail|error|cannot|read-only" /tmp/dpkg.log || fail "the upgrade complains"
    goes_on
    for pid in $(processes); do
        [ "/proc/$pid/exe" -ef /usr/bin/narfs ] || fail "process $pid runs the program of the package before"
    done
    [ "$(daemon)" != "$before" ] || fail "the daemon was not replaced"
    [ "$(daemon --state /srv/other-state)" != "$others" ] || fail "the daemon of the other state was not replaced"
    mountpoint -q /mnt/other || fail "/mnt/other was unmounted"
    [ -z "$(find /proc/[0-9]*/exe -lname '/usr/bin/narfs*deleted*' 2>/dev/null)" ] || fail "an old program still runs"
    # Also to the same version, and back.
    dpkg_ --install "$new" && dpkg_ --install "$old" && dpkg_ --install "$new" || fail "the package cannot be replaced"
    goes_on
}

what_is_in_use_is_not_removed() {
    ! dpkg_ --remove narfs || fail "the package was removed while /nix was in use"
    grep -q "reader\|bash" /tmp/dpkg.log || fail "the programs that use /nix are not named"
    [ "$(dpkg-query -W -f '${db:Status-Status}' narfs)" = installed ] || fail "the package is not installed any more"
    goes_on
    await "the service and the timer run again" systemctl -q is-active narfs.service narfs-gc.timer
}

what_a_container_has_is_not_removed() {
    systemctl stop reader
    systemd-run --quiet --unit=container unshare --mount --propagation private sleep infinity
    has_own_mounts() { ! [ "/proc/$(systemctl show -P MainPID container)/ns/mnt" -ef /proc/self/ns/mnt ]; }
    await "the container is there" has_own_mounts
    ! dpkg_ --remove narfs || fail "the package was removed while a container had /nix"
    grep -q "container.* $(systemctl show -P MainPID container)" /tmp/dpkg.log || fail "the container is not named"
    mountpoint -q /nix && mountpoint -q /mnt/other || fail "a mount was taken away"
    systemctl stop container
}

a_removal_leaves_configuration_and_state() {
    dpkg_ --remove narfs || fail "the package cannot be removed"
    ! grep -q narfs /proc/self/mountinfo || fail "something is mounted"
    [ -z "$(processes)" ] || fail "a process runs"
    [ -e /etc/narfs/config.toml ] && [ -e /var/lib/narfs/format ] || fail "the configuration or the state is gone"
    ! systemctl -q is-active narfs.service narfs-gc.timer || fail "a unit is active"
}

mounts_on_demand_are_removed() {
    dpkg_ --install "$new" || fail "the package cannot be installed again"
    [ "$(systemctl is-enabled narfs.service)" = enabled ] || fail "the service is not enabled any more"
    systemctl disable --quiet narfs.service
    cp /usr/share/doc/narfs/examples/nix.mount /usr/share/doc/narfs/examples/nix.automount /etc/systemd/system/
    systemctl daemon-reload
    systemctl enable --quiet --now narfs-daemon.service nix.automount
    reader
    ! dpkg_ --remove narfs || fail "the package was removed while /nix was in use"
    goes_on
    await "the mount on demand is back" systemctl -q is-active nix.automount
    systemctl stop reader
    dpkg_ --remove narfs || fail "the package cannot be removed"
    ! grep -q ' /nix ' /proc/self/mountinfo || fail "/nix is mounted"
    [ -z "$(processes)" ] || fail "a process runs"
    systemctl disable --quiet nix.automount
    rm /etc/systemd/system/nix.mount /etc/systemd/system/nix.automount
    systemctl daemon-reload
}

a_purge_leaves_nothing() {
    dpkg_ --install "$new" || fail "the package cannot be installed again"
    systemctl disable --quiet narfs-daemon.service
    systemctl enable --quiet --now narfs.service
    narfs closure hello "$(path hello)" >/dev/null
    narfs cdi >/dev/null && [ -e /etc/cdi/narfs.json ] || fail "there is no /etc/cdi/narfs.json"
    cp /usr/bin/narfs /tmp/narfs
    # Since systemd 254 the mount then waits for the next daemon.
    systemctl stop narfs.service
    dpkg_ --purge narfs || fail "the package cannot be purged"
    rm -r /srv/other-state /mnt/other
    inventory >/tmp/after
    diff /tmp/before /tmp/after || fail "something is left"
}

the_state_of_another_narfs_stays() {
    dpkg_ --install "$new" || fail "the package cannot be installed again"
    /tmp/narfs mount /nix --offline
    ! dpkg_ --purge narfs || fail "the state was removed from below another narfs"
    mountpoint -q /nix || fail "the mount of another narfs was taken away"
    /tmp/narfs umount /nix
    dpkg_ --purge narfs || fail "the package cannot be purged"
    inventory >/tmp/after
    diff /tmp/before /tmp/after || fail "something is left"
}

inventory >/tmp/before
for step in the_package_starts_nothing systemd_understands_the_units a_store_that_is_there_is_not_hidden \
    the_service_serves_nix an_upgrade_is_not_noticed_in_nix what_is_in_use_is_not_removed what_a_container_has_is_not_removed \
    a_removal_leaves_configuration_and_state mounts_on_demand_are_removed a_purge_leaves_nothing \
    the_state_of_another_narfs_stays; do
    began=$SECONDS
    $step
    echo "  ${step//_/ } ($((SECONDS - began)) s)"
done
