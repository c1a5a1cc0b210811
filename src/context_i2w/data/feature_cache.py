"""Frozen CLIP's features of the training pairs, computed once and kept on disk.

The towers are frozen, so an image prepared in the same way gives the same features in every epoch. A cache is a folder
of record stores (record_store.py):
    .                   image embedding and tokens
    captions-HASH/      token ids and condition embedding of one column of captions; each column has its own
    views-HASH/         embedding and tokens of the reference views of one kind, where these differ from the image

Kept as they are: embeddings and conditions (float32). Image tokens are rounded: "fp16" to 2⁻¹¹ of each value (CLIP's
are far from the ends of its range; a token beyond them counts as broken), "int8" to 1/254 of the token's largest value.
What rounding cost is measured and printed as the cache is written.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from context_i2w.data.augmentation import TrainPreparation
from context_i2w.data.batch import Batch
from context_i2w.data.broken import BrokenPair, check_caption
from context_i2w.data.options import CacheOptions, ViewOptions
from context_i2w.data.pairs import EpochBatches, ImagePairs
from context_i2w.data.reading import Reading, ReadingThreads, read_images
from context_i2w.data.record_store import VALID, RecordStore, read_key
from context_i2w.files import file_state, note
from context_i2w.model.backbones import CLIPSizes
from context_i2w.model.clip import FrozenCLIP, ImageFeatures
from context_i2w.model.images import BrokenImage
from context_i2w.model.prompts import mark_placeholders

TOKEN_TYPES = {"fp16": np.float16, "int8": np.int8}


@dataclass(frozen=True)
class ImageKey:
    """What an image's features depend on; a cache made under another key is refused."""

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
    view: ViewOptions | None = None


class FeatureCache(Dataset):
    """Batches of cached features; indexed by (epoch, row numbers) as ImagePairs is, of which it is made.

    views: of the reference images, where they differ from the images, which are then the targets.
    """

    def __init__(self, pairs: ImagePairs, images: "CachedImages", captions: RecordStore, views: "CachedImages | None"):
        self.pairs, self.images, self.captions, self.views = pairs, images, captions, views

    def __getitem__(self, key: tuple[int, Sequence[int]]) -> Batch:
        epoch, rows = key[0], np.asarray(key[1])
        captions, images = self.captions.read(rows), self.images.read(epoch, rows)
        seen = self.views.read(epoch, rows) if self.views else images
        valid = (captions["state"] == VALID) & (images["state"] == VALID) & (seen["state"] == VALID)
        broken = tuple((self.pairs.pairs.images[row], "broken when cached") for row in rows[~valid])
        if broken:
            captions, images, seen = captions[valid], images[valid], seen[valid]
        cache = self.views or self.images
        return Batch(
            torch.from_numpy(captions["condition_ids"].astype(np.int64)),
            features=cache.features(seen),
            scale=cache.scale(seen),
            condition=_tensor(captions["condition"]),
            broken=broken,
            target_embeddings=_tensor(images["embedding"]) if self.views else None,
        )

    def reading(self, sampler: EpochBatches, workers: int, pin_memory: bool) -> Reading:
        """By threads: rows lie in memory."""
        return ReadingThreads(self, workers, sampler, pin_memory)

    def embeddings(self, rows: Sequence[int]) -> Tensor:
        """Embeddings [n, E] of the images (their first crops)."""
        return _tensor(self.images.read(0, np.asarray(rows))["embedding"])


def _tensor(field: np.ndarray) -> Tensor:
    """One field of records, copied by NumPy: a reading thread's copy by torch would ask for threads of its own."""
    return torch.from_numpy(np.ascontiguousarray(field))


class CachedImages:
    """Features of a list's images, of K crops or views of each, or of the whole image."""

    def __init__(self, folder: Path, pairs: ImagePairs, key: ImageKey, prepare: TrainPreparation, sizes: CLIPSizes):
        self.pairs, self.key, self.prepare = pairs, key, prepare
        views = key.rows * max(key.crops, 1)
        self.store = RecordStore(folder, views, _image_fields(key, sizes), asdict(key))

    def read(self, epoch: int, rows: np.ndarray) -> np.ndarray:
        return self.store.read(rows + self.key.rows * (epoch % max(self.key.crops, 1)))

    def features(self, records: Mapping[str, np.ndarray] | np.ndarray) -> ImageFeatures:
        """As they are kept: tokens in half precision, or in int8 of a `scale`."""
        tokens = torch.from_numpy(records["tokens"]) if self.key.tokens else None
        return ImageFeatures(_tensor(records["embedding"]), tokens)

    def scale(self, records: Mapping[str, np.ndarray] | np.ndarray) -> Tensor | None:
        """[n, N], what to multiply int8 tokens by; None where they are kept otherwise."""
        is_scaled = self.key.tokens and self.key.precision == "int8"
        return _tensor(records["scale"]) if is_scaled else None

    def fill(self, clip: FrozenCLIP, batch_size: int, workers: int, title: str) -> None:
        """Writes what is missing: one vision pass for each image or view."""
        error = _RoundingError()
        prepare = functools.partial(_pixels, self.pairs, self.prepare)

        def encode(batches: list[list[int]]) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
            for views, images in zip(batches, read_images(prepare, batches, workers), strict=True):
                valid = np.isin(views, images.numbers)
                if not images.numbers:
                    yield valid, {}
                    continue
                seen = clip.encode_image(images.pixels)
                kept = self.records(seen)
                finite = _finite(kept)
                valid[valid] = finite
                if finite.any() and self.key.tokens:
                    rows = np.flatnonzero(finite)[:8]
                    few = {name: part[rows] for name, part in kept.items()}
                    scale = self.scale(few)
                    error.add(seen.tokens[rows], self.features(few).tokens * (1 if scale is None else scale[..., None]))
                yield valid, {name: part[finite] for name, part in kept.items()}

        self.store.fill(encode, batch_size, title, self._states())
        error.report(self.key.precision)

    def _states(self) -> np.ndarray:
        """Size and time [views, 2] of the images' files, -1 for those that are gone."""
        states = np.full((self.key.rows, 2), -1, np.int64)
        for row, image in enumerate(self.pairs.pairs.images):
            with contextlib.suppress(OSError, ValueError):
                states[row] = file_state(image)
        return np.tile(states, (max(self.key.crops, 1), 1))

    def records(self, image: ImageFeatures) -> dict[str, np.ndarray]:
        """What is kept of the features of some images."""
        parts = {"embedding": image.embedding}
        if self.key.tokens and self.key.precision == "int8":
            parts["scale"] = (image.tokens.abs().amax(-1) / 127).clamp(min=1e-8)
            parts["tokens"] = (image.tokens / parts["scale"][..., None]).round().to(torch.int8)
        elif self.key.tokens:
            parts["tokens"] = image.tokens.half()
        return {name: part.cpu().numpy() for name, part in parts.items()}


def _finite(records: Mapping[str, np.ndarray]) -> np.ndarray:
    """Whether all that is kept of each image [n] is a finite number; fp16 ends at 65,504."""
    floats = [part.reshape(len(part), -1) for part in records.values() if part.dtype.kind == "f"]
    return np.logical_and.reduce([np.isfinite(part).all(1) for part in floats])


class _RoundingError:
    """By how much kept tokens differ from CLIP's, channel by channel, relative to the channel's own size.

    With int8 a channel far larger than the others sets the token's scale, and the others lose what is below it.
    """

    def __init__(self):
        self.wrong: Tensor | float = 0.0  # sums of squares [W]
        self.whole: Tensor | float = 0.0

    def add(self, tokens: Tensor, kept: Tensor) -> None:
        """tokens, kept [n, P, W]."""
        tokens, kept = (part.float().cpu().flatten(0, 1) for part in (tokens, kept))
        self.wrong, self.whole = self.wrong + (tokens - kept).square().sum(0), self.whole + tokens.square().sum(0)

    def report(self, precision: str) -> None:
        """One line: the middle and the worst channel; a warning where the middle one is off by over 5 %."""
        if isinstance(self.whole, float) or isinstance(self.wrong, float):
            return
        error = (self.wrong / self.whole.clamp(min=1e-30)).sqrt()
        middle, worst = error.median().item(), error.max().item()
        advice = "; take --cache-precision fp16" if middle > 0.05 else ""
        note(f"image tokens kept as {precision}: error {middle:.2%} in the middle channel, {worst:.2%} at most{advice}")


def _image_fields(key: ImageKey, sizes: CLIPSizes) -> list[tuple]:
    fields: list[tuple] = [("embedding", np.float32, sizes.embed_dim)]
    if key.tokens and key.precision == "int8":
        fields.append(("scale", np.float32, sizes.image_tokens))
    if key.tokens:
        fields.append(("tokens", TOKEN_TYPES[key.precision], (sizes.image_tokens, sizes.vision_width)))
    return fields


def _pixels(pairs: ImagePairs, prepare: TrainPreparation, view: int) -> Tensor:
    """[3, S, S] of a view's number: v is the crop of number v // rows of row v % rows. Raises BrokenImage."""
    crop, row = divmod(view, len(pairs.pairs))
    try:
        return prepare(pairs.pairs.images[row], f"{pairs.seed}-{crop}-{row}", caption=pairs.pairs.masked[row])[0]
    except BrokenPair as error:
        raise BrokenImage(error.name, error.kind) from None


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

    pairs: their `prepare.view` says whether the mapper sees views that differ from the images; then `options.crops`
    views of each are kept, and the images themselves are whole. Raises UserError if the folder holds features of
    another CLIP, preparation or list.
    """
    folder, view = Path(folder), pairs.prepare.view
    key = _image_key(pairs, clip, options)
    if view.differs:
        whole = _with_tokens_if_there(replace(key, tokens=False, crops=0, seed=None), folder)
        told = pairs.pairs.masked if view.told else ()
        views_key = replace(key, view=view, data_hash=_hash_of(key.data_hash, *told))
        views = CachedImages(
            folder / f"views-{_hash_of(asdict(views_key))}", pairs, views_key, pairs.prepare, clip.sizes
        )
    else:
        whole, views = _with_tokens_if_there(key, folder), None
    images = CachedImages(folder, pairs, whole, TrainPreparation(pairs.preparation, whole.crops > 0), clip.sizes)
    captions = _captions(folder, pairs, clip)
    if write:
        images.fill(clip, batch_size, workers, "caching images")
        if views:
            views.fill(clip, batch_size, workers, "caching views")
        encode = functools.partial(_encode_captions, pairs, clip)
        captions.fill(lambda batches: map(encode, batches), batch_size, "caching captions")
    images.store.open()
    if views:
        views.store.open()
    return FeatureCache(pairs, images, captions.open(), views)


def _encode_captions(
    pairs: ImagePairs, clip: FrozenCLIP, rows: Sequence[int]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """For row numbers: which captions are usable [n], and the records of those."""
    valid, captions = np.zeros(len(rows), bool), []
    for place, row in enumerate(rows):
        with contextlib.suppress(BrokenPair):
            captions.append(mark_placeholders(check_caption(pairs.pairs.images[row], pairs.pairs.masked[row])))
            valid[place] = True
    if not captions:
        return valid, {}
    ids = pairs.tokenizer(captions)
    return valid, {"condition_ids": ids.numpy(), "condition": clip.encode_text(ids).cpu().numpy()}


def _captions(folder: Path, pairs: ImagePairs, clip: FrozenCLIP) -> RecordStore:
    key = {
        "clip": clip.name,
        "weights_hash": clip.identity.hash,
        "captions_hash": _hash_of(*pairs.pairs.masked),
        "rows": len(pairs.pairs),
    }
    return RecordStore(folder / f"captions-{_hash_of(key)}", len(pairs.pairs), caption_fields(clip.sizes), key)


def caption_fields(sizes: CLIPSizes) -> list[tuple]:
    return [("condition_ids", np.int32, sizes.context_length), ("condition", np.float32, sizes.embed_dim)]


def _image_key(pairs: ImagePairs, clip: FrozenCLIP, options: CacheOptions) -> ImageKey:
    return ImageKey(
        clip=clip.name,
        weights_hash=clip.identity.hash,
        image_size=clip.sizes.image_size,
        mean=clip.image_mean,
        std=clip.image_std,
        # names with their folder but not with where that lies
        data_hash=_hash_of(*(Path(image).parts[-2:] for image in pairs.pairs.images)),
        rows=len(pairs.pairs),
        tokens=options.tokens,
        precision=options.precision,
        crops=options.crops,
        seed=pairs.seed if options.crops else None,
    )


def _with_tokens_if_there(key: ImageKey, folder: Path) -> ImageKey:
    """A cache with tokens serves a mapper that reads none."""
    found = read_key(folder)
    if key.tokens or not found.get("tokens"):
        return key
    return replace(key, tokens=True, precision=found["precision"])


def _hash_of(*items: Any) -> str:
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps(item).encode())
    return digest.hexdigest()[:16]
