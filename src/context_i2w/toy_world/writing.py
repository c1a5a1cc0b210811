"""Draws many scenes into PNG files with all processor cores; the bytes do not depend on how many."""

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from context_i2w.toy_world.drawing import SIZE, draw, draw_with_masks
from context_i2w.toy_world.scenes import Scene

_CHUNK = 64


class Drawing(NamedTuple):
    """A file to draw; with `masks` the pixels of each thing are wanted too."""

    path: str
    scene: Scene
    masks: bool = False


def processes() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_drawings(drawings: Iterable[Drawing], workers: int | None = None, title: str = "drawing") -> list:
    """Writes each file, in any order; returns what `Drawing.masks` asked for: lists of bool [S, S], or None."""
    drawings = list(drawings)
    for folder in {Path(drawing.path).parent for drawing in drawings}:
        folder.mkdir(parents=True, exist_ok=True)
    return list(parallel(_write, drawings, workers, title))


def draw_arrays(scenes: list[Scene], workers: int | None = None, title: str = "drawing") -> np.ndarray:
    """The pictures in memory, uint8 [count, S, S, 3]."""
    pixels = np.empty((len(scenes), SIZE, SIZE, 3), np.uint8)
    for number, picture in enumerate(parallel(_pixels, scenes, workers, title)):
        pixels[number] = picture
    return pixels


def parallel(function, items: list, workers: int | None, title: str) -> Iterator:
    """`map` over processes, in order, with a progress bar."""
    workers = min(workers or processes(), max(1, len(items) // _CHUNK))
    bar: dict[str, Any] = {"total": len(items), "desc": title, "unit": "img", "mininterval": 0.5, "leave": False}
    if workers == 1:
        yield from tqdm(map(function, items), **bar)
        return
    # The children run Pillow and NumPy only, for which a fork is safe and starts at once.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    with multiprocessing.get_context(method).Pool(workers) as pool:
        yield from tqdm(pool.imap(function, items, chunksize=_CHUNK), **bar)


def _write(drawing: Drawing) -> list[np.ndarray] | None:
    image, masks = draw_with_masks(drawing.scene)
    image.save(drawing.path, format="PNG", compress_level=4)
    return masks if drawing.masks else None


def _pixels(scene: Scene) -> np.ndarray:
    return np.asarray(draw(scene))
