"""Made-up training pairs for tests: coloured JPEGs in folders with a list, or in WebDataset shards."""

import colorsys
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

CAPTIONS = ("a <|replace|> on sand", "red <|replace|>", "<|replace|>", "<|replace|> in the snow")


def jpeg(number: int, size: tuple[int, int] = (40, 32)) -> bytes:
    """A plain picture whose colour is its number's."""
    colour = tuple(int(255 * part) for part in colorsys.hsv_to_rgb(number * 0.381966 % 1, 0.8, 0.9))
    return encoded(Image.new("RGB", size, colour), "JPEG")


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def sample(number: int) -> dict[str, bytes]:
    """Members of a sample by ending, masked caption in the JSON."""
    fields = {"caption": "a thing", "masked_title": f"{CAPTIONS[number % len(CAPTIONS)]} {number}"}
    return {"jpg": jpeg(number), "txt": b"a thing", "json": json.dumps(fields).encode()}


def write_shard(path: Path, samples: Sequence[Mapping[str, bytes]], first: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number, members in enumerate(samples, first):
            for ending, content in members.items():
                header = tarfile.TarInfo(f"{number:09d}.{ending}")
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
    return path


def write_shards(folder: Path, counts: Sequence[int]) -> str:
    """Shards of so many samples, numbered through, with img2dataset's stats; returns the brace pattern."""
    first = 0
    for shard, count in enumerate(counts):
        path = write_shard(folder / f"{shard:05d}.tar", [sample(first + i) for i in range(count)], first)
        (path.parent / f"{shard:05d}_stats.json").write_text(json.dumps({"count": count + 3, "successes": count}))
        first += count
    return f"{folder}/{{00000..{len(counts) - 1:05d}}}.tar"


def write_list(folder: Path, count: int) -> Path:
    """A list of so many pairs and its images."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = ["filepath\ttitle\tmasked_title"]
    for number in range(count):
        (folder / "images" / f"{number}.jpg").write_bytes(jpeg(number))
        lines.append(f"images/{number}.jpg\ta thing\t{CAPTIONS[number % len(CAPTIONS)]} {number}")
    path = folder / "pairs.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def ten_faults(number: int) -> tuple[dict[str, bytes], str | None]:
    """A sample with the fault `number % 10`, and the kind it is counted as; None if it can be read all the same."""
    good = sample(number)
    with_json = lambda caption: {**good, "json": caption}  # noqa: E731
    frames = [Image.new("P", (40, 32), colour) for colour in (1, 2)]
    faults = [
        ({**good, "jpg": jpeg(number, (160, 128))[:-100]}, "truncated image"),
        ({**good, "jpg": b""}, "not an image that can be decoded"),
        ({**good, "jpg": png_bomb()}, "image over the pixel bound"),
        ({**good, "jpg": encoded(Image.new("CMYK", (40, 32), (10, 200, 30, 0)), "JPEG")}, None),
        ({**good, "jpg": encoded(Image.new("P", (40, 32), 3), "PNG")}, None),
        ({**good, "jpg": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])}, None),
        ({"png": good["jpg"], "json": good["json"]}, None),
        (with_json(b'{"masked_title": "a'), "JSON can't be read"),
        (with_json(b'{"masked_title": "caf\xe9 <|replace|>"}'), "caption is not UTF-8"),
        (with_json(b'{"masked_title": " "}'), "empty caption"),
    ]
    return faults[number % 10]


def png_bomb() -> bytes:
    """A small file that claims 20,000 x 20,000 pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(20_000 // 8 + 1) * 20)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def write_tiny_clip(path: Path) -> Path:
    """Random weights of the toy CLIP's sizes, whose word table is whole: for `--model toy --pretrained FILE`."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    from context_i2w.model.clip_weights import TOY_FOLDER

    torch.manual_seed(0)
    open_clip.add_model_config(TOY_FOLDER / "toy_clip.json")
    state = open_clip.create_model("toy_clip", pretrained=None).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path
