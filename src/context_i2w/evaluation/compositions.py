"""What one mapper composes for a benchmark: each distinct composition once, as the images it waits for arrive."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from context_i2w.benchmarks.base import Benchmark
from context_i2w.data.reading import batched
from context_i2w.distributed import Process
from context_i2w.model.clip import FrozenCLIP, ImageFeatures
from context_i2w.model.images import ImageSource
from context_i2w.model.mappers import Mapper
from context_i2w.model.prompts import template
from context_i2w.model.queries import IMAGE_ALONE

ALONE = template(IMAGE_ALONE)


class Composition(NamedTuple):
    """The pseudo-word token of an image (and a condition, for a mapper that sees it) in a prompt."""

    source: ImageSource
    condition: str | None
    prompt: str


def compositions(vector: str, source: ImageSource, prompts: Sequence[str], mapper: Mapper) -> tuple[Composition, ...]:
    """Those whose mean is a query's vector `composed`, `alone` or `alone:plain` (model/queries.py)."""
    conditions = [ALONE] if vector == "alone:plain" else prompts
    found = [
        Composition(source, c if mapper.uses_condition else None, c if vector == "composed" else ALONE)
        for c in conditions
    ]
    return tuple(dict.fromkeys(found))


def all_compositions(benchmark: Benchmark, vectors: Sequence[str], mapper: Mapper) -> dict[Composition, int]:
    """The distinct ones that the vectors need, each with its number."""
    return numbered(
        composition
        for vector in vectors
        for group in benchmark.groups
        for source, prompts in zip(group.references, group.prompts)
        for composition in compositions(vector, source, prompts, mapper)
    )


def numbered(items: Iterable) -> dict:
    """Distinct items in order of appearance, each with its number."""
    return {item: number for number, item in enumerate(dict.fromkeys(items))}


@dataclass(frozen=True)
class PromptIds:
    """Tokenised prompts and encoded conditions of a benchmark, by text."""

    prompts: Mapping[str, int]
    ids: Tensor  # [P, L]
    places: Tensor  # [P, L], of the placeholders
    conditions: Mapping[str, int]
    features: Tensor  # [C, E]


class Composer:
    """features [S, E], unit: row `numbers[composition]`; filled by `see`. done: numbers of the rows that are filled."""

    def __init__(
        self, mapper: Mapper, numbers: Mapping[Composition, int], images: Mapping[ImageSource, int], clip: FrozenCLIP
    ):
        self.mapper, self.numbers, self.clip = mapper, numbers, clip
        self.features = torch.empty(len(numbers), clip.sizes.embed_dim, device=clip.device)
        self.done: list[int] = []
        self.waiting: dict[int, list[Composition]] = {}
        for composition in numbers:
            self.waiting.setdefault(images[composition.source], []).append(composition)

    def see(
        self,
        indices: Sequence[int],
        seen: ImageFeatures,
        texts: PromptIds,
        batch_size: int,
        process: Process | None = None,
    ) -> None:
        """Composes whatever waits for the images of these numbers; seen: their features, in the same order.

        process: one of several that see the same images and share what is to be composed.
        """
        jobs = [(row, job) for row, index in enumerate(indices) for job in self.waiting.get(index, ())]
        for part in (process or Process()).share(batched(jobs, batch_size)):
            self._compose(part, seen, texts)

    def _compose(self, jobs: Sequence[tuple[int, Composition]], seen: ImageFeatures, texts: PromptIds) -> None:
        device = self.clip.device
        words: dict[tuple[int, str | None], int] = {}  # a token serves every prompt that it stands in
        word_of = [words.setdefault((row, job.condition), len(words)) for row, job in jobs]
        rows = torch.tensor([row for row, _ in words], device=device)
        condition = None
        if self.mapper.uses_condition:
            condition = texts.features[[texts.conditions[text] for _, text in words if text is not None]]
        tokens = seen.tokens[rows] if self.mapper.uses_tokens else None
        pseudo_words = self.mapper(condition, ImageFeatures(seen.embedding[rows], tokens))[word_of]
        prompts = [texts.prompts[job.prompt] for _, job in jobs]
        composed = self.clip.compose(texts.ids[prompts], pseudo_words, texts.places[prompts])
        numbers = [self.numbers[job] for _, job in jobs]
        self.features[numbers] = normalize(composed.float(), dim=-1)
        self.done += numbers
