"""The tab-separated list of training pairs, and batches made from it.

A row is an image file, its caption (`title`) and its masked caption, in which the object name is `<|replace|>`.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.functional import resized_crop

from context_i2w.clip import ImageFeatures
from context_i2w.errors import UserError
from context_i2w.images import BrokenImage, ImageSource, Preparation, open_image
from context_i2w.prompts import Tokenizer, mark_placeholders


@dataclass(frozen=True)
class ListColumns:
    """Names of the list's columns, and what stands between them."""

    image: str = "filepath"
    caption: str = "title"
    masked: str = "masked_title"
    separator: str = "\t"


@dataclass(frozen=True)
class PairList:
    """Rows of a list: image paths, captions and masked captions, all of one length."""

    source: Path
    images: list[str]
    captions: list[str]
    masked: list[str]

    def __len__(self) -> int:
        return len(self.images)


class Batch(NamedTuple):
    """Training pairs of one step; images as pixels, or their features from a cache."""

    condition_ids: Tensor  # [B, L] token ids of the masked captions
    images: Tensor | None = None  # [B, 3, H, W]
    features: ImageFeatures | None = None
    condition: Tensor | None = None  # [B, E]
    broken: tuple[tuple[str, str], ...] = ()  # (path, reason) of the pairs left out

    @property
    def size(self) -> int:
        """B."""
        return len(self.condition_ids)


def read_pair_list(path: str | Path, columns: ListColumns | None = None) -> PairList:
    """Reads a list. Raises UserError if the file or a column is missing (naming those found), or it has no rows.

    Relative image paths start at the working folder, or at the list's own folder if they are not found there.
    """
    path, columns = Path(path), columns or ListColumns()
    if not path.is_file():
        raise UserError(f"--train-data {path}: no such list; docs/training.md tells how to make it")
    try:
        table = pd.read_csv(
            path, sep=columns.separator, dtype=str, keep_default_na=False, encoding_errors="replace"
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path}: not a list with columns and rows ({str(error).strip()})") from error
    wanted = (columns.image, columns.caption, columns.masked)
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        remedy = "give the right names with --image-column, --caption-column, --masked-column"
        if missing == [columns.masked]:
            remedy = f"add it with `python scripts/mask_captions.py {path}` or name it with --masked-column"
        found = ", ".join(map(repr, table.columns))
        raise UserError(f"{path}: no column {', '.join(map(repr, missing))}; found {found}; {remedy}")
    if table.empty:
        raise UserError(f"{path}: the list has no rows")
    base = _base_folder(path, table[columns.image].iloc[0])
    images = [str(base / name) for name in table[columns.image]]
    return PairList(path, images, table[columns.caption].tolist(), table[columns.masked].tolist())


def _base_folder(path: Path, first: str) -> Path:
    candidates = [Path(), path.parent, path.parent.parent]
    return next((folder for folder in candidates if (folder / first).exists()), Path())


class TrainPreparation:
    """The published augmentation: random resized crop, scale 0.9–1.0, bicubic; then as at evaluation.

    The crop depends on `seed` alone, so neither workers nor resuming change it.
    """

    def __init__(self, preparation: Preparation, scale: tuple[float, float] = (0.9, 1.0)):
        self.preparation, self.scale = preparation, scale

    def __call__(self, image, seed: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            box = RandomResizedCrop.get_params(image, self.scale, (3 / 4, 4 / 3))
        size = [self.preparation.image_size] * 2
        cropped = resized_crop(image, *box, size, InterpolationMode.BICUBIC)
        return self.preparation.normalised(cropped.convert("RGB"))


class ImagePairs(Dataset):
    """Batches of a list's pairs with images read from disk; indexed by (epoch, row numbers)."""

    def __init__(self, pairs: PairList, preparation: Preparation, crop: bool, seed: int, context_length: int):
        self.pairs, self.preparation, self.seed = pairs, preparation, seed
        self.crop = TrainPreparation(preparation) if crop else None
        self.tokenizer = Tokenizer(context_length)

    def __getitem__(self, key: tuple[int, Sequence[int]]) -> Batch:
        epoch, rows = key
        images, kept, broken = [], [], []
        for row in rows:
            try:
                images.append(self.image(epoch, row))
                kept.append(row)
            except BrokenImage as error:
                broken.append((error.path, error.reason))
        ids = self.tokenizer([mark_placeholders(self.pairs.masked[row]) for row in kept])
        return Batch(ids, images=torch.stack(images) if images else None, broken=tuple(broken))

    def image(self, epoch: int, row: int) -> Tensor:
        """The prepared image [3, H, W] of a row, as the epoch sees it. Raises BrokenImage."""
        path = self.pairs.images[row]
        if self.crop is None:
            return self.preparation(ImageSource(path))
        return self.crop(open_image(path), random.Random(f"{self.seed}-{epoch}-{row}").getrandbits(62))


class EpochBatches(Sampler):
    """Row numbers of each batch of one epoch for one process.

    The order depends on seed and epoch alone. W processes of batch B take the W parts of what one process of batch
    W·B would take, so the global batch, and with it the update, does not depend on W. The last, partial batch is
    dropped. Iteration begins at batch `start`.
    """

    def __init__(self, count: int, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.rank, self.world = rank, world
        self.epoch = self.start = 0

    @property
    def batches(self) -> int:
        """Batches of a whole epoch."""
        return self.count // (self.batch_size * self.world)

    def __len__(self) -> int:
        return self.batches - self.start

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        for batch in range(self.start, self.batches):
            begin = (batch * self.world + self.rank) * self.batch_size
            yield self.epoch, order[begin : begin + self.batch_size].tolist()
