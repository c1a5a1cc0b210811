"""One batch of training pairs: what it holds, and how a reading process makes it of encoded ones."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from context_i2w.data.augmentation import TrainPreparation
from context_i2w.data.broken import BrokenPair
from context_i2w.data.reading import batched
from context_i2w.data.room import RoomShape
from context_i2w.model.clip import ImageFeatures
from context_i2w.model.prompts import Tokenizer, mark_placeholders

T = TypeVar("T")
OPENED = 32  # pairs that a process has opened at a time


class Batch(NamedTuple):
    """Training pairs of one step; images as pixels, or their features from a cache.

    images, features: what the mapper sees. targets, target_embeddings: what the composed text is to match; None where
    that is the same image, as published.
    """

    condition_ids: Tensor  # [B, L] token ids of the masked captions
    images: Tensor | None = None  # [B, 3, H, W], bytes
    features: ImageFeatures | None = None
    condition: Tensor | None = None  # [B, E]
    broken: tuple[tuple[str, str], ...] = ()  # (name, kind of fault) of the pairs left out
    targets: Tensor | None = None  # [B, 3, H, W], bytes
    target_embeddings: Tensor | None = None  # [B, E]
    caption_ids: Tensor | None = None  # [B, L] token ids of the captions themselves, for training that reads no image
    scale: Tensor | None = None  # [B, N], of tokens kept as whole numbers: the unit of each, applied on the device

    @property
    def size(self) -> int:
        """B."""
        return len(self.condition_ids)


class Encoded(NamedTuple):
    """A pair before its image is decoded, as TrainPreparation takes it. caption: the masked one."""

    name: str
    content: bytes | None
    caption: str
    drawn: str


def make_batch(
    encoded: Callable[[T], Encoded],
    rows: Iterable[T],
    prepare: TrainPreparation,
    tokenizer: Tokenizer,
    place: np.ndarray,
) -> Batch:
    """A batch of some rows in a place of `room_for`; its images are None if all its pairs are broken.

    encoded: the pair of a row; raises BrokenPair. Some pairs are opened, then decoded: one by one, each work would
    find its code and data pushed out of the processor's cache by the other.
    """
    captions: list[str] = []
    broken: list[tuple[str, str]] = []
    for some in batched(rows, OPENED):
        pairs = [_opened(encoded, row) for row in some]
        draws = iter(prepare.draw([pair.drawn for pair in pairs if isinstance(pair, Encoded)]))
        for pair in pairs:
            try:
                if isinstance(pair, BrokenPair):
                    raise pair
                images = prepare.prepare(pair.name, next(draws), pair.content, pair.caption)
            except BrokenPair as error:
                broken.append((error.name, error.kind))
                continue
            for part, image in zip(place, images):
                part[len(captions)] = image.permute(1, 2, 0).numpy()  # at once, while it is in the cache
            captions.append(pair.caption)
    if not captions:
        return Batch(torch.empty(0, tokenizer.context_length, dtype=torch.long), broken=tuple(broken))
    ids = tokenizer([mark_placeholders(caption) for caption in captions])
    seen, *targets = torch.from_numpy(place)[:, : len(captions)].permute(0, 1, 4, 2, 3)
    return Batch(ids, images=seen, broken=tuple(broken), targets=targets[0] if targets else None)


def _opened(encoded: Callable[[T], Encoded], row: T) -> Encoded | BrokenPair:
    try:
        return encoded(row)
    except BrokenPair as error:
        return error


def room_for(prepare: TrainPreparation, batch_size: int) -> RoomShape:
    """For batches of what TrainPreparation makes."""
    fields = ("images", "targets") if prepare.view.differs else ("images",)
    return RoomShape(fields, batch_size, prepare.preparation.image_size)
