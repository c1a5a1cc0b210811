"""A feature cache on disk of given features instead of a list's images."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from context_i2w.data.feature_cache import CachedImages, FeatureCache, ImageKey, caption_fields
from context_i2w.data.record_store import RecordStore
from context_i2w.model.clip import CLIPSizes, ImageFeatures

BATCH = 32


def make_cache(
    folder: Path,
    sizes: CLIPSizes,
    count: int,
    features: Callable[[list[int]], ImageFeatures],
    captions: Callable[[list[int]], tuple[Tensor, Tensor]],
    precision: str = "fp16",
) -> FeatureCache:
    """features, captions: from row numbers to image features, and to token ids [n, L] and conditions [n, E]."""
    key = ImageKey("", "", sizes.image_size, (), (), "", count, True, precision, 0, None)
    images = CachedImages(folder, None, key, None, sizes)
    texts = RecordStore(folder / "captions", count, caption_fields(sizes), {})
    images.store.fill(partial(_encoded, lambda rows: images.records(features(rows))), BATCH, "made-up images")
    texts.fill(partial(_encoded, lambda rows: _texts(*captions(rows))), BATCH, "made-up captions")
    images.store.open()
    return FeatureCache(None, images, texts.open(), None)


def random_cache(folder: Path, sizes: CLIPSizes, count: int, precision: str) -> FeatureCache:
    """Features of no images, for the speed of reading."""

    def features(rows: list[int]) -> ImageFeatures:
        tokens = torch.randn(len(rows), sizes.image_tokens, sizes.vision_width)
        return ImageFeatures(torch.randn(len(rows), sizes.embed_dim), tokens)

    def captions(rows: list[int]) -> tuple[Tensor, Tensor]:
        return torch.ones(len(rows), sizes.context_length).long(), torch.randn(len(rows), sizes.embed_dim)

    return make_cache(folder, sizes, count, features, captions, precision)


def _encoded(records: Callable, batches: list[list[int]]) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    return ((np.ones(len(rows), bool), records(rows)) for rows in batches)


def _texts(ids: Tensor, conditions: Tensor) -> dict[str, np.ndarray]:
    return {"condition_ids": ids.numpy(), "condition": conditions.cpu().numpy()}
