#!/usr/bin/env python3
"""reader.py STATE RECORDS: prints as JSON what is in a state, named as the program names it.

Written from docs/format.md alone, to show that a reader can be; it shares nothing with narfs. It takes
Python and the zstd program. The records of each family of the database are in the file of that name in
RECORDS: for each its key and its value, each after its length (4 bytes, little-endian).
"""

import base64
import hashlib
import json
import os
import struct
import subprocess
import sys


class Damaged(Exception):
    pass


def expect(condition, what):
    if not condition:
        raise Damaged(what)


# ---- BLAKE3, plain mode, 32 bytes ----

MASK = 0xFFFFFFFF
IV = [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19]
PERMUTATION = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
COLUMNS = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
DIAGONALS = [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]


def compress(chaining, block, counter, flags):
    m = list(struct.unpack("<16I", block.ljust(64, b"\0")))
    v = chaining + IV[:4] + [counter & MASK, counter >> 32, len(block), flags]
    for _ in range(7):
        for i, (a, b, c, d) in enumerate(COLUMNS + DIAGONALS):
            for word, first, second in ((m[2 * i], 16, 12), (m[2 * i + 1], 8, 7)):
                v[a] = (v[a] + v[b] + word) & MASK
                x = v[d] ^ v[a]
                v[d] = (x >> first | x << (32 - first)) & MASK
                v[c] = (v[c] + v[d]) & MASK
                x = v[b] ^ v[c]
                v[b] = (x >> second | x << (32 - second)) & MASK
        m = [m[p] for p in PERMUTATION]
    return [v[i] ^ v[i + 8] for i in range(8)]


def last_of_chunk(data, counter):
    """What the last compression of a chunk of at most 1024 bytes takes."""
    chaining, flags = IV, CHUNK_START
    while len(data) > 64:
        chaining = compress(chaining, data[:64], counter, flags)
        data, flags = data[64:], 0
    return chaining, data, counter, flags | CHUNK_END


def last_of_tree(data, counter):
    if len(data) <= 1024:
        return last_of_chunk(data, counter)
    left = 1024
    while left * 2 < len(data):
        left *= 2
    halves = (last_of_tree(data[:left], counter), last_of_tree(data[left:], counter + left // 1024))
    return IV, b"".join(struct.pack("<8I", *compress(*half)) for half in halves), 0, PARENT


def blake3(data):
    chaining, block, _, flags = last_of_tree(data, 0)
    return struct.pack("<8I", *compress(chaining, block, 0, flags | ROOT))


def chaining_value(data, offset):
    """That of a subtree which begins at an offset."""
    return struct.pack("<8I", *compress(*last_of_tree(data, offset // 1024)))


def merged(values):
    """The digest of what consists of subtrees with these chaining values, two or more."""
    def node(values, flags):
        if len(values) == 1:
            return values[0]
        left = 1
        while left * 2 < len(values):
            left *= 2
        block = node(values[:left], PARENT) + node(values[left:], PARENT)
        return struct.pack("<8I", *compress(IV, block, 0, flags))

    return node(values, PARENT | ROOT)


# ---- Fields ----


class Fields:
    def __init__(self, record):
        self.rest = record

    def take(self, length):
        expect(length <= len(self.rest), "a record ends early")
        taken, self.rest = self.rest[:length], self.rest[length:]
        return taken

    def integer(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def u8(self):
        return self.integer("B")

    def u32(self):
        return self.integer("I")

    def u64(self):
        return self.integer("Q")

    def i64(self):
        return self.integer("q")

    def number(self):
        value, shift = 0, 0
        while True:
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                expect(value < 1 << 64 and (byte or not shift), "a number has another form")
                return value
            shift += 7

    def bytes(self):
        return self.take(self.number())

    def string(self):
        return self.bytes().decode()

    def path(self):
        hash = nix32(self.take(20))
        return f"{hash}-{self.string()}"

    def list(self, read):
        return [read() for _ in range(self.number())]

    def to_end(self):
        return self.take(len(self.rest))

    def end(self):
        expect(not self.rest, "a record has bytes left over")

    def version(self, *known):
        version = self.u8()
        expect(version in known, f"version {version} of a record")
        return version


PART = 65536


def nix32(digest):
    alphabet = "0123456789abcdfghijklmnpqrsvwxyz"
    value = int.from_bytes(digest, "little")
    return "".join(alphabet[value >> 5 * i & 31] for i in reversed(range(len(digest) * 8 // 5)))


def unzstd(frame, length):
    out = subprocess.run(["zstd", "-dcq"], input=frame, stdout=subprocess.PIPE, check=True).stdout
    expect(len(out) == length, "a frame gives another length")
    return out


# ---- Trees ----

PLACEHOLDER = b"e" * 32
DIRECTORY, FILE, EXECUTABLE, LINK = range(4)


def masks(encoded, limit, references):
    """The masks of a list: offset and number of the reference."""
    fields, end, found = Fields(encoded), 0, []
    while fields.rest:
        offset = end + fields.number()
        end = offset + 32
        number = fields.number()
        expect(end <= limit and number < references, "a mask lies outside")
        found.append((offset, number))
    return found


def unmask(data, found, table):
    out = bytearray(data)
    for offset, number in found:
        expect(out[offset : offset + 32] == PLACEHOLDER, "a mask without a placeholder")
        out[offset : offset + 32] = table[number].encode()
    return bytes(out)


class Tree:
    def __init__(self, encoding):
        fields = Fields(encoding)
        expect(fields.take(8) == b"narfstre" and fields.u32() == 1, "no tree of version 1")
        nodes, chunks, self.references = fields.u32(), fields.u32(), fields.u32()
        names, targets, content_masks, target_masks = (fields.u32() for _ in range(4))
        self.nodes = [Fields(fields.take(24)) for _ in range(nodes)]
        self.chunks = [(fields.u32(), fields.take(32)) for _ in range(chunks)]
        self.names, self.targets = fields.take(names), fields.take(targets)
        length = sum(length for length, _ in self.chunks)
        self.content_masks = masks(fields.take(content_masks), length, self.references)
        self.target_masks = masks(fields.take(target_masks), targets, self.references)
        fields.end()
        self.nodes = [self.node(node) for node in self.nodes]

    def node(self, node):
        at, length, kind, target = node.u32(), node.u8(), node.u8(), node.integer("H")
        name = self.names[at : at + length]
        if kind == DIRECTORY:
            return name, kind, (node.u32(), node.u32(), node.u64())
        expect(kind in (FILE, EXECUTABLE, LINK), "a node of another kind")
        return name, kind, (node.u64(), node.u64(), target)

    def nar(self, stream, table):
        """The NAR, of the whole stream and the texts of the hashes of the references."""
        expect(len(table) == self.references, "the tree is for another number of references")
        stream = unmask(stream, self.content_masks, table)
        targets = unmask(self.targets, self.target_masks, table)
        out = []

        def write(*strings):
            for text in strings:
                out.append(struct.pack("<Q", len(text)) + text + bytes(-len(text) % 8))

        def write_node(index):
            _, kind, (first, second, third) = self.nodes[index]
            write(b"(", b"type")
            if kind == DIRECTORY:
                write(b"directory")
                children = range(first, first + second)
                names = [self.nodes[child][0] for child in children]
                expect(names == sorted(set(names)), "children out of order")
                subdirectories = sum(self.nodes[child][1] == DIRECTORY for child in children)
                expect(subdirectories == third, "another number of directories")
                for child, name in zip(children, names):
                    write(b"entry", b"(", b"name", name, b"node")
                    write_node(child)
                    write(b")")
            elif kind == LINK:
                write(b"symlink", b"target", targets[first : first + third])
            else:
                write(b"regular", *([b"executable", b""] if kind == EXECUTABLE else []))
                write(b"contents", stream[first : first + second])
            write(b")")

        write(b"nix-archive-1")
        write_node(0)
        return b"".join(out)


# ---- The state ----


class State:
    def __init__(self, directory, records):
        self.directory, self.records = directory, records
        with open(os.path.join(directory, "format"), encoding="utf-8") as file:
            first, second, *features = file.read().splitlines()
        self.format = int(first.removeprefix("narfs-state "))
        expect(self.format in (1, 2, 3, 4), f"format {self.format}")
        known = ["feature vouched", "feature frames"] if self.format == 4 else []
        expect(set(features) <= set(known), f"features {features}")
        self.has_frames = "feature frames" in features
        self.store_dir = second.removeprefix("store-dir ")
        self.chunks = dict(self.family("chunks"))
        self.digests = dict(self.family("digests"))
        self.trees = dict(self.family("trees"))
        self.verified = set()

    def family(self, name):
        """The records of a family, in the order of their keys; none where there is no such family."""
        file = os.path.join(self.records, name)
        if not os.path.exists(file):
            return
        with open(file, "rb") as file:
            fields = Fields(memoryview(file.read()))
        while fields.rest:
            key = bytes(fields.take(fields.u32()))
            yield key, bytes(fields.take(fields.u32()))

    def full(self, base_name):
        return f"{self.store_dir}/{base_name}"

    def chunk(self, number, length, digest):
        """The masked bytes of a chunk."""
        record = self.chunks[struct.pack(">Q", number)]
        fields = Fields(record)
        codec, filter, depth, parameters = (fields.u8() for _ in range(4))
        known = (0, 1, 2) if self.has_frames else (0, 1)
        expect(codec in known and not (filter or depth or parameters), "a chunk of another kind")
        expect(fields.u32() == length, "a chunk of another length")
        if codec == 2:
            data = self.frames(fields, length, digest)
        else:
            data = fields.to_end() if codec == 0 else unzstd(fields.to_end(), length)
        expect(len(data) == length, "a raw chunk of another length")
        if digest not in self.verified:
            expect(blake3(data) == digest, "a chunk of another digest")
            where = struct.pack("<QII", number, length, len(record))
            expect(self.digests[digest] == where, "a digest leads elsewhere")
            self.verified.add(digest)
        return data

    def frames(self, fields, length, digest):
        """The bytes of a chunk in frames, each of which verifies alone."""
        size, parts = fields.u8() * PART, range(0, length, PART)
        expect(length > PART and size > 0, "a chunk that needs no frames")
        lengths = [fields.u32() for _ in range(0, length, size)]
        values = [fields.take(32) for _ in parts]
        expect(merged(values) == digest, "chaining values of another digest")
        out = b""
        for stored, begin in zip(lengths, range(0, length, size)):
            frame, of_chunk = fields.take(stored), min(size, length - begin)
            frame = frame if stored == of_chunk else unzstd(frame, of_chunk)
            if digest not in self.verified:
                for at in range(0, of_chunk, PART):
                    value = chaining_value(frame[at : at + PART], begin + at)
                    expect(value == values[(begin + at) // PART], "a part of another chaining value")
            out += frame
        fields.end()
        return out

    def tree(self, digest):
        """A tree with the numbers of its chunks, `None` if they were dropped."""
        fields = Fields(self.trees[digest])
        expect(fields.u8() == 1, "a tree of another codec")
        length = fields.u32()
        numbers = [fields.u64() for _ in range(fields.u32())]
        encoding = unzstd(fields.to_end(), length)
        expect(blake3(encoding) == digest, "a tree of another digest")
        tree = Tree(encoding)
        if tree.chunks and not numbers:
            return tree, None
        expect(len(numbers) == len(tree.chunks), "a tree with some of its chunks")
        return tree, numbers

    def nar(self, digest, references):
        tree, numbers = self.tree(digest)
        if numbers is None:
            return None
        chunks = zip(numbers, tree.chunks)
        stream = b"".join(self.chunk(number, *chunk) for number, chunk in chunks)
        return tree.nar(stream, [reference[:32] for reference in references])

    def paths(self):
        ordinals = dict(self.family("ordinals"))
        uses = dict(self.family("uses"))
        for key, record in self.family("paths"):
            fields = Fields(record)
            version = fields.version(1, 2, 3)
            ordinal, nar_hash = fields.u32(), fields.take(32)
            nar_size, registered = fields.u64(), fields.u64()
            origin = fields.u8() if version > 1 else None
            vouched = fields.u8() if version == 3 else None
            expect(vouched in (None, 0, 1), "a path info that is vouched for in another way")
            contents = fields.u8()
            expect(contents in (0, 1, 2, 3, 255), "contents of another kind")
            digest = fields.take(32) if contents == 255 else None
            name = fields.string()
            deriver, ca = fields.string(), fields.string()
            signatures = fields.list(fields.string)
            references = fields.list(fields.path)
            fields.end()
            if origin is None:
                origin = int(bool(signatures) or digest is None)
            if vouched is None:
                vouched = origin == 0 or bool(ca) or bool(signatures)
            path = f"{nix32(key)}-{name}"
            ordinal = struct.pack(">I", ordinal)
            state, named = ordinals[ordinal][0], ordinals[ordinal][1:]
            expect(named == key + name.encode(), "an ordinal leads elsewhere")
            expect((state > 0) == (digest is not None), "an ordinal in another state")
            nar = self.nar(digest, references) if digest else None
            if nar is not None:
                expect(len(nar) == nar_size, f"{path} has another NarSize")
                expect(hashlib.sha256(nar).digest() == nar_hash, f"{path} has another NarHash")
            use = uses.get(ordinal)
            info = {
                "path": self.full(path),
                "narHash": "sha256-" + base64.b64encode(nar_hash).decode(),
                "narSize": nar_size,
                "references": sorted(self.full(r) for r in references),
                "deriver": self.full(deriver) if deriver else None,
                "signatures": signatures,
                "ca": ca or None,
                "registrationTime": registered,
            }
            if self.format == 4:
                info["unsigned"] = not vouched
            record = {
                "ordinal": struct.unpack(">I", ordinal)[0],
                "origin": ["added", "fetched"][origin],
                "tree": digest and digest.hex(),
                "used": use and Fields(use).u64(),
                "references": [self.full(r) for r in references],
            }
            yield info, record, nar and hashlib.sha256(nar).hexdigest()

    def pins(self):
        for key, record in self.family("roots"):
            if key[0] == 1:
                fields = Fields(record)
                since = fields.u64()
                yield {"path": self.full(f"{nix32(key[1:])}-{fields.to_end().decode()}"), "since": since}

    def profiles(self):
        for key, record in self.family("profiles"):
            if key[0] != 1:
                expect(key[0] == 2, "neither profile nor directory")
                continue
            fields = Fields(record)
            fields.version(1)
            fields.u32(), fields.u32(), fields.i64()
            is_set, current = fields.u8(), fields.u64()

            def generation():
                number, created = fields.u64(), fields.i64()
                fields.u32()
                path = self.full(fields.path())
                is_current = bool(is_set) and number == current
                return {"generation": number, "created": created, "path": path, "current": is_current}

            generations = fields.list(generation)
            fields.end()
            yield key[1:].decode(), generations

    def views(self):
        records = dict(self.family("views"))
        for key, record in records.items():
            if key[0] != 1:
                continue
            fields = Fields(record)
            fields.version(1)
            _, list = fields.u32(), fields.u32()
            created, changed = fields.i64(), fields.i64()
            roots, profiles = fields.list(fields.path), fields.list(fields.string)
            fields.end()
            members = Fields(records[struct.pack(">BI", 2, list)])
            members.version(1)
            places = members.list(lambda: (members.u8(), members.take(20)))
            members.end()
            yield {
                "name": key[1:].decode(),
                "roots": [self.full(root) for root in roots],
                "profiles": profiles,
                "paths": sum(is_shown for is_shown, _ in places),
                "created": created,
                "changed": changed,
            }

    def traces(self):
        for key, record in self.family("traces"):
            fields = Fields(record)
            paths = fields.list(fields.path)
            fields.end()
            yield key.decode(), [self.full(path) for path in paths]

    def channels(self):
        directory = os.path.join(self.directory, "channels")
        for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else []:
            with open(os.path.join(directory, name), encoding="utf-8") as file:
                magic, url, updated, paths, *listed = file.read().splitlines()
            expect(magic == "narfs-channel 1", "a channel of another version")
            paths = int(paths.removeprefix("paths "))
            expect(len(listed) == paths, "a channel with another number of paths")
            updated = int(updated.removeprefix("updated "))
            url = url.removeprefix("url ")
            is_there = updated > 0
            yield {
                "name": name,
                "url": url,
                "paths": paths if is_there else None,
                "updated": updated if is_there else None,
            }


def main():
    state = State(sys.argv[1], sys.argv[2])
    paths = sorted(state.paths(), key=lambda found: found[0]["path"])
    here = [found for found in paths if found[1]["tree"]]
    said = {
        "path-info": [info for info, _, _ in here],
        "nars": {info["path"]: nar for info, _, nar in here},
        "records": {info["path"]: record for info, record, _ in paths},
        "pins": list(state.pins()),
        "closures": list(state.views()),
        "channels": list(state.channels()),
    }
    for profile, generations in state.profiles():
        said[f"profile history {profile}"] = generations
    for trace, listed in state.traces():
        said[f"trace {trace}"] = listed
    json.dump(said, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
