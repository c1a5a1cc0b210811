"""Frozen CLIP's features of the training pairs, computed once and kept on disk as memory-mapped shards.

The towers are frozen, so an image prepared in the same way gives the same features in every epoch. A cache is a folder:
    key.json            what the features depend on
    shard-NNNNN.bin     one record for each of its rows: image embedding, condition embedding, token ids, image tokens
    shard-NNNNN.part    a shard that is being written; an interrupted run goes on after its last whole batch

Kept as they are: embeddings and conditions (float32). Image tokens are rounded: "fp16" to 2⁻¹¹ of each value (CLIP's
are far from the ends of its range), "int8" to 1/254 of the token's largest value.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from context_i2w.clip import CLIPSizes, FrozenCLIP, ImageFeatures
from context_i2w.data.pairs import Batch, ImagePairs, PairList
from context_i2w.errors import UserError

SHARD_ROWS = 4096
EMPTY, VALID, BROKEN = 0, 1, 2  # state of a record
TOKEN_TYPES = {"fp16": np.float16, "int8": np.int8}


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

    def __init__(self, folder: Path, pairs: ImagePairs, key: CacheKey, sizes: CLIPSizes):
        self.folder, self.pairs, self.key = folder, pairs, key
        self.record = record_type(key, sizes)
        self.shards: list[Tensor] = []  # [rows, bytes of a record] each

    def __getitem__(self, key: tuple[int, Sequence[int]]) -> Batch:
        epoch, rows = key
        rows = np.asarray(rows)
        records = self._gather(rows + self.key.rows * (epoch % max(self.key.crops, 1)))
        valid = records["state"] == VALID
        broken = tuple((self.pairs.pairs.images[row], "broken when cached") for row in rows[~valid])
        if broken:
            records = records[valid]
        tokens = None
        if self.key.tokens:
            tokens = torch.from_numpy(records["tokens"])
            if self.key.precision == "int8":
                tokens = tokens * torch.from_numpy(records["scale"])[..., None]
        return Batch(
            torch.from_numpy(records["condition_ids"]).long(),
            features=ImageFeatures(torch.from_numpy(records["embedding"]).contiguous(), tokens),
            condition=torch.from_numpy(records["condition"]).contiguous(),
            broken=broken,
        )

    def open(self) -> "FeatureCache":
        """Maps the shards. Raises UserError if some are missing or cut short."""
        for shard in range(self.shard_count):
            path, size = self._shard(shard), len(self._views(shard)) * self.record.itemsize
            if not path.is_file() or path.stat().st_size != size:
                raise UserError(f"{path}: missing from the feature cache, or cut short; delete it and run again")
            # Not np.memmap: it keeps a file open for every shard.
            mapped = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
            self.shards.append(mapped.view(-1, self.record.itemsize))
        return self

    @property
    def views(self) -> int:
        """Rows times crops."""
        return self.key.rows * max(self.key.crops, 1)

    @property
    def shard_count(self) -> int:
        return -(-self.views // SHARD_ROWS)

    def write(self, clip: FrozenCLIP, batch_size: int, workers: int) -> None:
        """Writes the records that are not there yet."""
        todo = [shard for shard in range(self.shard_count) if not self._shard(shard).is_file()]
        done = self.views - sum(len(self._views(shard)) for shard in todo)
        if not todo:
            return
        with tqdm(total=self.views, initial=done, desc="caching features", unit="image", dynamic_ncols=True) as bar:
            for shard in todo:
                self._write_shard(shard, clip, batch_size, workers, bar)

    def _write_shard(self, shard: int, clip: FrozenCLIP, batch_size: int, workers: int, bar: tqdm) -> None:
        views, partial = self._views(shard), self._shard(shard).with_suffix(".part")
        size = len(views) * self.record.itemsize
        if not partial.is_file() or partial.stat().st_size != size:
            _reserve(partial, size)
        records = np.memmap(partial, self.record, "r+", shape=len(views))
        todo = np.flatnonzero(records["state"] == EMPTY)
        bar.update(len(views) - len(todo))
        batches = [todo[i : i + batch_size] for i in range(0, len(todo), batch_size)]
        loader = DataLoader(
            _RowByRow(self.pairs), sampler=[views[b].tolist() for b in batches], batch_size=None, num_workers=workers
        )
        for places, (valid, batch) in zip(batches, loader, strict=True):
            for name, values in self._encode(clip, batch).items():
                records[name][places] = values
            records["state"][places] = np.where(valid, VALID, BROKEN)  # last: the record is whole
            bar.update(len(places))
        records.flush()
        del records
        os.replace(partial, self._shard(shard))

    def _encode(self, clip: FrozenCLIP, batch: Batch) -> dict[str, np.ndarray]:
        image = clip.encode_image(batch.images)
        parts = {
            "condition_ids": batch.condition_ids,
            "embedding": image.embedding,
            "condition": clip.encode_text(batch.condition_ids),
        }
        if self.key.tokens and self.key.precision == "int8":
            parts["scale"] = (image.tokens.abs().amax(-1) / 127).clamp(min=1e-8)
            parts["tokens"] = (image.tokens / parts["scale"][..., None]).round()
        elif self.key.tokens:
            parts["tokens"] = image.tokens
        return {name: part.cpu().numpy() for name, part in parts.items()}

    def _gather(self, views: np.ndarray) -> np.ndarray:
        """Records of the views, in their order."""
        found = torch.empty(len(views), self.record.itemsize, dtype=torch.uint8)
        shards, places = torch.from_numpy(views // SHARD_ROWS), torch.from_numpy(views % SHARD_ROWS)
        for shard in shards.unique().tolist():
            here = (shards == shard).nonzero()[:, 0]
            found.index_copy_(0, here, self.shards[shard].index_select(0, places[here]))
        return found.numpy().view(self.record)[:, 0]

    def _views(self, shard: int) -> np.ndarray:
        return np.arange(shard * SHARD_ROWS, min((shard + 1) * SHARD_ROWS, self.views))

    def _shard(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}.bin"


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Of several runs that open the same cache one writes, the others wait for it and find it written."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file is closed, by a kill too
        yield


def record_type(key: CacheKey, sizes: CLIPSizes) -> np.dtype:
    """One row of a shard."""
    fields = [
        ("state", np.uint8),
        ("condition_ids", np.int32, sizes.context_length),
        ("embedding", np.float32, sizes.embed_dim),
        ("condition", np.float32, sizes.embed_dim),
    ]
    if key.tokens and key.precision == "int8":
        fields.append(("scale", np.float32, sizes.image_tokens))
    if key.tokens:
        fields.append(("tokens", TOKEN_TYPES[key.precision], (sizes.image_tokens, sizes.vision_width)))
    return np.dtype(fields, align=True)


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
        data_hash=_hash_of(pairs.pairs),
        rows=len(pairs.pairs),
        tokens=options.tokens,
        precision=options.precision,
        crops=options.crops,
        seed=pairs.seed if options.crops else None,
    )
    cache = FeatureCache(folder, pairs, key, clip.sizes)
    with _one_at_a_time(folder):
        _claim(folder, key)
        if write:
            cache.write(clip, batch_size, workers)
    return cache.open()


def _reserve(path: Path, size: int) -> None:
    """A file of so many zero bytes that are there: a mapped file that meets a full disk would kill the process."""
    try:
        with open(path, "wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise UserError(
            f"{path.parent}: no room for the next {size / 1e9:.2g} GB of features ({error.strerror}); make room, name "
            "another folder, or take --cache-precision int8"
        ) from None


def _hash_of(pairs: PairList) -> str:
    """Of masked captions and image names, with their folder but not with where that lies."""
    digest = hashlib.sha256()
    for image, masked in zip(pairs.images, pairs.masked, strict=True):
        digest.update(json.dumps([Path(image).parts[-2:], masked]).encode())
    return digest.hexdigest()


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
    temporary = stamp.with_suffix(".tmp")
    temporary.write_text(json.dumps(key.as_json(), indent=1))
    os.replace(temporary, stamp)
