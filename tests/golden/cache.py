#!/usr/bin/env python3
"""cache.py DIRECTORY: makes the signed binary cache that the golden states are made of.

It needs python3 and openssl, and nothing of narfs. Everything in it is computed, the same whenever
it is made. What the tests use is cache.tar.zst, which was made once:

    tests/golden/cache.py /tmp/cache
    tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C /tmp -c cache |
        zstd -19 --ultra --long > tests/golden/cache.tar.zst
"""
import base64
import hashlib
import os
import struct
import subprocess
import sys
import tempfile

DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"
STORE = "/nix/store/"


def nix32(data):
    bits = len(data) * 8
    number = int.from_bytes(data, "little")
    return "".join(DIGITS[number >> at & 31] for at in reversed(range(0, bits, 5)))


def path_of(name, fingerprint):
    """The store path that belongs to a text, as Nix computes it."""
    digest = hashlib.sha256(fingerprint.encode()).digest()
    folded = bytearray(20)
    for at, byte in enumerate(digest):
        folded[at % 20] ^= byte
    return nix32(bytes(folded)) + "-" + name


def made_up(name, salt=""):
    return path_of(name, "golden:" + name + salt)


def noise(seed, length):
    return hashlib.shake_128(seed.encode()).digest(length)


def text(seed, length):
    lines = []
    size = 0
    while size < length:
        word = hashlib.sha256(f"{seed}{len(lines) // 4}".encode()).hexdigest()[:4]
        lines.append(f"line {len(lines):06} of {seed} says {word} and nothing else\n")
        size += len(lines[-1])
    return "".join(lines).encode()[:length]


def elf(reference):
    """A 64-bit ELF file with two large sections, a small one and one that has no bytes."""
    size, table = 150_000, 150_000 - 4 * 64
    sections = [(1, 4096, 40_000), (1, 50_000, 90_000), (3, 141_000, 1000), (8, 0, 1 << 30)]
    data = bytearray(text("library", size))
    data[60_000 : 60_000 + len(reference)] = reference
    data[:64] = bytes(64)
    data[:6] = b"\x7fELF\x02\x01"
    data[40:48] = struct.pack("<Q", table)
    data[58:62] = struct.pack("<HH", 64, len(sections))
    data[table:] = bytes(4 * 64)
    for n, (kind, offset, length) in enumerate(sections):
        at = table + 64 * n
        data[at + 4 : at + 8] = struct.pack("<I", kind)
        data[at + 24 : at + 40] = struct.pack("<QQ", offset, length)
    return bytes(data)


class Program(bytes):
    """The contents of an executable file."""


def words(*parts):
    out = b""
    for part in parts:
        out += struct.pack("<Q", len(part)) + part + bytes(-len(part) % 8)
    return out


def node(made):
    """A NAR of bytes (a file), str (a link) or dict (a directory)."""
    if isinstance(made, dict):
        out = words(b"(", b"type", b"directory")
        for name in sorted(made, key=str.encode):
            out += words(b"entry", b"(", b"name", name.encode(), b"node") + node(made[name]) + words(b")")
        return out + words(b")")
    if isinstance(made, str):
        return words(b"(", b"type", b"symlink", b"target", made.encode(), b")")
    executable = words(b"executable", b"") if isinstance(made, Program) else b""
    return words(b"(", b"type", b"regular") + executable + words(b"contents", made, b")")


def nar(made):
    return words(b"nix-archive-1") + node(made)


class Key:
    def __init__(self, name, seed):
        self.name = name
        self.file = tempfile.NamedTemporaryFile()
        self.file.write(bytes.fromhex("302e020100300506032b657004220420") + bytes([seed]) * 32)
        self.file.flush()

    def public(self):
        der = subprocess.check_output(
            ["openssl", "pkey", "-inform", "DER", "-in", self.file.name, "-pubout", "-outform", "DER"]
        )
        return self.name + ":" + base64.b64encode(der[-32:]).decode()

    def sign(self, message):
        with tempfile.NamedTemporaryFile() as file:
            file.write(message.encode())
            file.flush()
            signature = subprocess.check_output(
                ["openssl", "pkeyutl", "-sign", "-rawin", "-keyform", "DER", "-inkey", self.file.name, "-in", file.name]
            )
        return self.name + ":" + base64.b64encode(signature).decode()


class Cache:
    def __init__(self, directory):
        self.directory = directory
        self.keys = [Key("golden-1", 1), Key("golden-2", 2)]
        os.makedirs(os.path.join(directory, "nar"))
        self.write("nix-cache-info", b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n")
        self.write("key.pub", self.keys[0].public().encode() + b"\n")

    def write(self, name, data):
        with open(os.path.join(self.directory, name), "wb") as file:
            file.write(data)

    def put(self, path, made, references=(), deriver=True, ca=None, keys=1):
        archive = nar(made)
        digest = "sha256:" + nix32(hashlib.sha256(archive).digest())
        references = sorted(references)
        self.write(f"nar/{path[:32]}.nar", archive)
        info = f"StorePath: {STORE}{path}\nURL: nar/{path[:32]}.nar\nCompression: none\n"
        info += f"NarHash: {digest}\nNarSize: {len(archive)}\nReferences: {' '.join(references)}\n"
        if deriver:
            info += f"Deriver: {made_up(path[33:] + '.drv')}\n"
        full = ",".join(STORE + r for r in references)
        for key in self.keys[:keys]:
            info += f"Sig: {key.sign(f'1;{STORE}{path};{digest};{len(archive)};{full}')}\n"
        if ca:
            info += f"CA: {ca}\n"
        self.write(path[:32] + ".narinfo", info.encode())


def main(directory):
    cache = Cache(directory)
    base, leaf, app, joint = (made_up(n) for n in ("base-1.0", "leaf-1.0", "app-1.0", "joint-1.0"))
    tools = [made_up("tool-1.0"), made_up("tool-2.0")]
    twins = [made_up("twin-1.0", "a"), made_up("twin-1.0", "b")]
    pointer, spare, extra = (made_up(n) for n in ("pointer-1.0", "spare-1.0", "extra-1.0"))

    def names(path):
        return f"It is {STORE}{path}/bin/x.\n".encode()

    small = {f"{n:02}": (Program if n % 7 == 0 else bytes)(text(f"small {n}", 100 + 61 * n)) for n in range(40)}
    cache.put(base, {
        "lib": {"libbase.so.1": Program(elf(names(base))), "libbase.so": "libbase.so.1"},
        "share": {"empty": b"", "empty-directory": {}, "own": names(base), "small": small},
    }, [base], keys=2)
    data = noise("tool", 170_000)
    for tool, version, end in ((tools[0], b"1.0", b""), (tools[1], b"2.0", b"and a little more")):
        cache.put(tool, {
            "bin": {"tool": Program(b"#!/bin/sh\n# " + names(base) + names(tool)), "same-tool": "tool"},
            "lib": STORE + base + "/lib",
            "share": {"tool": {"data": data + end, "text": text("tool", 700_000) + names(tool), "version": version}},
        }, [base, tool])
    for twin in twins:
        cache.put(twin, {"share": {"twin": text("twin", 90_000), "empty": b""}})
    cache.put(joint, {"share": {"both": names(twins[1]) + names(twins[0])}}, twins)
    cache.put(leaf, {"share": {"leaf": text("leaf", 20_000)}})
    cache.put(app, {"bin": {"app": Program(names(leaf) + names(base))}}, [leaf, base])
    cache.put(pointer, STORE + base + "/share", [base], deriver=False)
    cache.put(spare, {"spare": text("spare", 80_000)})
    cache.put(extra, {"extra": text("tool", 300_000)}, [base])
    # From this it can be told what the root is without the NAR.
    cache.write(extra[:32] + ".ls", b'{"version":1,"root":{"type":"directory","entries":{}}}')

    # Content-addressed: a file as `builtins.toFile` makes it, and a tree as a source is.
    note = names(base) + text("note", 3000)
    digest = hashlib.sha256(note).digest()
    note_path = path_of("note-1.0", f"text:{STORE}{base}:sha256:{digest.hex()}:/nix/store:note-1.0")
    cache.put(note_path, note, [base], deriver=False, ca="text:sha256:" + nix32(digest), keys=0)
    fixed = {"fixed": Program(text("fixed", 5000)), "link": "fixed"}
    digest = hashlib.sha256(nar(fixed)).digest()
    fixed_path = path_of("fixed-1.0", f"source:sha256:{digest.hex()}:/nix/store:fixed-1.0")
    cache.put(fixed_path, fixed, deriver=False, ca="fixed:r:sha256:" + nix32(digest), keys=0)

    every = [base, *tools, *twins, joint, leaf, app, pointer, spare, extra, note_path, fixed_path]
    cache.write("store-paths", "".join(STORE + p + "\n" for p in every).encode())


main(sys.argv[1])
