"""The published evaluation, written as plainly as possible: what `scripts/measure/benchmark.py` compares ours with.

It keeps what costs time: a reference image is seen twice for every query and again for every domain, FashionIQ's
targets once more, all texts fill all positions, and every query sorts its whole gallery.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from context_i2w.benchmarks.base import Benchmark, QueryGroup
from context_i2w.data.reading import batched
from context_i2w.model.clip import FrozenCLIP, ImageFeatures
from context_i2w.model.images import ImageSource, Preparation
from context_i2w.model.mappers import ContextI2W
from context_i2w.model.prompts import Tokenizer
from published_way import plain_mapper, plain_text


class PlainEvaluation:
    """Counts its vision passes in `passes`."""

    def __init__(self, clip: FrozenCLIP, mapper: ContextI2W, batch: int, encode_targets: bool):
        self.clip, self.mapper, self.batch, self.encode_targets = clip, mapper, batch, encode_targets
        self.preparation = Preparation(clip.sizes.image_size, clip.image_mean, clip.image_std)
        self.tokenizer = Tokenizer(clip.sizes.context_length)
        self.passes = 0

    @torch.no_grad()
    def run(self, benchmark: Benchmark) -> list[Tensor]:
        """The composed features [Q, E] of each group; ranks the gallery they share for all rows."""
        self.passes = 0
        sources = benchmark.groups[0].gallery
        gallery = torch.cat([self._embed(self._read(part)) for part in batched(sources, self.batch)])
        return [self._group(group, normalize(gallery, dim=-1)) for group in benchmark.groups]

    def _group(self, group: QueryGroup, gallery: Tensor) -> Tensor:
        rows: dict[str, list[Tensor]] = {"composed": [], "image": [], "text": [], "mixture": []}
        for part in batched(range(len(group.references)), self.batch):
            references = self._read([group.references[i] for i in part])
            if self.encode_targets:
                self._embed(self._read([group.gallery[group.positives[i][0]] for i in part]))
            for name, features in self._queries(group, part, references).items():
                rows[name].append(features)
        queries = {name: torch.cat(parts) for name, parts in rows.items()}
        for features in queries.values():
            (1 - features @ gallery.T).argsort(dim=-1)
        return queries["composed"]

    def _queries(self, group: QueryGroup, part: range, references: Tensor) -> dict[str, Tensor]:
        prompts = self.tokenizer([group.prompts[i][0] for i in part]).to(self.clip.device)
        texts = self.tokenizer([group.texts[i][0] for i in part]).to(self.clip.device)
        embedding = self._embed(references)
        tokens = self.clip.visual.transformer(self.clip.visual._embeds(references))  # the second pass
        self.passes += len(references)
        words = plain_mapper(self.mapper, plain_text(self.clip, prompts), ImageFeatures(embedding, tokens))
        image, text = normalize(embedding, dim=-1), normalize(plain_text(self.clip, texts), dim=-1)
        return {
            "composed": normalize(plain_text(self.clip, prompts, words), dim=-1),
            "image": image,
            "text": text,
            "mixture": normalize(image + text, dim=-1),
        }

    def _read(self, sources: list[ImageSource]) -> Tensor:
        return torch.stack([self.preparation(source) for source in sources]).to(self.clip.device)

    def _embed(self, images: Tensor) -> Tensor:
        self.passes += len(images)
        return self.clip.visual(images)
