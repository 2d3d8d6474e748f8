#!/usr/bin/env python3
"""programs.py [OPTION]... NARFS DIRECTORY

Starts programs from a mount while `narfs gc`, `narfs evict --to 0` and a small budget remove whatever they may from
the state. Each program reads its own pages late (late.c), and so is killed by a signal if one of them is gone. It runs

    store       from the store itself
    bind        from a bind of a whole store path in a separate mount namespace
    part        from a bind of a directory inside a path
    file        from a bind of the program alone
    view        chrooted, with a closure view as its store; the view is deleted while it runs
    script      as a script: the interpreter is elsewhere, and modules are imported late
    image       from a loop-mounted ext2 image in a store path

First with the source available (--programs), then in groups whose source becomes unavailable after their start
(--orphans). At the end, when none is running, a collection must leave nothing, and the space must have been freed. The
exit status is 1 if a program did not start, died, or read wrong bytes, or if something is left.
"""

import argparse
import concurrent.futures
import itertools
import os
import random
import subprocess
import sys
import threading
import time
import zlib

from ground import HANGS, NIX, Cache, Fault, Ground, LatePrograms, Program, Repeating, Server, drop_caches

KINDS = ["store", "bind", "part", "file", "view", "script", "image"]
# Paths of each kind: few enough that each is reused, many enough that most are garbage.
PATHS = 8
IMAGES = 3
# Number of concurrent programs.
AT_ONCE = 8
# Number of programs in a group whose source becomes unavailable, and for how many seconds.
GROUP, AWAY = 16, 4.0
# Range of the delay before a program reads its pages, in seconds.
LATE = (0.1, 2.5)
# Limits of the size of a state without paths: its own records and one log.
BYTES_LEFT, BLOBS_LEFT = 64 << 10, 1 << 20
# Number of collections at the end, since the kernel releases a loop device shortly after its last use.
COLLECTIONS = 5

SCRIPT = b'''import sys
print("up", flush=True)
sys.stdin.readline()
import zlib
for n in range(8):
    part = __import__(f"part{n}")
    if zlib.crc32(part.NOISE) != part.CRC:
        print("wrong bytes")
        sys.exit(3)
print("sum is right")
'''

# Each gets the path of the program, a separate directory, and further arguments.
IN_A_BIND = 'mount --bind "$1" "$2" && cd / && exec env -i "$3"'
IN_A_VIEW = 'mount --bind "$1" "$2/nix/store" && mount -t proc proc "$2/proc" && cd / && exec env -i "$(command -v chroot)" "$2" "$3"'
IN_AN_IMAGE = 'mount -t ext2 -o loop,ro "$1" "$2" && cd / && exec env -i "$2/late"'


def script_tree(seed):
    import zlib

    def part(n):
        noise = random.Random(f"part {seed} {n}").randbytes(200_000)
        return f"NOISE = bytes.fromhex('{noise.hex()}')\nCRC = {zlib.crc32(noise)}\n".encode()

    return {"bin": {"script": SCRIPT, **{f"part{n}.py": part(n) for n in range(8)}}}


def image_tree(directory, late, seed):
    tree, image = f"{directory}/image", f"{directory}/image.ext2"
    os.makedirs(tree, exist_ok=True)
    with open(f"{tree}/late", "wb") as file:
        file.write(late.make(f"image {seed}"))
    os.chmod(f"{tree}/late", 0o755)
    mebibytes = (late.size >> 20) + 3
    words = ["mke2fs", "-q", "-F", "-t", "ext2", "-d", tree, image, f"{mebibytes}M"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    with open(image, "rb") as file:
        tree = {"disk": file.read()}
    os.remove(image)
    return tree


def make_paths(cache, directory):
    """Store paths by kind."""
    late, paths = LatePrograms(directory), {}
    for kind in KINDS:
        paths[kind] = []
        for n in range(IMAGES if kind == "image" else PATHS):
            if kind == "script":
                tree = script_tree(n)
            elif kind == "image":
                tree = image_tree(directory, late, n)
            else:
                tree = {"bin": {"late": late.make(f"{kind} {n}"), "README": b"%d" % n}}
            paths[kind].append(cache.put(f"{kind}-{n}", tree))
    return paths


class Running:
    """One program."""

    numbers = itertools.count()

    def __init__(self, ground, kind, path):
        self.ground, self.kind, self.path, self.number = ground, kind, path, next(self.numbers)
        self.began, self.view, self.process, self.trouble = time.monotonic(), None, None, None
        self.place = f"{ground.directory}/places/{self.number}"
        try:
            words = getattr(self, f"as_{kind}")(f"{NIX}/store/{path}")
            self.process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={},
                cwd="/",
            )  # fmt: skip
        except (Fault, OSError) as e:
            self.trouble = f"not started: {e}"

    def as_store(self, at):
        return [f"{at}/bin/late"]

    def namespace(self, what, *words):
        os.makedirs(self.place, exist_ok=True)
        return ["/usr/bin/unshare", "-m", "/bin/sh", "-c", f"PATH=/usr/sbin:/usr/bin:/sbin:/bin; {what}", "sh", *words]

    def as_bind(self, at):
        return self.namespace(IN_A_BIND, at, self.place, f"{self.place}/bin/late")

    def as_part(self, at):
        return self.namespace(IN_A_BIND, f"{at}/bin", self.place, f"{self.place}/late")

    def as_file(self, at):
        words = self.namespace(IN_A_BIND, f"{at}/bin/late", f"{self.place}/it", f"{self.place}/it")
        with open(f"{self.place}/it", "w"):
            return words

    def as_view(self, at):
        name = f"torture-{self.number}"
        self.ground.narfs("closure", name, "--no-require-sigs", self.path)
        self.view = name
        words = self.namespace(
            IN_A_VIEW, f"{NIX}/.narfs/closures/{name}/store", self.place, f"/nix/store/{self.path}/bin/late"
        )
        os.makedirs(f"{self.place}/nix/store")
        os.makedirs(f"{self.place}/proc")
        return words

    def as_script(self, at):
        return [os.path.realpath(sys.executable), "-B", f"{at}/bin/script"]

    def as_image(self, at):
        return self.namespace(IN_AN_IMAGE, f"{at}/disk", self.place)

    def wait_until_up(self):
        """Whether it has started; its output is read in a thread, since a pipe has no timeout."""
        if not self.trouble:
            said = []
            reader = threading.Thread(target=lambda: said.append(self.process.stdout.readline()), daemon=True)
            reader.start()
            reader.join(HANGS)
            if said != ["up\n"]:
                self.trouble = self.end("not started" if said else "hangs before it has started", kill=True)
        return not self.trouble

    def go_on(self):
        """Makes it read its pages; returns the failure, or None."""
        if not self.trouble:
            self.trouble = self.end("died")
        self.clear()
        return self.trouble

    def end(self, what, kill=False):
        if kill:
            time.sleep(0.2)
            self.process.poll() is None and self.process.kill()
        try:
            out, err = self.process.communicate("go\n", timeout=HANGS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return "hangs"
        status = self.process.returncode
        if status == 0 and "sum is right" in out:
            return None
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return f"{what}: {how}: {(err or out).strip()[-300:]}"

    def delete_view(self):
        if self.view:
            name, self.view = self.view, None
            self.ground.narfs("closure", "--delete", name)

    def clear(self):
        try:
            self.delete_view()
        except Fault as e:
            self.trouble = self.trouble or str(e)
        subprocess.run(["rm", "-rf", "--one-file-system", self.place], check=False)


class Torture:
    def __init__(self, ground, paths, server, seed):
        self.ground, self.paths, self.server, self.rng = ground, paths, server, random.Random(seed)
        self.lock, self.rows = threading.Lock(), {kind: {} for kind in KINDS}

    def choose(self):
        with self.lock:
            kind = self.rng.choice(KINDS)
            return kind, self.rng.choice(self.paths[kind]), self.rng.uniform(*LATE), self.rng.random() < 0.5

    def note(self, kind, trouble, column):
        with self.lock:
            row = self.rows[kind]
            row[column] = row.get(column, 0) + 1
            if trouble:
                row["troubles"] = [*row.get("troubles", []), f"{column}: {trouble}"]

    def one(self, _):
        kind, path, late, deletes = self.choose()
        program = Running(self.ground, kind, path)
        if program.wait_until_up():
            if deletes:
                try:
                    program.delete_view()
                except Fault as e:
                    program.trouble = str(e)
            time.sleep(late)
        self.note(kind, program.go_on(), "source there")

    def group(self, size):
        """Runs programs whose source becomes unavailable after their start."""
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as threads:
            chosen = [self.choose()[:2] for _ in range(size)]
            programs = list(threads.map(lambda c: Running(self.ground, *c), chosen))
            list(threads.map(Running.wait_until_up, programs))
            self.server.is_away.value = 1
            try:
                time.sleep(AWAY)
                drop_caches()
                for program, trouble in zip(programs, threads.map(Running.go_on, programs)):
                    self.note(program.kind, trouble, "source gone")
            finally:
                self.server.is_away.value = 0

    def table(self):
        yield f"  {'':10}{'source there':>14}{'failed':>8}{'source gone':>14}{'failed':>8}"
        for kind, row in self.rows.items():
            failed = [sum(t.startswith(c) for t in row.get("troubles", [])) for c in ("source there", "source gone")]
            counts = [row.get(c, 0) for c in ("source there", "source gone")]
            yield f"  {kind:10}{counts[0]:14}{failed[0]:8}{counts[1]:14}{failed[1]:8}"
        for kind, row in self.rows.items():
            troubles = row.get("troubles", [])
            for trouble in troubles[:5]:
                yield f"    {kind}: {trouble}"
            if len(troubles) > 5:
                yield f"    {kind}: and {len(troubles) - 5} more"

    def faults(self):
        return sum(len(row.get("troubles", [])) for row in self.rows.values())


def evict(ground):
    ran = ground.run("evict", "--to", "0")
    # The metadata alone may exceed the size.
    if ran.returncode and "in use" not in ran.stderr:
        raise Fault(f"narfs evict: status {ran.returncode}: {ran.stderr.strip()}")


def what_is_left(ground, before):
    """What is left after all programs have ended, and lines for what should not be left."""
    left = {}
    for _ in range(COLLECTIONS):
        ground.narfs("gc")
        stats, blobs = ground.json("stats"), ground.blobs()
        left = {
            "paths": stats["paths"],
            "stored_bytes": stats["stored_bytes"] - before["stored_bytes"],
            "blob_files": blobs[0],
            "blob_bytes": blobs[1],
            "disk_bytes": ground.disk(),
        }
        is_clear = left["paths"] == 0 and left["stored_bytes"] <= BYTES_LEFT and left["blob_bytes"] <= BLOBS_LEFT
        if is_clear and not os.listdir(f"{NIX}/store"):
            return left, []
        time.sleep(1)
    lines = [f"left after {COLLECTIONS} collections: {left}", *ground.narfs("roots").splitlines()[:10]]
    return left, [*lines, *sorted(os.listdir(f"{NIX}/store"))[:10]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=500)
    parser.add_argument("--orphans", type=int, default=96, help="programs whose source goes away")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("narfs")
    parser.add_argument("directory")
    given = parser.parse_args()
    ground = Ground(given.narfs, given.directory)
    cache = Cache(f"{given.directory}/cache")
    paths = make_paths(cache, given.directory)
    server = Server(cache.directory)
    server.start()
    try:
        is_well = torture(ground, paths, server, given)
    finally:
        ground.end()
        server.terminate()
    sys.exit(0 if is_well else 1)


def torture(ground, paths, server, given):
    # A quarter of the size of one path of each kind: never enough.
    ground.mount(server.url, "--no-require-sigs", "-o", "budget=4M,prefetch=none")
    before, began = ground.json("stats"), time.monotonic()
    loops = {
        "gc": Repeating(lambda: ground.narfs("gc"), (0, 0.1), 1),
        "evict": Repeating(lambda: evict(ground), (0, 0.3), 2),
        "drop_caches": Repeating(drop_caches, (0.5, 1.5), 3),
    }
    work = Torture(ground, paths, server, given.seed)
    for loop in loops.values():
        loop.start()
    try:
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(work.one, range(given.programs)))
        for _ in range(0, given.orphans, GROUP):
            work.group(GROUP)
    finally:
        for loop in loops.values():
            loop.stop()
    took = time.monotonic() - began
    left, lines = what_is_left(ground, before)
    rounds = ", ".join(f"{name} {loop.rounds}" for name, loop in loops.items())
    print(f"programs: {took:.0f} s, rounds of {rounds}")
    print("\n".join(work.table()))
    print(f"  left: {', '.join(f'{name} {value:,}' for name, value in left.items())}")
    for name, loop in loops.items():
        lines += [f"{name}: {fault}" for fault in loop.faults[:5]]
    print("\n".join(f"    {line}" for line in lines), flush=True)
    is_well = not (work.faults() or lines)
    if not is_well:
        print(ground.log(), file=sys.stderr)
    return is_well


if __name__ == "__main__":
    main()
