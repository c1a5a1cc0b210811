"""Draws many scenes into PNG files with all processor cores; the bytes do not depend on how many."""

import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from context_i2w.files import write_text
from context_i2w.toy_world.drawing import SIZE, draw, draw_with_masks
from context_i2w.toy_world.scenes import Scene

_CHUNK = 64


class Drawing(NamedTuple):
    """A file to draw; with `masks` the pixels of each thing are wanted too."""

    path: str
    scene: Scene
    masks: bool = False


def write_json(path: Path, content: list | dict) -> None:
    write_text(path, json.dumps(content) + "\n")


def write_drawings(drawings: Iterable[Drawing], workers: int | None = None, title: str = "drawing") -> list:
    """Writes each file, in any order; returns what `Drawing.masks` asked for: lists of bool [S, S], or None."""
    drawings = list(drawings)
    for folder in {Path(drawing.path).parent for drawing in drawings}:
        folder.mkdir(parents=True, exist_ok=True)
    return list(parallel(_write, drawings, workers, title))


def draw_arrays(scenes: list[Scene], workers: int | None = None, title: str = "drawing") -> np.ndarray:
    """The pictures in memory, uint8 [count, S, S, 3]."""
    pictures = parallel(_pixels, scenes, workers, title)
    return np.fromiter(pictures, np.dtype((np.uint8, (SIZE, SIZE, 3))), len(scenes))


def parallel(function, items: list, workers: int | None, title: str) -> Iterator:
    """`map` over processes, in order, with a progress bar; workers: all cores that this process may use, if None."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(workers or cores, max(1, len(items) // _CHUNK))
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
