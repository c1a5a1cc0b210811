"""Attribute manipulation in FashionIQ's format: three garments, the target differs in two named attributes."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np

from context_i2w.toy_world.scenes import Scene, Thing, other, pick, stream_key
from context_i2w.toy_world.sizes import Sizes
from context_i2w.toy_world.vocabulary import BACKGROUNDS, COLOURS, LENGTHS, PATTERNS, REAL
from context_i2w.toy_world.writing import Drawing, write_drawings, write_json

GARMENTS = {"dress": "dress", "shirt": "shirt", "toptee": "top"}  # the benchmark's name: the toy world's kind
_VALUES = {"colour": COLOURS, "pattern": PATTERNS, "length": LENGTHS}
_SAYINGS = {"colour": ("is {}", "is {}", "in {}", "{}"), "pattern": ("is {}", "{}"), "length": ("is {}", "{}")}


def write_fashioniq(root: Path, copy: str, seed: int, sizes: Sizes, workers: int | None = None) -> None:
    """Writes `fashion-iq/` under `root`: captions, image splits and images."""
    folder = root / "fashion-iq"
    drawings = []
    for number, (garment, kind) in enumerate(GARMENTS.items()):
        key = stream_key(seed, f"{copy}/fashion-iq/{garment}")
        rng = np.random.default_rng(key)
        gallery = _gallery(kind, key, rng, sizes.fashion_gallery)
        names = {scene: f"B{copy.upper()}{number}{index:05d}" for index, scene in enumerate(gallery)}
        entries = _queries(gallery, names, rng, sizes.fashion_queries)
        write_json(folder / "captions" / f"cap.{garment}.val.json", entries)
        write_json(folder / "image_splits" / f"split.{garment}.val.json", list(names.values()))
        drawings += [Drawing(str(folder / "images" / f"{name}.png"), scene) for scene, name in names.items()]
    write_drawings(drawings, workers, f"{copy}: FashionIQ")


def _gallery(kind: str, key: tuple[int, ...], rng: np.random.Generator, count: int) -> list[Scene]:
    """Garments of which no two agree in colour, pattern, length and background."""
    every = list(itertools.product(COLOURS, PATTERNS, LENGTHS, BACKGROUNDS))
    chosen = [every[i] for i in rng.permutation(len(every))[:count]]
    return [Scene((Thing(kind, *looks),), place, REAL, (*key, n)) for n, (*looks, place) in enumerate(chosen)]


def _queries(gallery: list[Scene], names: dict[Scene, str], rng: np.random.Generator, count: int) -> list[dict]:
    """References in random order, each with a target that the gallery holds."""
    holders = {(scene.things[0], scene.background): scene for scene in gallery}
    entries: list[dict] = []
    while len(entries) < count:
        reference = gallery[int(rng.integers(len(gallery)))]
        changed = [list(_VALUES)[i] for i in rng.permutation(3)[:2]]
        thing = reference.things[0]
        values = {name: other(rng, _VALUES[name], getattr(thing, name)) for name in changed}
        target = holders.get((replace(thing, **values), reference.background))
        if target is None:
            continue
        captions = [pick(rng, _SAYINGS[name]).format(values[name]) for name in changed]
        entries.append({"target": names[target], "candidate": names[reference], "captions": captions})
    return entries
