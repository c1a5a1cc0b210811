"""Broken variants of good files, drawn from a `random.Random`."""

import copy
import io
import json
import os
import random
import struct
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

ODD = [
    None, True, -1, 0, 10**30, 1e308, float("nan"), float("inf"), "", "\0", "\ud800", "../../etc/passwd", "a" * 5000,
    [], {}, [[]], [1, 2], {"a": 1}, "\U0001f642", "[*]", "<|replace|>", "<|endoftext|>", -5.5, " ", "\ufeff", "a\nb",
    "/etc/passwd", "n" * 300, 2**63,
]  # fmt: skip
WHOLE = [b"", b"null", b'"text"', b"1", b"[]", b"{}", b"[null]", b"NaN", b'{"a": [1]}', bytes(100), b"[" * 200_000]


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths of a tree's nodes, the root left out; of a list the first few."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:6]) if isinstance(value, list) else ()
    return [at for key, inner in items for at in [(*path, key), *places(inner, (*path, key))]]


def odd_tree(value: Any, rng: random.Random, odd: list = ODD) -> Any:
    """A tree with one or a few nodes replaced, dropped or doubled, in place."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        if not (found := places(value)):
            return copy.deepcopy(rng.choice(odd))
        *way, last = rng.choice(found)
        holder = value
        for step in way:
            holder = holder[step]
        kind = rng.random()
        if kind < 0.65:
            holder[last] = copy.deepcopy(rng.choice(odd))  # or a later case would find it changed, a list within itself
        elif kind < 0.85 or isinstance(holder, dict):
            del holder[last]
        else:
            holder.insert(last, holder[last])
    return value


def odd_bytes(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    made = [
        data[:place], flipped(data, rng), b"\xef\xbb\xbf" + data, data.decode("utf-8", "replace").encode("utf-16"),
        data[:place] + rng.randbytes(20) + data[place:], rng.randbytes(3000), data.replace(b"\n", b"\r\n") + data,
        data[:place] + b"\0" + data[place:], data.replace(b"e", b"\xff\xfe", 3), data + b"\n" + data[len(data) // 2 :],
        rng.choice(WHOLE),
    ]  # fmt: skip
    return rng.choice(made)


def odd_table(data: bytes, rng: random.Random, separator: str) -> bytes:
    """A table with cells replaced, dropped, quoted, made long."""
    lines = data.decode().split("\n")
    for _ in range(rng.choice([1, 2, 5])):
        row = rng.randrange(len(lines))
        cells = lines[row].split(separator)
        cell = rng.randrange(len(cells))
        made = [str(rng.choice(ODD)), '"' + cells[cell], "x" * 200_000, "1e400;-1;nan;5", "0;0;1000000000;1000000000"]
        cells[cell : cell + 1] = rng.choice([[one] for one in made] + [[], [cells[cell], "more"], cells * 3])
        lines[row] = separator.join(cells)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def odd_json(data: bytes, rng: random.Random) -> bytes:
    return odd_bytes(data, rng) if rng.random() < 0.25 else json.dumps(odd_tree(json.loads(data), rng)).encode()


def flipped(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice([1, 20]) if out else 0):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def damage(path: Path, rng: random.Random) -> str:
    """Cuts, flips, overwrites or removes a file; says which."""
    kind = rng.choice(["cut", "flip", "flip", "flip", "zeros", "empty", "removed", "longer"])
    data = path.read_bytes()
    place = rng.randrange(len(data) + 1)
    made = {"cut": data[:place], "flip": flipped(data, rng), "empty": b"", "longer": data + b"\1" * 1000}
    made["zeros"] = data[:place] + bytes(len(data[place : place + 4096])) + data[place + 4096 :]
    if kind == "removed":
        path.unlink()
    else:
        path.write_bytes(made[kind])
    return kind


def odd_image(path: Path, rng: random.Random) -> str:
    """Puts a broken or odd picture there; says which."""
    path.unlink(missing_ok=True)
    noise = Image.frombytes("RGB", (48, 48), rng.randbytes(48 * 48 * 3))
    png, jpeg = _saved(noise, "PNG"), _saved(noise, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + rng.randbytes(60))
    itxt = b"a\0\1\0\0\0" + zlib.compress(b"a" * 80_000_000, 9)
    contents = {
        "truncated": jpeg[: rng.randrange(20, 900)], "empty": b"", "text": b"<html>404</html>", "exif": jpeg,
        "flipped": flipped(png, rng), "bomb": _png(30_000, (b"IDAT", b"x" * 50)), "huge": _png(2**31 - 1),
        "strip": _saved(Image.new("RGB", (1, 100_000)), "PNG"), "cmyk": _saved(noise.convert("CMYK"), "JPEG"),
        "16 bits": _saved(Image.new("I;16", (48, 48), 900), "PNG"), "one bit": _saved(Image.new("1", (1, 1)), "PNG"),
        "nan": _saved(Image.new("F", (48, 48), float("nan")), "TIFF"), "la": _saved(noise.convert("LA"), "PNG"),
        "text bomb": _png(4, (b"iTXt", itxt), (b"IDAT", zlib.compress(bytes(20)))),
    }  # fmt: skip
    special = {"directory": path.mkdir, "loop": lambda: path.symlink_to(path.name), "fifo": lambda: os.mkfifo(path)}
    kind = rng.choice([*contents, *special])
    if kind in special:
        special[kind]()
    else:
        path.write_bytes(contents[kind])
    return kind


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _png(side: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )
