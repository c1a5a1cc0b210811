"""CLIP's features for a whole benchmark: every distinct image passes the vision tower once.

Distinct images stream through in batches. All embeddings are kept; an image's tokens live only as long as
its batch: for each query whose reference image is in the batch the pseudo-word token is made and composed at
once. Distinct prompts are encoded once, before. However many queries, groups and checkpoints share an image,
it costs one pass.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from context_i2w.benchmarks.base import Benchmark, listing
from context_i2w.errors import UserError
from context_i2w.evaluation.embedding_cache import EmbeddingCache
from context_i2w.model.clip import FrozenCLIP, ImageFeatures
from context_i2w.model.images import BrokenImage, ImageSource, Preparation
from context_i2w.model.mappers import Mapper
from context_i2w.model.prompts import Tokenizer


@dataclass(frozen=True)
class EncodingOptions:
    """None of these changes a result by more than rounding (about 1e-6), `amp` aside.

    batch_size: images per vision pass, and texts or compositions per text pass. workers: processes that
    read images; None chooses from the machine's cores. precision: "fp32", or "amp" (fp16 on a GPU, bf16
    elsewhere). feature_cache: folder that keeps image embeddings, so that a later run passes only reference
    images, whose tokens the mappers read.
    """

    batch_size: int = 64
    workers: int | None = None
    precision: str = "fp32"
    feature_cache: Path | None = None

    def worker_count(self) -> int:
        if self.workers is not None:
            return self.workers
        return min(8, max(0, (os.cpu_count() or 1) - 2))


@dataclass
class Encoded:
    """Unit features by image and by text, and what they cost.

    composed: per mapper [S, E], row `slots[image, prompt]` for a pair of reference image and prompt.
    """

    images: dict[ImageSource, int]
    image_features: torch.Tensor  # [I, E]
    texts: dict[str, int]
    text_features: torch.Tensor  # [T, E]
    slots: dict[tuple[ImageSource, str], int]
    composed: dict[str, torch.Tensor]
    passes: dict[str, int]


class Pending(NamedTuple):
    """A composition that waits for its reference image: row of the image, of the prompt, of the result."""

    image: int
    prompt: int
    slot: int


def encode(benchmark: Benchmark, clip: FrozenCLIP, mappers: Mapping[str, Mapper], options: EncodingOptions) -> Encoded:
    """Encodes images, texts and every mapper's compositions. Raises UserError listing unreadable images."""
    groups = benchmark.groups
    images = _numbered(source for group in groups for source in (*group.gallery, *group.references))
    prompts = _numbered(prompt for group in groups for row in group.prompts for prompt in row)
    texts = _numbered([*prompts, *(text for group in groups for row in group.texts for text in row)])
    slots = _numbered(
        (source, prompt) for group in groups for source, row in zip(group.references, group.prompts) for prompt in row
    )
    waiting: dict[int, list[Pending]] = {}
    for (source, prompt), slot in slots.items():
        waiting.setdefault(images[source], []).append(Pending(images[source], texts[prompt], slot))

    with torch.inference_mode(), precision_of(clip.device, options.precision):
        ids = Tokenizer(clip.sizes.context_length)(list(texts))
        conditions = encode_texts(clip, ids, options.batch_size)
        cache = options.feature_cache and EmbeddingCache(
            options.feature_cache, benchmark.name, clip, options.precision, list(images)
        )
        known = cache.read() if cache else None
        embeddings = torch.empty(len(images), clip.sizes.embed_dim) if known is None else known
        embeddings = embeddings.to(clip.device)
        passed = {index: source for source, index in images.items() if known is None or index in waiting}
        composed = {row: torch.empty(len(slots), clip.sizes.embed_dim, device=clip.device) for row in mappers}
        for batch, features in _vision_passes(passed, clip, options, benchmark.name):
            if known is None:
                embeddings[batch.indices] = features.embedding.float()
                for index, first in batch.repeats:
                    embeddings[index] = embeddings[first]
            for jobs in _chunks([job for i in batch.indices for job in waiting.get(i, ())], options.batch_size):
                _compose(jobs, batch, features, clip, mappers, ids, conditions, composed)
    if cache and known is None:
        cache.write(embeddings)
    passes = {"images": len(passed), "texts": len(texts), "compositions": len(slots) * len(mappers)}
    unit = normalize(embeddings, dim=-1)
    return Encoded(images, unit, texts, normalize(conditions, dim=-1), slots, composed, passes)


def encode_texts(clip: FrozenCLIP, ids: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Un-normalised text embeddings [T, E] float32, in the order of `ids`; texts of a length go together."""
    features = torch.empty(len(ids), clip.sizes.embed_dim, device=clip.device)
    by_length = ids.argmax(dim=1).argsort(stable=True)
    for rows in by_length.split(batch_size):
        features[rows] = clip.encode_text(ids[rows]).float()
    return features


@contextlib.contextmanager
def precision_of(device: torch.device, precision: str) -> Iterator[None]:
    """fp32 without TF32 convolutions, or autocast."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = precision == "amp"
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    try:
        with torch.autocast(device.type, dtype=dtype, enabled=precision == "amp"):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def _compose(
    jobs: Sequence[Pending],
    batch: Batch,
    features: ImageFeatures,
    clip: FrozenCLIP,
    mappers: Mapping[str, Mapper],
    ids: torch.Tensor,
    conditions: torch.Tensor,
    composed: dict[str, torch.Tensor],
) -> None:
    """Fills `composed` for the jobs, whose images are all in the batch."""
    place = {index: row for row, index in enumerate(batch.indices)}
    rows = torch.tensor([place[job.image] for job in jobs], device=clip.device)
    prompts = torch.tensor([job.prompt for job in jobs])
    slots = torch.tensor([job.slot for job in jobs], device=clip.device)
    condition = conditions[prompts.to(clip.device)]
    references = ImageFeatures(features.embedding[rows], features.tokens[rows])
    for name, mapper in mappers.items():
        pseudo_words = mapper(condition, references)
        composed[name][slots] = normalize(clip.compose(ids[prompts], pseudo_words).float(), dim=-1)


class Batch(NamedTuple):
    """Prepared images of one vision pass; repeats: (index, index of an earlier image of the same pixels)."""

    indices: list[int]
    pixels: torch.Tensor  # [B, 3, S, S]
    repeats: list[tuple[int, int]]


def _vision_passes(
    sources: Mapping[int, ImageSource], clip: FrozenCLIP, options: EncodingOptions, name: str
) -> Iterator[tuple[Batch, ImageFeatures]]:
    preparation = Preparation(clip.sizes.image_size, clip.image_mean, clip.image_std)
    loader = DataLoader(
        _Prepared(sources, preparation),
        batch_size=options.batch_size,
        num_workers=options.worker_count(),
        collate_fn=list,
    )
    broken: list[BrokenImage] = []
    first: dict[bytes, int] = {}
    with tqdm(total=len(sources), desc=f"{name}: images", unit="image") as bar:
        for items in loader:
            broken += [item for _, item, _ in items if isinstance(item, BrokenImage)]
            if not broken:  # once one is unreadable the rest is only read, to list them all
                batch = _batch(items, first)
                yield batch, clip.encode_image(batch.pixels)
            bar.update(len(items))
    if broken:
        reasons = sorted({str(error) for error in broken})
        raise UserError(f"{name}: {listing(reasons, len(sources), 'cannot be read')}")


def _batch(items: Sequence[tuple[int, torch.Tensor, bytes]], first: dict[bytes, int]) -> Batch:
    """Identical pixels under several names must get identical features, or rounding would break their tie."""
    repeats = []
    for index, _, digest in items:
        if first.setdefault(digest, index) != index:
            repeats.append((index, first[digest]))
    return Batch([index for index, _, _ in items], torch.stack([pixels for _, pixels, _ in items]), repeats)


class _Prepared(Dataset):
    """(index, pixels, digest of the pixels), or (index, BrokenImage, b"") for a file that can't be read."""

    def __init__(self, sources: Mapping[int, ImageSource], preparation: Preparation):
        self.sources = list(sources.items())
        self.preparation = preparation

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, place: int) -> tuple[int, torch.Tensor | BrokenImage, bytes]:
        index, source = self.sources[place]
        try:
            pixels = self.preparation(source)
        except BrokenImage as error:
            return index, error, b""
        return index, pixels, hashlib.blake2b(pixels.numpy().tobytes(), digest_size=16).digest()


def _numbered(items: Iterable) -> dict:
    """Distinct items in order of appearance, each with its number."""
    return {item: number for number, item in enumerate(dict.fromkeys(items))}


def _chunks(jobs: Sequence[Pending], size: int) -> Iterator[Sequence[Pending]]:
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]
