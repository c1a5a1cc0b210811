"""Frozen CLIP's features of the training pairs, computed once and kept on disk as memory-mapped shards.

The towers are frozen, so an image prepared in the same way gives the same features in every epoch. A shard holds
the image embeddings, the image tokens (half precision, or int8 with a scale per token) and the condition embeddings
of a range of rows. Shards are written under a temporary name and renamed: an interrupted run goes on where it was.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from context_i2w.clip import FrozenCLIP, ImageFeatures
from context_i2w.data.pairs import Batch, ImagePairs
from context_i2w.errors import UserError

SHARD_ROWS = 4096


@dataclass(frozen=True)
class CacheOptions:
    """How features are kept."""

    tokens: bool = True  # False: embeddings only, for mappers that read no tokens
    precision: str = "fp16"  # of the tokens: "fp16" or "int8"
    crops: int = 0  # 0: the whole image as at evaluation; K: K random crops, one for each epoch in turn


@dataclass(frozen=True)
class CacheKey:
    """What the features depend on; a cache made under another key is refused."""

    clip: str
    weights_hash: str
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data_hash: str
    rows: int
    tokens: bool
    precision: str
    crops: int
    seed: int | None  # of the crops

    def as_json(self) -> dict:
        return json.loads(json.dumps(asdict(self)))


class FeatureCache(Dataset):
    """Batches of cached features; indexed by (epoch, row numbers) as ImagePairs is, of which it is made."""

    def __init__(self, folder: Path, pairs: ImagePairs, key: CacheKey):
        self.folder, self.pairs, self.key = folder, pairs, key
        self.shards: list[dict[str, np.ndarray]] = []

    def __getitem__(self, key: tuple[int, Sequence[int]]) -> Batch:
        epoch, rows = key
        views = np.asarray(rows) + self.key.rows * (epoch % max(self.key.crops, 1))
        parts = {name: self._gather(name, views) for name in self.shards[0]}
        valid = parts["valid"]
        broken = tuple(
            (self.pairs.pairs.images[row], "broken when cached") for row in np.asarray(rows)[~valid]
        )
        ids, embeddings, conditions = (parts[n][valid] for n in ("condition_ids", "embeddings", "conditions"))
        tokens = None
        if self.key.tokens:
            tokens = torch.from_numpy(parts["tokens"][valid]).float()
            if self.key.precision == "int8":
                tokens *= torch.from_numpy(parts["scales"][valid]).float()[..., None]
        features = ImageFeatures(torch.from_numpy(embeddings), tokens)
        return Batch(
            torch.from_numpy(ids).long(),
            features=features,
            condition=torch.from_numpy(conditions),
            broken=broken,
        )

    def open(self) -> "FeatureCache":
        """Maps the shards. Raises UserError if some are missing."""
        names = ["valid", "condition_ids", "embeddings", "conditions"]
        names += ["tokens"] if self.key.tokens else []
        names += ["scales"] if self.key.tokens and self.key.precision == "int8" else []
        for shard in range(self.shard_count):
            folder = self._shard_folder(shard)
            if not folder.is_dir():
                raise UserError(
                    f"{folder}: missing from the feature cache; run the same command again to finish it"
                )
            self.shards.append({name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names})
        return self

    @property
    def views(self) -> int:
        """Rows times crops."""
        return self.key.rows * max(self.key.crops, 1)

    @property
    def shard_count(self) -> int:
        return -(-self.views // SHARD_ROWS)

    def write(self, clip: FrozenCLIP, batch_size: int, workers: int) -> None:
        """Writes the shards that are not there yet."""
        todo = [shard for shard in range(self.shard_count) if not self._shard_folder(shard).is_dir()]
        if not todo:
            return
        with tqdm(
            total=self.views - (self.shard_count - len(todo)) * SHARD_ROWS,
            desc="caching image features",
            unit="img",
            dynamic_ncols=True,
        ) as bar:
            for shard in todo:
                views = range(shard * SHARD_ROWS, min((shard + 1) * SHARD_ROWS, self.views))
                self._write_shard(shard, views, clip, batch_size, workers, bar)

    def _write_shard(
        self, shard: int, views: range, clip: FrozenCLIP, batch_size: int, workers: int, bar: tqdm
    ) -> None:
        batches = [views[i : i + batch_size] for i in range(0, len(views), batch_size)]
        loader = DataLoader(_RowByRow(self.pairs), sampler=batches, batch_size=None, num_workers=workers)
        parts: dict[str, list[np.ndarray]] = {}
        for valid, batch in loader:
            for name, array in self._encode(clip, valid, batch).items():
                parts.setdefault(name, []).append(array)
            bar.update(len(valid))
        folder = self._shard_folder(shard)
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        try:
            temporary.mkdir(parents=True)
            for name, arrays in parts.items():
                np.save(temporary / f"{name}.npy", np.concatenate(arrays))
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _encode(self, clip: FrozenCLIP, valid: np.ndarray, batch: Batch) -> dict[str, np.ndarray]:
        image = clip.encode_image(batch.images)
        parts = {
            "valid": valid,
            "condition_ids": batch.condition_ids.numpy().astype(np.int32),
            "embeddings": image.embedding.float().cpu().numpy(),
            "conditions": clip.encode_text(batch.condition_ids).float().cpu().numpy(),
        }
        if self.key.tokens and self.key.precision == "int8":
            tokens = image.tokens.float()
            scales = (tokens.abs().amax(-1) / 127).clamp(min=1e-8)
            parts["tokens"] = (tokens / scales[..., None]).round().to(torch.int8).cpu().numpy()
            parts["scales"] = scales.cpu().numpy()
        elif self.key.tokens:
            parts["tokens"] = image.tokens.half().cpu().numpy()
        return parts

    def _gather(self, name: str, views: np.ndarray) -> np.ndarray:
        first = self.shards[0][name]
        gathered = np.empty((len(views), *first.shape[1:]), first.dtype)
        for shard in np.unique(views // SHARD_ROWS):
            here = views // SHARD_ROWS == shard
            gathered[here] = self.shards[shard][name][views[here] % SHARD_ROWS]
        return gathered

    def _shard_folder(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}"


class _RowByRow(Dataset):
    """ImagePairs with a broken image's row kept, as zeros and marked, so that rows keep their places."""

    def __init__(self, pairs: ImagePairs):
        self.pairs = pairs

    def __getitem__(self, views: Sequence[int]) -> tuple[np.ndarray, Batch]:
        size = self.pairs.preparation.image_size
        images, ids = torch.zeros(len(views), 3, size, size), []
        valid = np.ones(len(views), bool)
        for i, view in enumerate(views):
            crop, row = divmod(view, len(self.pairs.pairs))
            batch = self.pairs[crop, [row]]
            valid[i] = not batch.broken
            if valid[i]:
                images[i] = batch.images[0]
            ids.append(batch.condition_ids if valid[i] else self.pairs.tokenizer([""]))
        return valid, Batch(torch.cat(ids), images=images)


def open_cache(
    folder: str | Path,
    pairs: ImagePairs,
    clip: FrozenCLIP,
    data_hash: str,
    options: CacheOptions,
    batch_size: int = 128,
    workers: int = 0,
    write: bool = True,
) -> FeatureCache:
    """The cache in `folder`, written or finished first (`write`), then mapped.

    Raises UserError if the folder holds features of another CLIP, preparation or list.
    """
    folder = Path(folder)
    key = CacheKey(
        clip=clip.name,
        weights_hash=clip.weights_hash,
        image_size=clip.sizes.image_size,
        mean=clip.image_mean,
        std=clip.image_std,
        data_hash=data_hash,
        rows=len(pairs.pairs),
        tokens=options.tokens,
        precision=options.precision,
        crops=options.crops,
        seed=pairs.seed if options.crops else None,
    )
    _claim(folder, key)
    cache = FeatureCache(folder, pairs, key)
    if write:
        cache.write(clip, batch_size, workers)
    return cache.open()


def _claim(folder: Path, key: CacheKey) -> None:
    stamp = folder / "key.json"
    if stamp.is_file():
        found = json.loads(stamp.read_text())
        differs = [name for name, value in key.as_json().items() if found.get(name) != value]
        if differs:
            raise UserError(
                f"{folder}: features of another {', '.join(differs)}; delete the folder or name another one"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    temporary = stamp.with_suffix(".tmp")
    temporary.write_text(json.dumps(key.as_json(), indent=1))
    os.replace(temporary, stamp)
