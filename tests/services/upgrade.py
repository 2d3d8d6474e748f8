#!/usr/bin/env python3
"""upgrade.py [--seconds N] OLD NEW DIRECTORY WORLD [CASE]...

What programs in /nix notice when one version of narfs replaces another. OLD and NEW are directories with the programs
`narfs` and `mount-narfs`. In each CASE (by default all) a state is mounted at /nix with a signed binary cache of WORLD,
and processes read, list, look up and start programs. The results are compared with the store of Nix in WORLD, while:

  old-to-new       NEW takes over from OLD; then no process of OLD remains, not even the keeper
  new-to-old       OLD takes over from NEW
  there-and-back   NEW, OLD and NEW again
  keeper-killed    after each of these the keeper is killed
  crash            the daemon is killed while its keeper is of the other version
  clients          commands, mount.narfs and `narfs serve` of each version use a daemon of the other one
  service-to-new   NEW replaces OLD under a service manager that keeps descriptors
  service-to-old   OLD replaces NEW there

The serving program is determined by /proc/PID/exe. The exit status is 1 if anything was wrong.
"""

import argparse
import array
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../torture"))
from ground import AT_NIX, HANGS, NIX, Fault, Ground, Server  # noqa: E402
from restarts import PROCESSES, Load, Store  # noqa: E402


def wait_until(what, is_so):
    deadline = time.monotonic() + HANGS
    while not (found := is_so()):
        if time.monotonic() > deadline:
            raise Fault(f"timed out waiting until {what}")
        time.sleep(0.01)
    return found


class Version:
    """A version of the programs."""

    def __init__(self, directory):
        self.narfs, self.helper = f"{directory}/narfs", f"{directory}/mount-narfs"
        for program in (self.narfs, self.helper):
            if not os.access(program, os.X_OK):
                sys.exit(f"upgrade: there is no program {program}")
        self.file = self.of(self.narfs)

    @staticmethod
    def of(path):
        try:
            status = os.stat(path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def runs(self, pid):
        return self.of(f"/proc/{pid}/exe") == self.file


def parent(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rsplit(") ", 1)[1].split()[1])


class Case:
    """A state mounted at /nix, and the processes that use it."""

    def __init__(self, given, old, new, server, store, key):
        self.given, self.old, self.new, self.server, self.key = given, old, new, server, key
        self.ground = Ground(new.narfs, f"{given.directory}/state")
        self.load = Load(store)

    def narfs(self, version, *words):
        words = [version.narfs, *map(str, words)]
        ran = subprocess.run(words, env=self.ground.environment, capture_output=True, text=True, timeout=HANGS * 2)
        if ran.returncode:
            raise Fault(f"{' '.join(words)}: status {ran.returncode}: {ran.stderr.strip()}")
        return ran.stdout

    def sources(self):
        return ["--from", self.server.url, "--trusted-public-key", self.key]

    def mount(self, version):
        self.narfs(version, "mount", *AT_NIX, *self.sources())

    def status(self):
        return wait_until("a daemon answers", self.ground.status)

    def settled(self, version, keeper=None):
        """Waits until a daemon of `version` serves, with a keeper of the version `keeper`."""

        def is_so():
            pid = self.ground.status().get("pid")
            if not pid or not version.runs(pid):
                return None
            return pid if (keeper or version).runs(parent(pid)) else None

        return wait_until("the wanted versions serve", is_so)

    def upgrade(self, asks, to):
        self.narfs(asks, "upgrade", "--program", to.narfs)

    def begin(self):
        self.pipes = []
        for number in range(len(PROCESSES)):
            ours, theirs = multiprocessing.Pipe(False)
            multiprocessing.Process(target=self.load.repeat, args=(number, theirs), daemon=True).start()
            theirs.close()
            self.pipes.append(ours)

    def go_on(self):
        self.load.wait_for_all()
        time.sleep(self.given.seconds)
        self.load.wait_for_all()

    def end(self):
        self.load.stop.set()
        seen = [pipe.recv() for pipe in self.pipes if pipe.poll(HANGS)]
        if len(seen) < len(PROCESSES):
            raise Fault("a process of the load hangs, or failed")
        return seen

    # ---- Changes of version ----

    def old_to_new(self, kills=False):
        self.mount(self.old)
        self.begin()
        self.go_on()
        self.upgrade(self.new, self.new)
        self.settled(self.new)
        for process in processes_of(self.old):
            raise Fault(f"process {process} of the old program is still running")
        self.go_on()
        self.kill_keeper(kills, self.new)

    def new_to_old(self, kills=False):
        self.mount(self.new)
        self.begin()
        self.go_on()
        # The old version does not replace keepers of other versions.
        self.upgrade(self.old, self.old)
        self.settled(self.old, self.new)
        self.go_on()
        self.kill_keeper(kills, self.old)

    def there_and_back(self):
        self.old_to_new()
        self.upgrade(self.new, self.old)
        self.settled(self.old, self.new)
        self.go_on()
        self.upgrade(self.old, self.new)
        self.settled(self.new)
        self.go_on()

    def kill_keeper(self, wanted, version):
        if wanted:
            pid = self.status()["pid"]
            os.kill(parent(pid), signal.SIGKILL)
            wait_until("another daemon serves", lambda: self.ground.status().get("pid", pid) != pid)
            self.settled(version)
            self.go_on()

    def keeper_killed(self):
        self.old_to_new(kills=True)
        self.upgrade(self.new, self.old)
        self.settled(self.old, self.new)
        self.kill_keeper(True, self.old)

    def crash(self):
        self.new_to_old()
        for _ in range(3):
            pid = self.status()["pid"]
            os.kill(pid, signal.SIGKILL)
            wait_until("another daemon serves", lambda pid=pid: self.ground.status().get("pid", pid) != pid)
            self.go_on()
        self.settled(self.old, self.new)

    def clients(self):
        for serves, asks in ((self.old, self.new), (self.new, self.old)):
            self.mount(serves)
            if not self.load_runs():
                self.begin()
            self.go_on()
            self.ask(asks)
            self.go_on()
            if serves is self.old:
                self.upgrade(self.new, self.new)
                self.settled(self.new)
                self.ask(self.old)
                return

    def load_runs(self):
        return bool(getattr(self, "pipes", None))

    def ask(self, asks):
        """Makes every kind of request with a version other than that of the daemon."""
        path = os.listdir(f"{NIX}/store")[0]
        for words in (
            ["status"], ["status", "--json"], ["metrics"], ["path-info"], ["path-info", "--json", path],
            ["ls", path], ["pins"], ["pin", path], ["unpin", path], ["roots"], ["stats"], ["profiles"],
            ["profile", "-p", "t", "set", path], ["profile", "-p", "t", "history"], ["closure", "v", path],
            ["closures"], ["closure", "--delete", "v"], ["trace", "list"], ["evict", "--to", "1G"], ["gc", "--dry-run"],
            ["copy", *self.sources(), path], ["verify", path],
        ):  # fmt: skip
            self.narfs(asks, *words)
        for words in (["ls", "0" * 32], ["profile", "-p", "absent", "history"]):
            ran = subprocess.run([asks.narfs, *words], env=self.ground.environment, capture_output=True, text=True)
            if ran.returncode != 1 or not ran.stderr.startswith("narfs: ") or "{" in ran.stderr:
                raise Fault(f"narfs {' '.join(words)} says {ran.stderr!r}")
        self.ask_http(asks)
        self.ask_helper(asks)

    def ask_http(self, asks):
        words = [asks.narfs, "serve", "--listen", "127.0.0.1:0"]
        with subprocess.Popen(words, env=self.ground.environment, stdout=subprocess.PIPE, text=True) as serving:
            try:
                address = serving.stdout.readline().rsplit(" ", 1)[1].strip()
                for page in ("metrics", "status", "healthz"):
                    with urllib.request.urlopen(f"http://{address}/{page}", timeout=HANGS) as answer:
                        if answer.status != 200 or not answer.read():
                            raise Fault(f"narfs serve: {page}: {answer.status}")
            finally:
                serving.terminate()

    def ask_helper(self, asks):
        at = f"{self.given.directory}/second"
        os.makedirs(at, exist_ok=True)
        environment = {**self.ground.environment, "PATH": f"{os.path.dirname(asks.narfs)}:{os.environ['PATH']}"}
        words = [asks.helper, self.ground.state, at, "-o", "ro"]
        ran = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=HANGS)
        if ran.returncode or not os.path.ismount(at):
            raise Fault(f"mount.narfs: status {ran.returncode}: {ran.stderr}")
        self.narfs(asks, "umount", at)

    # ---- Under a service manager ----

    def service_to_new(self):
        self.service(self.old, self.new)

    def service_to_old(self):
        self.service(self.new, self.old)

    def service(self, first, second):
        manager = Manager(self)
        manager.start(first)
        self.begin()
        self.go_on()
        for version, how in ((second, signal.SIGTERM), (second, signal.SIGKILL), (first, signal.SIGTERM)):
            manager.end(how)
            manager.start(version)
            if not version.runs(self.status()["pid"]):
                raise Fault("another program serves")
            self.go_on()
        self.manager = manager


class Manager:
    """A service manager for one service, according to sd_notify(3) and sd_listen_fds(3)."""

    def __init__(self, case):
        self.case, self.kept, self.process = case, {}, None
        self.name = f"{case.given.directory}/notify"
        if os.path.exists(self.name):
            os.remove(self.name)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.name)

    def start(self, version):
        descriptors = list(self.kept.items())
        environment = {
            **self.case.ground.environment,
            "NOTIFY_SOCKET": self.name,
            "FDSTORE": "16",
            "LISTEN_FDS": str(len(descriptors)),
            "LISTEN_FDNAMES": ":".join(name for name, _ in descriptors),
        }

        def place():
            high = [os.dup(number) for _, number in descriptors]
            while any(number < 3 + len(high) for number in high):
                high = [os.dup(number) for number in high]
            for at, number in enumerate(high):
                os.dup2(number, 3 + at)

        words = [version.narfs, "mount", *AT_NIX, *self.case.sources(), "--foreground"]
        script = ["sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", *words]
        self.process = subprocess.Popen(script, env=environment, preexec_fn=place, close_fds=False)
        deadline = time.monotonic() + HANGS
        while "READY=1" not in self.hear(deadline):
            pass

    def hear(self, deadline):
        self.socket.settimeout(max(deadline - time.monotonic(), 0.01))
        text, ancillary, _, _ = self.socket.recvmsg(65536, socket.CMSG_SPACE(16))
        lines = text.decode().splitlines()
        name = next((line[7:] for line in lines if line.startswith("FDNAME=")), None)
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors = array.array("i")
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
                self.forget(name)
                self.kept[name] = descriptors[0]
        if "FDSTOREREMOVE=1" in lines:
            self.forget(name)
        return lines

    def forget(self, name):
        if name in self.kept:
            os.close(self.kept.pop(name))

    def end(self, how):
        self.process.send_signal(how)
        self.process.wait(HANGS)
        try:
            while True:
                self.hear(time.monotonic() + 0.05)
        except (TimeoutError, BlockingIOError):
            pass


def processes_of(version):
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and version.runs(pid)]


CASES = ["old-to-new", "new-to-old", "there-and-back", "keeper-killed", "crash", "clients", "service-to-new",
         "service-to-old"]  # fmt: skip


def go(name, given, versions, server, store, key):
    case = Case(given, *versions, server, store, key)
    faults, seen = [], []
    try:
        getattr(case, name.replace("-", "_"))()
    except (Fault, OSError, subprocess.SubprocessError, IndexError) as e:
        faults.append(f"{type(e).__name__}: {e}")
    try:
        if case.load_runs():
            seen = case.end()
    except Fault as e:
        faults.append(str(e))
    faults += [text for s in seen for text in [*s["wrong"], *(text for _, text in s["errors"])]]
    if not faults:
        try:
            failures = case.ground.json("verify")["failures"]
            faults += [f"verify: {f}" for f in failures]
        except Fault as e:
            faults.append(str(e))
    longest = max((ended - began for s in seen for began, ended, _ in s["long"]), default=0)
    done = sum(s["done"] for s in seen)
    print(f"  {name:16}{done:10,} done, longest wait {longest:6.2f} s, {len(faults)} faults", flush=True)
    for fault in faults[:10]:
        print(f"    {fault}")
    if faults:
        print(case.ground.log(), file=sys.stderr)
    case.ground.end()
    if manager := getattr(case, "manager", None):
        manager.process.kill()
    return not faults


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2)
    for name in ("old", "new", "directory", "world"):
        parser.add_argument(name)
    parser.add_argument("case", nargs="*")
    given = parser.parse_args()
    if unknown := set(given.case) - set(CASES):
        parser.error(f"unknown cases: {', '.join(unknown)}")
    shutil.rmtree(given.directory, ignore_errors=True)
    os.makedirs(given.directory)
    versions, store = (Version(given.old), Version(given.new)), Store(given.world)
    with open(f"{given.world}/key.pub") as file:
        key = file.read().strip()
    server = Server(f"{given.world}/cache")
    server.start()
    print(f"upgrade: {given.old} and {given.new}", flush=True)
    good = [go(name, given, versions, server, store, key) for name in given.case or CASES]
    server.terminate()
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
