"""CLIP's features for a whole benchmark: every distinct image passes the vision tower once.

Distinct images stream through in batches. All embeddings are kept; an image's tokens live only as long as
its batch: for each query whose reference image is in the batch the pseudo-word token is made and composed at
once. Distinct texts are encoded once, before. However many queries, groups, methods and checkpoints share an
image, it costs one pass; what no row asked for is not encoded. Several processes share the batches of one, which are
therefore the same to the bit, and all hold all features at the end.
"""

import functools
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.nn.functional import normalize
from tqdm import tqdm

from context_i2w.benchmarks.base import Benchmark, listing
from context_i2w.data.reading import Images, batched, read_images
from context_i2w.distributed import Process
from context_i2w.errors import UserError
from context_i2w.evaluation.compositions import Composer, PromptIds, all_compositions, numbered
from context_i2w.evaluation.embedding_cache import EmbeddingCache
from context_i2w.model.clip import FrozenCLIP, ImageFeatures
from context_i2w.model.images import ImageSource, Preparation
from context_i2w.model.mappers import Mapper
from context_i2w.model.prompts import Tokenizer
from context_i2w.model.queries import OF_MAPPER


@dataclass(frozen=True)
class EncodingOptions:
    """None of these changes a result by more than rounding (about 1e-6), `amp` aside.

    batch_size: images per vision pass, and texts or compositions per text pass. workers: processes that
    read images; None chooses from the machine's cores. precision: "fp32", or "amp" (fp16 on a GPU, bf16
    elsewhere). feature_cache: folder that keeps image embeddings, so that a later run passes only reference
    images, whose tokens the mappers read. process: this one among those that share the work.
    """

    batch_size: int = 64
    workers: int | None = None
    precision: str = "fp32"
    feature_cache: Path | None = None
    process: Process = field(default_factory=Process)

    def worker_count(self) -> int:
        if self.workers is not None:
            return self.workers
        return min(8, max(0, (os.cpu_count() or 1) - 2) // self.process.here)


@dataclass
class Encoded:
    """Unit features by image and by text, each mapper's compositions by name, and what they cost."""

    images: dict[ImageSource, int]
    image_features: torch.Tensor  # [I, E]
    texts: dict[str, int]
    text_features: torch.Tensor  # [T, E]
    composers: dict[str, Composer]
    passes: dict[str, int]
    cut: int  # texts that were too long for CLIP and lost their end


def encode(
    benchmark: Benchmark,
    clip: FrozenCLIP,
    mappers: Mapping[str, Mapper],
    options: EncodingOptions,
    needs: Iterable[str] = ("image", "text", "composed"),
) -> Encoded:
    """Encodes what the vectors named in `needs` (model/queries.py) take, and nothing else.

    Raises UserError listing unreadable images.
    """
    needs, groups = set(needs), benchmark.groups
    of_mapper = [name for name in OF_MAPPER if name in needs] if mappers else []
    seen = [group.references for group in groups if of_mapper or "image" in needs]
    images = numbered(source for sources in (*(group.gallery for group in groups), *seen) for source in sources)
    numbers = {name: all_compositions(benchmark, of_mapper, mapper) for name, mapper in mappers.items()}
    composers = {name: Composer(mapper, numbers[name], images, clip) for name, mapper in mappers.items()}
    wanted = [composition for found in numbers.values() for composition in found]
    conditions = (composition.condition for composition in wanted if composition.condition is not None)
    read = (text for group in groups for row in group.texts for text in row) if "text" in needs else ()
    texts, prompts = numbered([*conditions, *read]), numbered(composition.prompt for composition in wanted)

    with torch.inference_mode(), precision_of(clip.device, options.precision):
        plain, written = (Tokenizer(clip.sizes.context_length, dollar) for dollar in (None, benchmark.dollar))
        features = encode_texts(clip, plain(texts), options.batch_size, options.process)
        ids = written(prompts)
        prompt_ids = PromptIds(prompts, ids, written.places(ids), texts, features)
        embeddings, passed = _see(benchmark.name, images, clip, composers.values(), prompt_ids, options)
    passes = {"images": passed, "texts": len(texts), "compositions": len(wanted)}
    unit, of_texts = normalize(embeddings, dim=-1), normalize(features, dim=-1)
    return Encoded(images, unit, texts, of_texts, composers, passes, len(plain.cut | written.cut))


def _see(
    name: str,
    images: Mapping[ImageSource, int],
    clip: FrozenCLIP,
    composers: Iterable[Composer],
    prompts: PromptIds,
    options: EncodingOptions,
) -> tuple[torch.Tensor, int]:
    """Embeddings [I, E] of all images, not normalised, and how many were passed; fills the composers."""
    process, folder = options.process, options.feature_cache
    cache = process.by_first(lambda: folder and EmbeddingCache(folder, name, clip, options.precision, list(images)))
    known = process.by_first(cache.read) if cache else None
    embeddings = torch.empty(len(images), clip.sizes.embed_dim) if known is None else known
    embeddings = embeddings.to(clip.device)
    of_tokens = [composer for composer in composers if composer.mapper.uses_tokens]
    waiting = {index for composer in of_tokens for index in composer.waiting}
    passed = {index: source for source, index in images.items() if known is None or index in waiting}
    digests: dict[int, bytes] = {}
    for seen, features in _vision_passes(passed, clip, options, name):
        if known is None:
            embeddings[seen.numbers] = features.embedding.float()
            hashes = (hashlib.blake2b(pixels.numpy().data, digest_size=16) for pixels in seen.pixels)
            digests |= {index: found.digest() for index, found in zip(seen.numbers, hashes)}
        for composer in of_tokens:
            composer.see(seen.numbers, features, prompts, options.batch_size)
    if known is None:
        process.complete(embeddings, list(digests))
        for index, earlier in _repeats(process.everyone(digests)):
            embeddings[index] = embeddings[earlier]
    for composer in composers:
        if not composer.mapper.uses_tokens:  # what it reads is there for all images
            composer.see(range(len(images)), ImageFeatures(embeddings, None), prompts, options.batch_size, process)
        process.complete(composer.features, composer.done)
    if cache and known is None and process.is_first:
        cache.write(embeddings)
    return embeddings, len(passed)


def encode_texts(clip: FrozenCLIP, ids: torch.Tensor, batch_size: int, process: Process | None = None) -> torch.Tensor:
    """Un-normalised text embeddings [T, E] float32, in the order of `ids`; texts of a length go together.

    process: one of several, which share them and all return them all.
    """
    process = process or Process()
    features = torch.empty(len(ids), clip.sizes.embed_dim, device=clip.device)
    by_length = ids.argmax(dim=1).argsort(stable=True)
    batches = process.share(by_length.split(batch_size) if len(ids) else ())
    for rows in batches:
        features[rows] = clip.encode_text(ids[rows]).float()
    process.complete(features, torch.cat([*batches, by_length[:0]]))
    return features


def precision_of(device: torch.device, precision: str) -> torch.autocast:
    """Float32, whatever is around it, or autocast."""
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision == "amp")


def _vision_passes(
    sources: Mapping[int, ImageSource], clip: FrozenCLIP, options: EncodingOptions, name: str
) -> Iterator[tuple[Images, ImageFeatures]]:
    """Of this process's share; raises UserError, in all processes, if any of them has an image that can't be read."""
    prepare = functools.partial(_pixels, Preparation(*clip.transform), sources)
    broken: dict[int, Exception] = {}
    died: str | None = None  # a reading process of this process alone: the others must hear of it, or wait for ever
    batches = options.process.share(batched(sources, options.batch_size))
    with tqdm(total=sum(map(len, batches)), desc=f"{name}: images", unit="image") as bar:
        try:
            for images in read_images(prepare, batches, options.worker_count()):
                broken |= images.broken
                if not broken:  # once one is unreadable the rest is only read, to list them all
                    yield images, clip.encode_image(images.pixels)
                bar.update(len(images.numbers) + len(images.broken))
        except UserError as error:
            died = str(error)
    told = options.process.everyone((broken, died))
    if deaths := [death for _, death in told if death]:
        raise UserError(deaths[0])
    reasons = sorted({str(error) for part, _ in told for error in part.values()})
    if reasons:
        raise UserError(f"{name}: {listing(reasons, len(sources), 'cannot be read')}")


def _pixels(preparation: Preparation, sources: Mapping[int, ImageSource], index: int) -> torch.Tensor:
    return preparation.pixels(sources[index])


def _repeats(digests: Iterable[Mapping[int, bytes]]) -> Iterator[tuple[int, int]]:
    """(index, that of an earlier image of the same pixels), from the pixels' digests by index, in parts.

    Identical pixels under several names must get identical features, or rounding would break their tie.
    """
    first: dict[bytes, int] = {}
    for index, digest in sorted(pair for part in digests for pair in part.items()):
        if first.setdefault(digest, index) != index:
            yield index, first[digest]
