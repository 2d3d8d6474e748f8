#!/usr/bin/env python3
"""Whether a container with a closure view can access the rest of the store.

enclosed.py known STORE VIEW   on the host: names and inode numbers of everything in the store, as JSON
enclosed.py try KNOWN          in the container: by names, by links to parents, by /proc, by walking through
                               everything, and by file handles made of all known numbers and of guesses

Exits with status 1 and a list if anything outside of the view was accessible.
"""
import ctypes
import errno
import json
import os
import sys

STORE = "/nix/store"
AT_FDCWD = -100
# File handle types of FUSE: the address of a file, and a generation.
FILEID_INO64_GEN, FILEID_INO64_GEN_PARENT = 0x81, 0x82


def address(shown):
    """The address of a file with this visible inode number (src/fs/numbers.rs)."""
    for start, ordinal_bits, node_bits in ((1 << 30, 20, 10), (2 << 30, 17, 13), (3 << 30, 14, 16)):
        number = shown - start
        if 0 <= number < 1 << ordinal_bits + node_bits:
            return number >> node_bits << 24 | number & (1 << node_bits) - 1
    return shown


def known(store, view):
    """Walks through the whole store, so that the kernel has cached it as well."""
    paths = {}
    for name in os.listdir(store):
        top = os.path.join(store, name)
        numbers = [address(os.lstat(top).st_ino)]
        for directory, names, files in os.walk(top):
            numbers += [address(os.lstat(os.path.join(directory, n)).st_ino) for n in names + files]
        paths[name] = numbers
    inside = os.listdir(view)
    outside = {name: numbers for name, numbers in paths.items() if name not in inside}
    json.dump({"inside": inside, "outside": outside}, sys.stdout)


class Attempts:
    """Attempts to access something, each of which must fail."""

    def __init__(self):
        self.count = 0
        self.errors = {}
        self.reached = []

    def refused(self, what, expected, call, *arguments):
        self.count += 1
        try:
            call(*arguments)
        except OSError as error:
            name = errno.errorcode.get(error.errno, str(error.errno))
            self.errors[name] = self.errors.get(name, 0) + 1
            if name not in expected:
                self.reached.append(f"{what}: {name} in place of {' or '.join(expected)}")
        else:
            self.reached.append(what)

    def absent(self, place):
        for call in (os.lstat, os.listdir, os.readlink, lambda p: os.close(os.open(p, os.O_RDONLY))):
            self.refused(place, ["ENOENT"], call, place)

    def say(self, what):
        errors = ", ".join(f"{name} {count}" for name, count in sorted(self.errors.items()))
        print(f"{self.count} attempts {what}: {errors}")
        self.count, self.errors = 0, {}


def by_name(attempts, inside, outside):
    anchor = os.path.join(STORE, sorted(inside)[0])
    for name in outside:
        for place in (
            f"{STORE}/{name}",
            f"{STORE}/{name}/bin",
            f"{STORE}/../store/{name}",
            f"{anchor}/../{name}",
            f"/proc/self/root{STORE}/{name}",
            f"/proc/1/root{STORE}/{name}",
            f"/proc/self/cwd/nix/store/{name}",
        ):
            attempts.absent(place)
        # Relative to a directory that is open already.
        directory = os.open(anchor, os.O_PATH)
        attempts.refused(name, ["ENOENT"], lambda: os.stat(f"../{name}", dir_fd=directory))
        os.close(directory)
    for place in (
        f"{STORE}/.links", f"{STORE}/.narfs", f"{STORE}/../.narfs", f"{STORE}/../var", "/nix/.narfs/closures",
        f"{STORE}/00000000000000000000000000000000-x", f"{STORE}/.file", f"{STORE}/store",
    ):
        attempts.absent(place)
    attempts.say("by name, with .. and by /proc/*/root")


def by_walking(attempts, inside):
    """find / without a limit: every directory named like a store path is one of the view."""
    seen = 0
    devices = set()
    for directory, names, files in os.walk("/"):
        if directory == "/":
            names.remove("proc"), names.remove("sys")
        for name in names + files:
            seen += 1
            place = os.path.join(directory, name)
            try:
                devices.add(os.lstat(place).st_dev)
            except OSError:
                pass
            hashed = len(name) > 33 and name[32] == "-"
            if directory == STORE and name not in inside or hashed and directory == "/nix":
                attempts.reached.append(place)
    if sorted(os.listdir(STORE)) != sorted(inside):
        attempts.reached.append(f"{STORE}: lists other paths than the view")
    # Directories above the root of the view belong to the container.
    if os.listdir("/nix") != ["store"] or os.stat(f"{STORE}/..").st_dev == os.stat(STORE).st_dev:
        attempts.reached.append("/nix: more than the view")
    print(f"{seen} names on {len(devices)} file systems by walking from /: no path but the {len(inside)} of the view")


def mount_line():
    """What the mount table reveals of the host."""
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        lines = [line.split() for line in table]
    root, options = next((line[3], line[5]) for line in lines if line[4] == STORE)
    if "ro" not in options.split(","):
        raise SystemExit(f"{STORE} is mounted {options}")
    print(f"the table of mounts tells the name of the view, {root}, and that it is {options}")


def handle(kind, *words):
    """struct file_handle: the length, the type, and the data of the file system."""
    return (ctypes.c_uint32 * (2 + len(words)))(4 * len(words), kind, *words)


def fuse_handles(number):
    for generation in (0, 1):
        words = (number >> 32, number & 0xFFFFFFFF, generation)
        yield handle(FILEID_INO64_GEN, *words)
        yield handle(FILEID_INO64_GEN_PARENT, *words, *words)


def may_search():
    """Whether this process has CAP_DAC_READ_SEARCH."""
    with open("/proc/self/status", encoding="utf-8") as status:
        effective = next(line.split()[1] for line in status if line.startswith("CapEff"))
    return bool(int(effective, 16) >> 2 & 1)


def by_handle(attempts, outside):
    libc = ctypes.CDLL(None, use_errno=True)

    def made(place):
        room = (ctypes.c_uint32 * 34)(128)
        mount = ctypes.c_int()
        answer = libc.name_to_handle_at(AT_FDCWD, place.encode(), room, ctypes.byref(mount), 0)
        if answer < 0:
            raise OSError(ctypes.get_errno(), place)
        return room

    def opened(at, one):
        descriptor = libc.open_by_handle_at(at, one, os.O_RDONLY)
        if descriptor < 0:
            raise OSError(ctypes.get_errno(), "open_by_handle_at")
        return descriptor

    capable = may_search()
    with_or_without = "with" if capable else "without"
    # docker blocks this system call.
    attempts.refused("a handle of the view", ["ENOTSUP", "EPERM"], made, STORE)
    numbers = [number for known in outside.values() for number in known]
    # Directories above the store paths, and nodes of the first registered paths.
    numbers += range(1, 65)
    numbers += [path << 24 | node for path in range(1, 257) for node in range(8)]
    # Profiles, and views with their paths.
    numbers += [1 << 52 | profile << 24 | node for profile in range(16) for node in range(4)]
    numbers += [1 << 61 | view << 40 | path << 24 for view in range(16) for path in range(64)]
    store = os.open(STORE, os.O_RDONLY)
    for number in numbers:
        for one in fuse_handles(number):
            attempts.refused(f"number {number:#x}", ["ESTALE"] if capable else ["EPERM"], opened, store, one)
    attempts.say(f"by file handles {with_or_without} CAP_DAC_READ_SEARCH")
    if not capable:
        return
    # Checks what the capability allows elsewhere.
    disk = os.open(__file__, os.O_RDONLY)
    try:
        own = made(__file__)
    except PermissionError:
        return
    os.close(opened(disk, own))
    print("the same call opens files of the disk that a bind is of, as it does without narfs")


def main():
    if sys.argv[1] == "known":
        known(sys.argv[2], sys.argv[3])
        return
    with open(sys.argv[2], encoding="utf-8") as text:
        paths = json.load(text)
    inside, outside = paths["inside"], paths["outside"]
    if not outside:
        raise SystemExit("the store has nothing outside of the view: nothing can be tried")
    os.chdir("/")
    attempts = Attempts()
    by_name(attempts, inside, outside)
    by_walking(attempts, inside)
    mount_line()
    by_handle(attempts, outside)
    if attempts.reached:
        raise SystemExit("REACHED:\n" + "\n".join(attempts.reached[:20]))


if __name__ == "__main__":
    main()
