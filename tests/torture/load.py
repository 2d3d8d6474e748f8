#!/usr/bin/env python3
"""load.py [OPTION]... NARFS DIRECTORY WORLD

Puts every kind of load on a mount whose budget is a third of its world: processes read, look up, list and start
programs, and compare the results with the store of Nix in WORLD; profiles, pins and closure views change; contents are
evicted, verified and collected; every --disturb seconds the daemon is killed or replaced by another build; every --away
seconds the source is unavailable for --gone seconds.

No byte may be wrong. Nothing may fail while the source is available, except for some seconds after it is back. While it
is unavailable only I/O errors are allowed, and none of pinned paths. The resource usage of the daemon is sampled; that of
the last quarter must be level with the second (within LEVEL). Samples are written to RESULTS.json and .csv. The exit
status is 1 if anything was wrong.
"""

import argparse
import collections
import csv
import errno
import glob
import hashlib
import json
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time

from ground import HANGS, NIX, Fault, Ground, Repeating, Server, drop_caches

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../services"))
from restarts import Load, Store, Wrong  # noqa: E402

# The activities of the processes.
PROCESSES = ["read", "read", "read", "read pinned", "list", "look", "start"]
# Time after the return of the source within which narfs queries it again, and pending waits end.
BACK = 15.0
# Errors of commands that were interrupted by the end of the daemon, and are retried.
AGAIN = ("broken off", "daemon", "Connection reset", "cannot reach", "refused")
SAMPLE = 5.0
# Duration in seconds below which the samples are only shown, not checked.
JUDGED = 600
# Upper limit of the duration of an operation while the source is available.
PATIENCE = 30.0
# Limit of the mean of the last quarter: that of the second times the factor, plus the constant.
LEVEL = {
    "resident_kib": (1.15, 16 << 10),
    "descriptors": (1.2, 16),
    "threads": (1.2, 8),
    "blob_files": (1.5, 8),
    "blob_bytes": (1.3, 16 << 20),
    "disk_bytes": (1.3, 32 << 20),
    "stored_bytes": (1.2, 4 << 20),
}


class Windows:
    """Periods of time, shared by all processes."""

    SIZE = 4096

    def __init__(self):
        self.times = multiprocessing.RawArray("d", self.SIZE)
        self.count = multiprocessing.RawValue("i", 0)

    def begin(self):
        self.times[2 * self.count.value] = time.monotonic()
        self.times[2 * self.count.value + 1] = float("inf")
        self.count.value += 1

    def end(self):
        self.times[2 * self.count.value - 1] = time.monotonic()

    def meets(self, since, until, after=0.0):
        windows = zip(self.times[0 : 2 * self.count.value : 2], self.times[1 : 2 * self.count.value : 2])
        return any(begin <= until and since <= end + after for begin, end in windows)


class Mixed(Load):
    """The activities of the processes; Load has the actions and the expected results."""

    def __init__(self, store, away, pinned):
        super().__init__(store)
        self.away, self.done = away, multiprocessing.RawArray("L", len(PROCESSES))
        self.pinned = [f for f in store.files if f.split("/")[3] in pinned]
        self.pinned_paths = pinned

    def read_pinned(self, rng):
        lists, self.lists = self.lists, [self.pinned]
        try:
            self.read(rng)
        finally:
            self.lists = lists

    def is_pinned(self, error):
        """Whether the failed file or program is pinned."""
        chosen = self.choice if isinstance(self.choice, str) else self.choice[0][0]
        place = getattr(error, "filename", None) or chosen
        return place.split("/")[3] in self.pinned_paths

    def go(self, number, pipe):
        """Runs one process until it is stopped."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        what, rng = PROCESSES[number], random.Random(number)
        seen = {"what": what, "faults": [], "excused": 0, "longest": {}, "done": 0}
        while not self.stop.is_set() and len(seen["faults"]) < 50:
            began, trouble, excuse, error = time.monotonic(), None, False, None
            try:
                getattr(self, what.replace(" ", "_"))(rng)
            except OSError as e:
                trouble, excuse, error = str(e), e.errno == errno.EIO, e
            except Wrong as e:
                # Programs report read errors in their own words.
                trouble, excuse, error = str(e), what == "start" and ": status " in str(e), e
            except subprocess.SubprocessError as e:
                trouble = str(e)
            ended = time.monotonic()
            is_away = self.away.meets(began, ended, BACK)
            if trouble and excuse and is_away and not self.is_pinned(error):
                seen["excused"] += 1
            elif trouble:
                seen["faults"].append(f"{what} {self.choice}: {trouble}" + (" (source away)" if is_away else ""))
            longest = (ended - began, str(self.choice))
            key = "source away" if is_away else "source there"
            seen["longest"][key] = max(seen["longest"].get(key, (0, "")), longest)
            seen["done"] += 1
            self.done[number] += 1
        seen["bytes"] = self.bytes
        pipe.send(seen)


class Chores:
    """The commands of users and timers, in turn."""

    def __init__(self, ground, paths, pinned, away, disturbed):
        self.ground, self.paths, self.away, self.disturbed = ground, paths, away, disturbed
        self.pinned = pinned
        self.rng, self.excused, self.again = random.Random(9), collections.Counter(), collections.Counter()
        self.longest, self.count, self.faults = {}, collections.Counter(), []
        self.turn = self.taken = 0

    def give(self, kind, *words, may_say=()):
        """Runs a command; one that is interrupted by a disturbance is retried."""
        for _ in range(4):
            began = time.monotonic()
            ran = self.ground.run(*words, timeout=HANGS * 2)
            ended = time.monotonic()
            is_away = self.away.meets(began, ended, BACK)
            key = (kind, "source away" if is_away else "source there")
            self.longest[key] = max(self.longest.get(key, 0), ended - began)
            self.count[kind] += 1
            if ran.returncode == 0 or any(text in ran.stderr for text in may_say):
                return ran.stdout
            if self.disturbed.meets(began, ended, 1.0) and any(text in ran.stderr for text in AGAIN):
                self.again[kind] += 1
                continue
            if is_away and ran.returncode == 1:
                self.excused[kind] += 1
                return None
            break
        self.faults.append(f"{kind}: narfs {' '.join(words)}: status {ran.returncode}: {ran.stderr.strip()[-300:]}")
        return None

    def change(self):
        """Runs a command of a user."""
        chores = [self.install, self.set, self.rollback, self.view, self.remove, self.pin, self.switch, self.look]
        chores += [self.delete_old]
        chores[self.turn % len(chores)]()
        self.turn += 1

    def take(self):
        """Runs a command that frees space."""
        chores = [self.gc, self.evict, self.gc, self.verify]
        chores[self.taken % len(chores)]()
        self.taken += 1

    def some(self):
        return self.rng.choice(self.paths)

    def generations(self):
        out = self.give("history", "profile", "-p", "t", "history", "--json", may_say=("no profile",))
        return json.loads(out) if out else []

    def install(self):
        self.give("install", "profile", "-p", "t", "install", self.some(), may_say=("conflict", "collision"))

    def set(self):
        self.give("set", "profile", "-p", "s", "set", self.some())

    def remove(self):
        listed = self.give("list", "profile", "-p", "t", "list", "--json", may_say=("no profile",))
        if listed and json.loads(listed):
            self.give("remove", "profile", "-p", "t", "remove", "0", may_say=("no package", "does not match"))

    def rollback(self):
        self.give("rollback", "profile", "-p", "t", "rollback", may_say=("no generation", "no profile"))

    def switch(self):
        if known := self.generations():
            number = str(self.rng.choice(known)["generation"])
            self.give("switch", "profile", "-p", "t", "switch", number, may_say=("no generation",))

    def delete_old(self):
        words = ["delete-generations", "old"]
        for profile in "ts":
            self.give("delete-generations", "profile", "-p", profile, *words, may_say=("no profile",))

    def gc(self):
        self.give("gc", "gc")

    def evict(self):
        self.give("evict", "evict", "--to", "5M", may_say=("in use",))

    def verify(self):
        out = self.give("verify", "verify", "--json")
        if out and json.loads(out)["failures"]:
            self.faults.append(f"verify: {json.loads(out)['failures'][:3]}")

    def pin(self):
        # Permanently pinned paths stay pinned.
        path = self.rng.choice([path for path in self.paths if path != self.pinned])
        # A large closure does not fit into the budget, which is reported.
        self.give("pin", "pin", path, may_say=("budget", "room"))
        self.give("pins", "pins")
        self.give("unpin", "unpin", path, may_say=("not pinned",))

    def view(self):
        name = f"v{self.rng.randrange(3)}"
        if self.give("closure", "closure", name, self.some()) is None:
            return
        try:
            for path in os.listdir(f"{NIX}/.narfs/closures/{name}/store"):
                os.lstat(f"{NIX}/.narfs/closures/{name}/store/{path}")
        except OSError as e:
            self.faults.append(f"view {name}: {e}")
        # An interrupted command may have taken effect, and is retried.
        self.give("closure --delete", "closure", "--delete", name, may_say=("no closure view",))

    def look(self):
        self.give("closures", "closures")
        self.give("roots", "roots")
        self.give("stats", "stats")


class Disturber:
    """Kills the daemon, or replaces it by another build."""

    def __init__(self, ground, disturbed):
        self.ground, self.disturbed, self.turn = ground, disturbed, 0
        self.longest, self.count = collections.Counter(), collections.Counter()

    def pid(self):
        ends = time.monotonic() + HANGS
        while time.monotonic() < ends:
            if pid := self.ground.status().get("pid"):
                return pid
            time.sleep(0.02)
        raise Fault("no daemon answers")

    def next(self):
        pid, began = self.pid(), time.monotonic()
        self.turn += 1
        kind = "upgrade" if self.turn % 2 == 0 else "kill"
        self.disturbed.begin()
        try:
            if kind == "kill":
                os.kill(pid, signal.SIGKILL)
            else:
                self.upgrade()
            while self.pid() == pid:
                if time.monotonic() - began > HANGS:
                    raise Fault(f"after {kind} process {pid} is still running")
        finally:
            self.disturbed.end()
        self.count[kind] += 1
        self.longest[kind] = max(self.longest[kind], time.monotonic() - began)

    def upgrade(self):
        program = self.ground.program
        with open(program, "rb") as file:
            build = file.read()
        with open(f"{program}.new", "wb") as file:
            file.write(build + b"build\n")
        os.chmod(f"{program}.new", 0o755)
        os.rename(f"{program}.new", program)
        self.ground.narfs("upgrade")


class Curves:
    """Samples of the resource usage of the daemon."""

    def __init__(self, ground):
        self.ground, self.rows, self.began = ground, [], time.monotonic()

    def sample(self):
        began, status = time.monotonic(), self.ground.status()
        pid = status.get("pid")
        try:
            with open(f"/proc/{pid}/status") as file:
                of = dict(line.split(":", 1) for line in file)
            row = {
                "seconds": round(began - self.began, 1),
                "resident_kib": int(of["VmRSS"].split()[0]),
                "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
                "threads": int(of["Threads"]),
            }
        except (OSError, KeyError):
            # Just killed.
            return
        row["blob_files"], row["blob_bytes"] = self.ground.blobs()
        row["disk_bytes"], row["stored_bytes"] = self.ground.disk(), status["stored_bytes"]
        self.rows.append(row)

    def mean(self, name, begin, end):
        rows = self.rows[int(len(self.rows) * begin) : max(int(len(self.rows) * end), 1)]
        return statistics.fmean(row[name] for row in rows) if rows else 0

    def table(self):
        yield f"  {'':14}{'start':>14}{'1st quarter':>14}{'2nd':>14}{'3rd':>14}{'4th':>14}{'most':>14}"
        for name in LEVEL:
            means = [self.mean(name, q / 4, (q + 1) / 4) for q in range(4)]
            cells = [self.rows[0][name], *means, max(row[name] for row in self.rows)]
            yield f"  {name:14}" + "".join(f"{cell:14,.0f}" for cell in cells)

    def faults(self):
        for name, (factor, more) in LEVEL.items():
            second, last = self.mean(name, 0.25, 0.5), self.mean(name, 0.75, 1)
            if last > second * factor + more:
                yield f"{name} is not level: {second:,.0f} in the second quarter, {last:,.0f} in the last one"

    def write(self, results):
        with open(f"{results}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, ["seconds", *LEVEL])
            writer.writeheader()
            writer.writerows(self.rows)


def away_now_and_then(server, away, given, stopping):
    while not stopping.wait(given.away - given.gone):
        away.begin()
        server.is_away.value = 1
        stopping.wait(given.gone)
        server.is_away.value = 0
        away.end()


def closure_of(ground, path):
    infos = ground.json("path-info", "--closure", path)
    return {info["path"].split("/")[3] for info in infos}


def narinfos(world):
    """By base name: the compressed size of a path, and its references."""
    infos = {}
    for name in glob.glob(f"{world}/cache/*.narinfo"):
        with open(name) as info:
            fields = dict(line.rstrip("\n").split(": ", 1) for line in info)
        infos[fields["StorePath"].split("/")[3]] = int(fields["FileSize"]), fields["References"].split()
    return infos


def few(world, budget):
    """Paths whose closures together take half of the budget, for generations and pins."""
    infos, chosen, kept = narinfos(world), [], set()

    def closure(path):
        found, queue = set(), [path]
        while queue:
            if (path := queue.pop()) not in found:
                found.add(path)
                queue += infos[path][1]
        return found

    def size(paths):
        return sum(infos[path][0] for path in paths)

    for path in sorted(infos, key=lambda path: (size(closure(path)), path)):
        if size(kept | closure(path)) > budget / 2:
            break
        chosen.append(path)
        kept |= closure(path)
    return chosen


def received(pipe):
    """The results of a process; None if they do not arrive in time."""
    try:
        return pipe.recv() if pipe.poll(HANGS) else None
    except EOFError:
        return None


def run(ground, server, given):
    with open(f"{given.world}/key.pub") as file:
        key = file.read().strip()
    store, budget = Store(given.world), sum(size for size, _ in narinfos(given.world).values()) // 3
    ground.mount(server.url, "--trusted-public-key", key, "-o", f"budget={budget},prefetch=none")
    away, disturbed = Windows(), Windows()
    hello = store.program("hello").split("/")[3]
    ground.narfs("pin", hello)
    load = Mixed(store, away, closure_of(ground, hello))
    chores = Chores(ground, few(given.world, budget), hello, away, disturbed)
    disturber, curves = Disturber(ground, disturbed), Curves(ground)
    pipes = []
    for number in range(len(PROCESSES)):
        ours, theirs = multiprocessing.Pipe(False)
        multiprocessing.Process(target=load.go, args=(number, theirs), daemon=True).start()
        theirs.close()
        pipes.append(ours)
    threads = [
        Repeating(chores.change, (0.2, 1.0), 1),
        Repeating(chores.take, (0.2, 2.0), 4),
        Repeating(drop_caches, (5, 15), 5),
        Repeating(disturber.next, (given.disturb * 0.9, given.disturb * 1.1), 2),
        Repeating(curves.sample, (given.sample, given.sample), 3),
    ]
    stopping = threading.Event()
    source = threading.Thread(target=away_now_and_then, args=(server, away, given, stopping), daemon=True)
    source.start()
    for thread in threads:
        thread.start()
    try:
        time.sleep(given.seconds)
    finally:
        stopping.set()
        load.stop.set()
        for thread in threads:
            thread.stop()
        source.join()
        seen = [received(pipe) for pipe in pipes]
    faults = [f for thread in threads for f in thread.faults] + chores.faults
    faults += [f"the process of {what!r} hangs, or failed" for what, s in zip(PROCESSES, seen) if s is None]
    seen = [s for s in seen if s]
    faults += [f for s in seen for f in s["faults"]]
    faults += end(ground, chores)
    faults += curves.faults() if given.seconds >= JUDGED else []
    waits = [(*s["longest"].get("source there", (0, "")), s["what"]) for s in seen]
    waits += [(longest, "", kind) for (kind, key), longest in chores.longest.items() if key == "source there"]
    faults += [f"{what} {choice} took {took:.1f} s" for took, choice, what in waits if took > PATIENCE]
    return seen, chores, disturber, curves, faults, budget


def end(ground, chores):
    """Checks that the contents are right, and that garbage is collected."""
    failures = ground.json("verify")["failures"]
    for profile in ground.json("profiles"):
        ground.narfs("profile", "delete", profile["profile"])
    for view in ground.json("closures"):
        ground.narfs("closure", "--delete", view["name"])
    for pin in ground.json("pins"):
        ground.narfs("unpin", pin["path"])
    for _ in range(3):
        ground.narfs("gc")
        time.sleep(1)
    stats, blobs = ground.json("stats"), ground.blobs()
    chores.left = {"paths": stats["paths"], "stored_bytes": stats["stored_bytes"], "blob_files": blobs[0],
                   "blob_bytes": blobs[1], "disk_bytes": ground.disk()}  # fmt: skip
    faults = [f"verify at the end: {f}" for f in failures]
    if stats["paths"] or stats["stored_bytes"] > 64 << 10 or blobs[1] > 1 << 20:
        faults.append(f"left after the end: {chores.left}; roots: {ground.narfs('roots').split()[:6]}")
    return faults


def table(seen, chores, disturber, curves, budget, took):
    yield f"load: {took:.0f} s, a budget of {budget / 1e6:.0f} MB, " + ", ".join(
        f"{kind} {n} (longest {disturber.longest[kind]:.1f} s)" for kind, n in disturber.count.items()
    )
    yield f"  {'':24}{'done':>10}{'excused':>9}{'longest, source there':>24}{'away':>9}"
    for s in seen:
        longest = [s["longest"].get(k, (0, ""))[0] for k in ("source there", "source away")]
        yield f"  {s['what']:24}{s['done']:10,}{s['excused']:9,}{longest[0]:22.2f} s{longest[1]:7.2f} s"
    for kind, count in sorted(chores.count.items()):
        longest = [chores.longest.get((kind, k), 0) for k in ("source there", "source away")]
        yield f"  {kind:24}{count:10,}{chores.excused[kind]:9,}{longest[0]:22.2f} s{longest[1]:7.2f} s"
    yield f"  retried after a disturbance: {sum(chores.again.values())}; left at the end: {chores.left}"
    yield from curves.table()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--disturb", type=float, default=40)
    parser.add_argument("--away", type=float, default=120)
    parser.add_argument("--gone", type=float, default=15)
    parser.add_argument("--sample", type=float, default=SAMPLE)
    parser.add_argument("--results", default="torture-load")
    parser.add_argument("narfs")
    parser.add_argument("directory")
    parser.add_argument("world")
    given = parser.parse_args()
    ground, server, began = Ground(given.narfs, given.directory), Server(f"{given.world}/cache"), time.monotonic()
    server.start()
    try:
        seen, chores, disturber, curves, faults, budget = run(ground, server, given)
        lines = list(table(seen, chores, disturber, curves, budget, time.monotonic() - began))
        curves.write(given.results)
        with open(f"{given.results}.json", "w") as file:
            json.dump({"processes": seen, "curves": curves.rows, "faults": faults, "left": chores.left}, file, indent=1)
        lines += [f"    {fault}" for fault in faults[:40]]
        lines.append(f"  {len(faults)} faults" if faults else "  no fault")
        print("\n".join(lines), flush=True)
        if faults:
            print(ground.log(), file=sys.stderr)
    finally:
        ground.end()
        server.terminate()
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
