#!/usr/bin/python3
"""restarts.py [--seconds N] WORLD RESULTS WAY...: what programs in /nix notice of its daemon.

restarts.sh runs this in a separate system, where systemd is process 1 and narfs is installed. For each
WAY of running a daemon (fstab, mount-unit, service, keeper) /nix is mounted from an empty state, with a signed
binary cache of WORLD behind a slow server. Four processes then read, list, look up and start programs in it
continuously, while the daemon is killed, restarted, replaced and stopped. Everything that they see is compared
with the store that Nix itself created in WORLD. Results are also written to the file RESULTS; the exit status
is 1 if anything was wrong.
"""

import argparse
import hashlib
import http.server
import json
import multiprocessing
import multiprocessing.sharedctypes
import os
import random
import re
import shutil
import signal
import stat
import statistics
import subprocess
import sys
import time

NIX = "/nix"
STATE = "/var/lib/narfs"
NARFS = "/usr/local/bin/narfs"
EXAMPLES = "/usr/local/share/doc/narfs/examples"
UNITS = "/etc/systemd/system"
# The program of another version, if there is one.
OTHER_VERSION = "/usr/local/lib/narfs-tests/other-version"
# Waits from here on are noted one by one, in seconds.
LONG = 0.03
# Durations from which a wait is reported by name, and from which it is a failure even on a busy machine with a fetch.
NAMED, PATIENCE = 2.0, 10.0
# Duration from which an operation counts as hanging.
HANGS = 60.0
# The activities of the processes.
PROCESSES = ["read", "list", "look", "start"]
# Number of pieces in which a NAR is sent, and the pause before each.
PIECES, PAUSE = 8, 0.01
# Time for which a service is stopped.
STOPPED = 0.3


class Wrong(Exception):
    """The contents of /nix differ from the store of Nix."""


def command(*words, may_fail=False, **options):
    ran = subprocess.run(words, capture_output=True, text=True, timeout=HANGS, **options)
    if ran.returncode and not may_fail:
        raise Wrong(f"{' '.join(words)}: status {ran.returncode}: {ran.stderr.strip()}")
    return ran


def wait_until(what, is_so):
    deadline = time.monotonic() + HANGS
    while not (found := is_so()):
        if time.monotonic() > deadline:
            raise Wrong(f"timed out waiting until {what}")
        time.sleep(0.005)
    return found


class Store:
    """The store of Nix: by path, the expected results of lstat, read, readlink and listdir."""

    def __init__(self, world):
        self.files, self.links, self.directories = {}, {}, {}
        root = f"{world}/root"
        with open(f"{world}/paths") as paths:
            for path in paths.read().split():
                self.take(root, path)
        self.programs = list(self.find_programs())

    def take(self, root, path):
        status = os.lstat(root + path)
        if stat.S_ISLNK(status.st_mode):
            self.links[path] = os.readlink(root + path)
        elif stat.S_ISDIR(status.st_mode):
            names = self.directories[path] = sorted(os.listdir(root + path))
            for name in names:
                self.take(root, f"{path}/{name}")
        else:
            with open(root + path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
            self.files[path] = (status.st_mode, status.st_size, digest)

    def program(self, pattern):
        return next(f for f in self.files if re.fullmatch(rf"/nix/store/[^/]*/bin/{pattern}", f))

    def find_programs(self):
        """Command lines with their expected output."""
        yield [self.program("hello")], "Hello, world!\n"
        yield [self.program("bash"), "-c", "echo $((6*7))"], "42\n"
        python = self.program(r"python3\.\d+")
        yield [python, "-c", "import json, decimal; print(json.dumps([str(decimal.Decimal(6) * 7)]))"], '["42"]\n'
        file = max(self.files, key=lambda f: self.files[f][1])
        yield [self.program("sha256sum"), file], f"{self.files[file][2].hex()}  {file}\n"


class Load:
    """The four processes: what each does repeatedly, and its results."""

    def __init__(self, store):
        self.store = store
        self.lists = [list(d) for d in (store.files, store.links, store.directories)]
        self.stop = multiprocessing.Event()
        self.done = multiprocessing.sharedctypes.RawArray("L", len(PROCESSES))
        self.bytes, self.choice = 0, None

    def choose(self, rng, choices):
        """Chooses the next object, and records it for reports."""
        self.choice = rng.choice(choices)
        return self.choice

    def wait_for_all(self):
        """Waits until each process has made progress, since an operation longer than the pauses would never finish."""
        before = list(self.done)
        wait_until("the load goes on", lambda: all(now > then for now, then in zip(self.done, before)))

    def read(self, rng):
        path = self.choose(rng, self.lists[0])
        digest, anew = hashlib.sha256(), rng.random() < 0.5
        file = os.open(path, os.O_RDONLY)
        try:
            if anew:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            while part := os.read(file, 1 << 17):
                digest.update(part)
                self.bytes += len(part)
        finally:
            os.close(file)
        if digest.digest() != self.store.files[path][2]:
            raise Wrong(f"{path} has other bytes")

    def list(self, rng):
        path = self.choose(rng, self.lists[2])
        with os.scandir(path) as entries:
            found = {e.name: e.stat(follow_symlinks=False) for e in entries}
        if sorted(found) != self.store.directories[path]:
            raise Wrong(f"{path} lists {sorted(found)}")
        for name, status in found.items():
            self.check(f"{path}/{name}", status)

    def look(self, rng):
        kind = rng.randrange(5)
        if kind < 3:
            path = self.choose(rng, self.lists[kind])
            self.check(path, os.lstat(path))
            if kind == 1 and os.readlink(path) != self.store.links[path]:
                raise Wrong(f"{path} has another target")
            return
        path = f"{self.choose(rng, self.lists[2])}/no-such-name"
        if kind == 4 and rng.random() < 0.2:
            # This causes a query to every source.
            name = "".join(rng.choices("0123456789abcdfghijklmnpqrsvwxyz", k=32))
            path = f"/nix/store/{name}-absent"
        try:
            os.lstat(path)
        except FileNotFoundError:
            return
        raise Wrong(f"{path} exists")

    def start(self, rng):
        words, expected = self.choose(rng, self.store.programs)
        ran = command(*words)
        if ran.stdout != expected:
            raise Wrong(f"{words} printed {ran.stdout!r}")

    def check(self, path, status):
        store, mode = self.store, status.st_mode
        if path in store.files:
            is_so = (mode, status.st_size) == store.files[path][:2]
        elif path in store.links:
            is_so = stat.S_ISLNK(mode) and status.st_size == len(os.fsencode(store.links[path]))
        else:
            is_so = stat.S_ISDIR(mode) and path in store.directories
        if not is_so or status.st_mtime != 1 or status.st_uid != 0:
            raise Wrong(f"{path} is shown as {status}")

    def repeat(self, number, pipe):
        """One of the processes."""
        rng, what = random.Random(number), PROCESSES[number]
        seen = {"what": what, "errors": [], "wrong": [], "long": []}
        while not self.stop.is_set() and len(seen["errors"] + seen["wrong"]) < 20:
            began = time.monotonic()
            try:
                getattr(self, what)(rng)
            except Wrong as e:
                seen["wrong"].append(str(e))
            except (OSError, subprocess.SubprocessError) as e:
                seen["errors"].append((time.monotonic(), f"{what}: {e}"))
            ended = time.monotonic()
            self.done[number] += 1
            if ended - began > LONG:
                seen["long"].append((began, ended, f"{what} {self.choice}"))
        seen.update(bytes=self.bytes, done=self.done[number])
        pipe.send(seen)


def unsettle(rng):
    """Occasionally drops contents and the kernel's caches, so that not everything is local and cached."""
    if rng.random() < 0.05:
        with open("/proc/sys/vm/drop_caches", "w") as caches:
            caches.write("3")
    if rng.random() < 0.3:
        ran = command(NARFS, "evict", "--to", "20M", may_fail=True)
        # Some caches may be dropped.
        if ran.returncode and "in use" not in ran.stderr:
            raise Wrong(f"narfs evict: {ran.stderr.strip()}")


class Server(multiprocessing.Process):
    """Serves a binary cache, with slow NARs."""

    def __init__(self, cache):
        super().__init__(daemon=True)
        self.sending = sending = multiprocessing.Value("i")

        class Handler(http.server.SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def __init__(self, *given):
                super().__init__(*given, directory=cache)

            def log_message(self, *_):
                pass

            def copyfile(self, source, out):
                if "/nar/" not in self.path:
                    return super().copyfile(source, out)
                size = os.fstat(source.fileno()).st_size
                with sending:
                    sending.value += 1
                try:
                    while part := source.read(size // PIECES + 1):
                        time.sleep(PAUSE)
                        out.write(part)
                except OSError:
                    # The client is gone.
                    self.close_connection = True
                finally:
                    with sending:
                        sending.value -= 1

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def run(self):
        # Disconnecting clients are expected.
        self.server.handle_error = lambda *_: None
        self.server.serve_forever()


def program_sizes():
    """The sizes of the programs of all processes; a program's file may be deleted."""
    sizes = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            sizes.add(os.stat(f"/proc/{pid}/exe").st_size)
        except OSError:
            # A thread of the kernel, or it has ended.
            pass
    return sizes


class Daemon:
    """A daemon, with the disturbances; each of them waits until the next daemon answers."""

    kinds = ["kill", "kill twice", "upgrade"]

    def __init__(self):
        if os.path.exists(OTHER_VERSION):
            self.kinds = [*self.kinds, "other version and back"]
        self.original = f"{NARFS}.original"
        self.builds = 0
        if not os.path.exists(self.original):
            shutil.copy2(NARFS, self.original)

    def status(self):
        ran = command(NARFS, "status", "--json", may_fail=True)
        return json.loads(ran.stdout) if ran.returncode == 0 else {}

    def pid(self):
        return wait_until("a daemon answers", lambda: self.status().get("pid"))

    def next_after(self, pid):
        return wait_until("the next daemon answers", lambda: self.status().get("pid", pid) != pid)

    def new_build(self):
        """Replaces the program by another build, with extra bytes at its end."""
        self.builds += 1
        build = f"{NARFS}.build"
        shutil.copy2(self.original, build)
        with open(build, "ab") as file:
            file.write(b"build %d\n" % self.builds)
        self.put(build)

    def check_build(self):
        serving = os.stat(f"/proc/{self.pid()}/exe")
        if serving.st_size != os.stat(self.original).st_size + len(b"build %d\n" % self.builds):
            raise Wrong("the daemon is not the new build")

    def kill(self):
        pid = self.pid()
        os.kill(pid, signal.SIGKILL)
        self.next_after(pid)

    def kill_twice(self):
        pid = self.pid()
        os.kill(pid, signal.SIGKILL)
        # At a random point of its start.
        again = wait_until("another process starts", lambda: self.process_after(pid))
        time.sleep(random.random() * 0.1)
        try:
            os.kill(again, signal.SIGKILL)
        except ProcessLookupError:
            raise Wrong("the next daemon ended by itself") from None
        self.next_after(again)

    def upgrade(self):
        self.new_build()
        command(NARFS, "upgrade")
        self.check_build()

    def put(self, program):
        """Puts a program into the place of narfs."""
        new = f"{NARFS}.new"
        shutil.copy2(program, new)
        os.rename(new, NARFS)

    def exchange(self):
        """Has the program that is in its place go on."""
        command(NARFS, "upgrade")

    def other_version_and_back(self):
        """Another version goes on, and then this one again; what serves is judged by the files of the processes."""
        for version in (OTHER_VERSION, None):
            if version:
                self.put(version)
            else:
                self.new_build()
            self.exchange()
            if version and os.stat(f"/proc/{self.pid()}/exe").st_size != os.stat(version).st_size:
                raise Wrong("the other version was to go on")
        self.check_build()
        size = os.stat(OTHER_VERSION).st_size
        wait_until("no process is of the other version", lambda: size not in program_sizes())

    def log(self):
        with open(f"{STATE}/narfs.log") as log:
            return log.read()


class Service(Daemon):
    kinds = [*Daemon.kinds, "restart", "new program and restart", "stop and start"]
    unit = "narfs-daemon.service"

    def __init__(self, files):
        super().__init__()
        self.files = files

    def systemctl(self, *words, **options):
        return command("systemctl", *words, **options).stdout.strip()

    def begin(self):
        for target, text in self.files.items():
            with open(target, "w") as file:
                file.write(text)
        self.systemctl("daemon-reload")
        self.enable()

    def process_after(self, pid):
        now = int(self.systemctl("show", "--property=MainPID", "--value", self.unit))
        return now if now != pid else 0

    def restart(self):
        pid = self.pid()
        self.systemctl("restart", self.unit)
        if self.pid() == pid:
            raise Wrong("the process is the same after a restart")

    def exchange(self):
        self.restart()

    def new_program_and_restart(self):
        self.new_build()
        self.restart()
        self.check_build()

    def stop_and_start(self):
        self.systemctl("stop", self.unit)
        time.sleep(STOPPED)
        self.systemctl("start", self.unit)

    def enable(self):
        self.systemctl("enable", self.unit)
        self.systemctl("start", "remote-fs.target", "nix.mount")

    def end(self):
        # Right after a crash: systemd starts the daemon only after the unmount.
        os.kill(self.pid(), signal.SIGKILL)
        began = time.monotonic()
        self.systemctl("stop", *(u for u in ("nix.automount", "nix.mount") if self.is_active(u)))
        if time.monotonic() - began > PATIENCE:
            raise Wrong(f"after a crash it takes {time.monotonic() - began:.1f} s to unmount")
        self.clear()

    def clear(self):
        self.systemctl("disable", "--now", self.unit)
        for target in self.files:
            os.remove(target)
        self.systemctl("daemon-reload")

    def is_active(self, unit):
        return command("systemctl", "is-active", unit, may_fail=True).returncode == 0

    def log(self):
        return command("journalctl", "--no-pager", "-n", "60", "-u", self.unit, "-u", "nix.mount").stdout


class MountUnit(Service):
    """nix.automount, triggered by the first access, and nix.mount."""

    def enable(self):
        self.systemctl("enable", self.unit)
        self.systemctl("enable", "--now", "nix.automount")
        os.listdir(f"{NIX}/store")

    def end(self):
        self.systemctl("disable", "nix.automount")
        super().end()


class OwnService(Service):
    unit = "narfs.service"

    def enable(self):
        self.systemctl("enable", "--now", self.unit)

    def end(self):
        command(NARFS, "umount", NIX)
        wait_until("the service has ended", lambda: not self.is_active(self.unit))
        self.clear()


class Keeper(Daemon):
    kinds = [*Daemon.kinds, "kill of the keeper"]

    def begin(self):
        command(NARFS, "mount", NIX, stdin=subprocess.DEVNULL)

    def keeper_of(self, pid):
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(") ")[2].split()[1])

    def process_after(self, pid):
        keeper = self.keeper
        with open(f"/proc/{keeper}/task/{keeper}/children") as file:
            return next((int(p) for p in file.read().split() if int(p) != pid), 0)

    def kill_twice(self):
        self.keeper = self.keeper_of(self.pid())
        super().kill_twice()

    def kill_of_the_keeper(self):
        pid = self.pid()
        os.kill(self.keeper_of(pid), signal.SIGKILL)
        self.next_after(pid)

    def end(self):
        pid = self.pid()
        command(NARFS, "umount", NIX)
        wait_until("the daemon has ended", lambda: not os.path.exists(f"/proc/{pid}"))


def example(name):
    with open(f"{EXAMPLES}/{name}") as file:
        return file.read()


WAYS = {
    "fstab": lambda: Service({"/etc/fstab": example("fstab")}),
    "mount-unit": lambda: MountUnit({f"{UNITS}/{u}": example(u) for u in ("nix.mount", "nix.automount")}),
    "service": lambda: OwnService({}),
    "keeper": Keeper,
}


def disturb(daemon, load, server, seconds):
    """Applies all disturbances in random order, each kind equally often. Returns when each took place, and whether
    NARs were in flight at its beginning."""
    done, rng, ends = [], random.Random(1), time.monotonic() + seconds
    while time.monotonic() < ends:
        for kind in rng.sample(daemon.kinds, len(daemon.kinds)):
            load.wait_for_all()
            unsettle(rng)
            time.sleep(rng.uniform(0, 0.3))
            sending, began = server.sending.value, time.monotonic()
            getattr(daemon, kind.replace(" ", "_"))()
            done.append((kind, began, time.monotonic(), sending))
    return done


def minute(daemon, store, server, seconds):
    """The results of one way."""
    load, pipes = Load(store), []
    for number in range(len(PROCESSES)):
        ours, theirs = multiprocessing.Pipe(False)
        process = multiprocessing.Process(target=load.repeat, args=(number, theirs), daemon=True)
        process.start()
        pipes.append(ours)
    try:
        done = disturb(daemon, load, server, seconds)
    finally:
        load.stop.set()
        seen = [pipe.recv() for pipe in pipes if pipe.poll(HANGS)]
    return {
        "disturbances": longest_waits(done, seen),
        "kinds": {s["what"]: s["done"] for s in seen},
        "operations": sum(s["done"] for s in seen),
        "bytes": sum(s["bytes"] for s in seen),
        "errors": [f"{met(done, when)}: {text}" for s in seen for when, text in s["errors"]],
        "wrong": sum((s["wrong"] for s in seen), []),
        "hanging": len(pipes) - len(seen),
    }


def met(done, when):
    """The disturbance at a moment."""
    return next((f"{when - since:.3f} s after {kind}" for kind, since, until, _ in done if since < when < until), "?")


def longest_waits(done, seen):
    """By kind: the count, and the longest wait of operations that overlapped with it; also the longest wait of all
    others."""
    waits = [wait for s in seen for wait in s["long"]]
    rounds, named = {}, set()
    for kind, since, until, sending in done:
        during = [(ended - began, what) for began, ended, what in waits if began < until and since < ended]
        named.update(during)
        rounds.setdefault(kind, []).append((*max(during, default=(0, "")), sending))
    rows = {kind: row(each) for kind, each in rounds.items()}
    return {**rows, "none of these": row([(*max({(e - b, what) for b, e, what in waits} - named, default=(0, "")), 0)])}


def row(rounds):
    longest, what, _ = max(rounds)
    return {
        "rounds": len(rounds),
        "while_fetching": sum(sending > 0 for _, _, sending in rounds),
        "median_ms": round(statistics.median(took for took, _, _ in rounds) * 1000),
        "longest_ms": round(longest * 1000),
        "longest": what,
    }


def table(way, figures):
    kinds = ", ".join(f"{what} {done:,}" for what, done in figures["kinds"].items())
    yield f"{way}: {figures['operations']:,} operations ({kinds}), {figures['bytes'] / 1e6:,.0f} MB read"
    yield f"  {'':26}{'rounds':>8}{'in a fetch':>12}{'wait: median':>14}{'longest':>10}"
    for kind, of in figures["disturbances"].items():
        yield f"  {kind:26}{of['rounds']:8}{of['while_fetching']:12}{of['median_ms']:11} ms{of['longest_ms']:7} ms"
        if of["longest_ms"] > NAMED * 1000:
            yield f"    {of['longest']}"
    yield f"  errors {len(figures['errors'])}, wrong {len(figures['wrong'])}, hanging {figures['hanging']}"
    for text in figures["errors"] + figures["wrong"]:
        yield f"  {text}"


def go(way, store, server, seconds):
    """Runs one way, from an empty state. Returns whether it succeeded."""
    shutil.rmtree(STATE, ignore_errors=True)
    daemon = WAYS[way]()
    try:
        daemon.begin()
        figures = minute(daemon, store, server, seconds)
        if failures := json.loads(command(NARFS, "verify", "--json").stdout)["failures"]:
            figures["wrong"].append(f"narfs verify: {failures}")
        daemon.end()
        if os.path.ismount(NIX):
            raise Wrong(f"{NIX} is still mounted")
    except Exception:
        print(daemon.log(), file=sys.stderr)
        raise
    print("\n".join(table(way, figures)), flush=True)
    waits = max(of["longest_ms"] for of in figures["disturbances"].values())
    is_well = not (figures["errors"] or figures["wrong"] or figures["hanging"]) and waits <= PATIENCE * 1000
    if not is_well:
        print(daemon.log(), file=sys.stderr)
    return figures, is_well


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("world")
    parser.add_argument("results")
    parser.add_argument("ways", nargs="*", choices=[*WAYS, []])
    given = parser.parse_args()
    store, server = Store(given.world), Server(f"{given.world}/cache")
    server.start()
    os.makedirs("/etc/narfs", exist_ok=True)
    with open(f"{given.world}/key.pub") as key, open("/etc/narfs/config.toml", "w") as config:
        config.write(f'from = ["{server.url}"]\ntrusted-public-keys = ["{key.read().strip()}"]\n')
    os.makedirs(NIX, exist_ok=True)
    results = {way: go(way, store, server, given.seconds) for way in given.ways or WAYS}
    with open(given.results, "w") as file:
        json.dump({way: figures for way, (figures, _) in results.items()}, file, indent=1)
    server.terminate()
    sys.exit(0 if all(is_well for _, is_well in results.values()) else 1)


if __name__ == "__main__":
    main()
