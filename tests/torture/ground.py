"""Environment of the torture tests: a generated binary cache, a server that can be made unavailable, a state with a
mount, and the cleanup of everything at the end.

All of it is in a separate mount namespace (created by torture.sh), on the loopback interface, and below one directory.
"""

import hashlib
import http.server
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import threading
import time
import zlib

NIX = "/nix"
# Where to mount. The store that a Nix of this machine has is not in the way: nobody else sees the mount.
AT_NIX = [NIX, "-o", "nonempty"] if os.path.isdir(NIX) and os.listdir(NIX) else [NIX]
LETTERS = "0123456789abcdfghijklmnpqrsvwxyz"
# Duration in seconds from which an operation counts as hanging.
HANGS = 60.0


class Fault(Exception):
    """A failure of the test."""


# ---- A binary cache ----


def nix32(data):
    """A hash in the base-32 encoding of Nix."""
    number = int.from_bytes(data, "little")
    return "".join(LETTERS[number >> 5 * n & 31] for n in reversed(range((len(data) * 8 + 4) // 5)))


def text(data):
    return len(data).to_bytes(8, "little") + data + bytes(-len(data) % 8)


class Program(bytes):
    """Contents of an executable file."""


def nar(node):
    """The NAR of a tree: bytes are files, dicts are directories."""

    def parts(node):
        yield text(b"(")
        if isinstance(node, dict):
            yield text(b"type") + text(b"directory")
            for name, child in sorted(node.items()):
                yield text(b"entry") + text(b"(") + text(b"name") + text(name.encode()) + text(b"node")
                yield from parts(child)
                yield text(b")")
        else:
            yield text(b"type") + text(b"regular")
            if isinstance(node, Program):
                yield text(b"executable") + text(b"")
            yield text(b"contents") + text(node)
        yield text(b")")

    return text(b"nix-archive-1") + b"".join(parts(node))


class Cache:
    """A binary cache in a directory, without signatures."""

    def __init__(self, directory):
        self.directory = directory
        os.makedirs(f"{directory}/nar", exist_ok=True)
        with open(f"{directory}/nix-cache-info", "w") as info:
            info.write("StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n")

    def put(self, name, tree, references=()):
        """Adds a path; returns the base name of the store path."""
        hash_part, archive = nix32(hashlib.sha256(name.encode()).digest()[:20]), nar(tree)
        with open(f"{self.directory}/nar/{hash_part}.nar", "wb") as file:
            file.write(archive)
        with open(f"{self.directory}/{hash_part}.narinfo", "w") as info:
            info.write(
                f"StorePath: /nix/store/{hash_part}-{name}\nURL: nar/{hash_part}.nar\nCompression: none\n"
                f"NarHash: sha256:{nix32(hashlib.sha256(archive).digest())}\nNarSize: {len(archive)}\n"
                f"References: {' '.join(references)}\n"
            )
        return f"{hash_part}-{name}"


# ---- A server ----


class Server(multiprocessing.Process):
    """Serves binary caches. While it is unavailable it closes every connection."""

    def __init__(self, *directories):
        super().__init__(daemon=True)
        self.is_away = is_away = multiprocessing.Value("b")

        class Handler(http.server.SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def translate_path(self, path):
                found = (f"{d}/{path.lstrip('/')}" for d in directories)
                return next((f for f in found if os.path.isfile(f)), "/nonexistent")

            def do_GET(self):
                if is_away.value or ".." in self.path:
                    self.close_connection = True
                    return
                super().do_GET()

            def copyfile(self, source, out):
                while part := source.read(1 << 18):
                    if is_away.value:
                        self.close_connection = True
                        return
                    out.write(part)

        class Listener(http.server.ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 512

            def handle_error(self, *_):
                """Disconnecting clients are expected."""

        self.listener = Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.listener.server_port}"

    def run(self):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.listener.serve_forever()


# ---- A state and its mount ----


class Ground:
    """A state below `directory`, with a mount at /nix."""

    def __init__(self, program, directory):
        self.directory = directory
        remove(directory)
        os.makedirs(directory)
        self.state, self.program = f"{directory}/state", f"{directory}/narfs"
        shutil.copy2(program, self.program)
        self.environment = {"NARFS_STATE": self.state, "NARFS_CONFIG": "/dev/null", "PATH": os.environ["PATH"]}
        os.makedirs(NIX, exist_ok=True)

    def run(self, *words, timeout=HANGS):
        """Runs narfs; returns the result of subprocess."""
        words = [self.program, *map(str, words)]
        try:
            return subprocess.run(
                words, env=self.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(words, 124, "", f"did not end within {timeout:.0f} s")

    def narfs(self, *words, **options):
        """Runs narfs, which must succeed; returns its output."""
        ran = self.run(*words, **options)
        if ran.returncode:
            raise Fault(f"narfs {' '.join(map(str, words))}: status {ran.returncode}: {ran.stderr.strip()}")
        return ran.stdout

    def json(self, *words):
        return json.loads(self.narfs(*words, "--json"))

    def mount(self, url, *words):
        self.narfs("mount", *AT_NIX, "--from", url, *words)

    def status(self):
        """The status of the daemon; {} if none answers."""
        ran = self.run("status", "--json")
        return json.loads(ran.stdout) if ran.returncode == 0 else {}

    def blobs(self):
        """Number and size of the blob files."""
        sizes = [size for name, size in files_of(f"{self.state}/db") if name.endswith(".blob")]
        return len(sizes), sum(sizes)

    def disk(self):
        return sum(size for _, size in files_of(self.state))

    def log(self, lines=30):
        try:
            with open(f"{self.state}/narfs.log", errors="replace") as log:
                return "".join(log.readlines()[-lines:])
        except OSError:
            return ""

    def end(self):
        """Unmounts, and kills a daemon that is left."""
        pid = self.status().get("pid")
        if os.path.ismount(NIX):
            self.run("umount", NIX, timeout=20)
        with open("/proc/self/mountinfo") as mounts:
            places = [line.split()[4] for line in mounts]
        for place in reversed(places):
            if place == NIX or place.startswith((f"{NIX}/", f"{self.directory}/")):
                subprocess.run(["umount", "-l", place], capture_output=True)
        ends = time.monotonic() + 10
        while pid and os.path.exists(f"/proc/{pid}") and time.monotonic() < ends:
            time.sleep(0.05)
        if pid and os.path.exists(f"/proc/{pid}"):
            os.kill(pid, signal.SIGKILL)
        remove(self.directory)


def remove(directory):
    """Removes a directory, without what is mounted below it."""
    subprocess.run(["rm", "-rf", "--one-file-system", directory], check=False)


def files_of(directory):
    """Names and disk usage of files."""
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        yield from files_of(entry.path)
                    else:
                        yield entry.name, entry.stat(follow_symlinks=False).st_blocks * 512
                except FileNotFoundError:
                    pass
    except FileNotFoundError:
        pass


# ---- Programs ----


class LatePrograms:
    """Builds programs that read their own pages late (late.c), each with different noise."""

    MARK = b"CRC follows:"

    def __init__(self, directory, size=2 << 20):
        here = os.path.dirname(os.path.abspath(__file__))
        self.size = size
        self.first = random.Random(0).randbytes(size)
        with open(f"{directory}/noise.bin", "wb") as noise:
            noise.write(self.first)
        compiled = f"{directory}/late"
        subprocess.run(["cc", "-O2", "-static", "-o", compiled, f"{here}/late.c"], cwd=directory, check=True)
        with open(compiled, "rb") as file:
            self.binary = file.read()

    def make(self, seed):
        noise = random.Random(f"late {seed}").randbytes(self.size)
        mark = self.binary.index(self.MARK) + len(self.MARK)
        crc = zlib.crc32(noise).to_bytes(4, "little")
        binary = self.binary[:mark] + crc + self.binary[mark + 4 :]
        return Program(binary.replace(self.first, noise, 1))


class Repeating(threading.Thread):
    """Repeats work until it is stopped; failures are collected in `faults`."""

    def __init__(self, work, pause, seed=0):
        super().__init__(daemon=True)
        self.work, self.pause, self.rng = work, pause, random.Random(seed)
        self.stopping, self.faults, self.rounds = threading.Event(), [], 0

    def run(self):
        while not self.stopping.wait(self.rng.uniform(*self.pause)):
            try:
                self.work()
            except (Fault, OSError) as e:
                self.faults.append(str(e))
            self.rounds += 1

    def stop(self):
        self.stopping.set()
        self.join(HANGS * 2)
        if self.is_alive():
            self.faults.append("does not end")


def drop_caches():
    with open("/proc/sys/vm/drop_caches", "w") as caches:
        caches.write("1")
