"""Reading training data: images from files against features from the cache."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarking.made_cache import random_cache
from benchmarking.timing import clock_for
from context_i2w.data.batches import ListSource
from context_i2w.data.packed_strings import Strings
from context_i2w.data.pairs import ImagePairs, PairList
from context_i2w.distributed import Process
from context_i2w.model.clip import CLIPSizes
from context_i2w.model.images import Preparation

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def measure_loading(sizes: CLIPSizes, images: int, batch: int, workers: int) -> dict[str, Any]:
    """Images per second from JPEG files of 500 x 375 pixels and from the cache, both on this machine's disk."""
    rates = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = _pairs(folder, sizes, images)
        for count in sorted({0, workers}):
            rates[f"files, {count} workers"] = _rate(pairs, images, batch, count)[-1]
        for precision in ("fp16", "int8"):
            cache = random_cache(folder / precision, sizes, images, precision)
            first, rates[f"cache, {precision}"] = _rate(cache, images, batch, 0)
            rates[f"cache, {precision}, first reading"] = first
    return {"images": images, "batch": batch, "images per second": rates}


def _rate(rows, count: int, batch: int, workers: int) -> list[float]:
    source = ListSource(rows, count, batch, 0, Process(), workers)
    clock = time.perf_counter if workers else clock_for(torch.device("cpu"))
    rates = []
    for epoch in range(2):  # in the first the cache's checksums are compared
        started = clock()
        seen = sum(made.size for made in source.epoch(epoch))
        rates.append(seen / (clock() - started))
    return rates


def _pairs(folder: Path, sizes: CLIPSizes, count: int) -> ImagePairs:
    random = np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path in paths:
        pixels = random.integers(0, 256, (24, 32, 3), np.uint8)
        Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
    pairs = PairList(folder, Strings(map(str, paths)), Strings(["a <|replace|> in the park"] * count))
    preparation = Preparation(sizes.image_size, MEAN, STD)
    return ImagePairs(pairs, preparation, True, 0, sizes.context_length)
