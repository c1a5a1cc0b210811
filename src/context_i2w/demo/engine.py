"""What the gallery, the page and the terminal show: the answer to one reference and one description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from context_i2w.demo.pictures import change_overlay, overlay
from context_i2w.errors import UserError
from context_i2w.model.attention import attention_maps
from context_i2w.model.clip import ImageFeatures
from context_i2w.model.images import BrokenImage
from context_i2w.model.mappers import ContextI2W
from context_i2w.model.nearest_words import NearestWords
from context_i2w.model.prompts import readable
from context_i2w.search.index import Hit, Index
from context_i2w.search.pictures import Picture, read_picture
from context_i2w.search.query import IMAGE_ALONE, Query, parse_query
from context_i2w.search.retriever import Retriever

BASELINES = {"image": "image only", "text": "text only", "image+text": "image + text"}


@dataclass(frozen=True)
class Look:
    """A reference after its one vision pass. crop: the square part of it that CLIP sees."""

    image: Image.Image
    crop: Image.Image
    features: ImageFeatures
    row: int | None = None  # in the index, if it is one of its images


@dataclass(frozen=True)
class HeatMap:
    """Pictures (JPEG) of a map over the reference, and of its change from the description-free prompt's map."""

    title: str
    note: str
    picture: bytes
    change: bytes


@dataclass(frozen=True)
class Answer:
    """prompt: as composed. rows: title -> hits. maps: of each Context-I2W mapper. words: title -> nearest words."""

    prompt: str
    rows: dict[str, list[Hit]]
    maps: list[HeatMap]
    words: dict[str, list[tuple[str, float]]]


class Engine:
    """An index and the mappers (by title) that search it; they share one CLIP."""

    def __init__(self, index: Index, mappers: Mapping[str, Retriever]):
        self.index = index
        self.mappers = dict(mappers)
        self.retriever = next(iter(self.mappers.values()))
        self.nearest_words = NearestWords(self.retriever.clip)

    def look(self, picture: Picture, name: str | None = None) -> Look:
        """One vision pass; name: the picture's name in the index, which it must not find again.

        Raises UserError if the picture can't be read.
        """
        try:
            image = read_picture(picture)
            crop = self.retriever.preparation.crop(image)
        except BrokenImage as error:
            raise UserError(f"reference {error}") from None
        row = self.index.row(name) if name is not None and name in self.index else None
        return Look(image, crop, self.retriever.see([image]), row)

    def answer(
        self, look: Look, description: str, k: int = 10, compare: bool = False, with_maps: bool = True
    ) -> Answer:
        """compare: the baselines too. Raises UserError for a description that can't be composed."""
        query = parse_query(description, 1)
        features: dict[str, Tensor] = {}
        if compare:
            features |= {
                title: self.retriever.query_feature(query, look.features, name) for name, title in BASELINES.items()
            }
        words, maps = {}, []
        for title, retriever in self.mappers.items():
            features[title] = retriever.query_feature(query, look.features)
            words[title] = self.nearest_words(retriever.pseudo_words(query, look.features))[0]
            if with_maps and isinstance(retriever.mapper, ContextI2W):
                maps += heat_maps(retriever, query, look)
        hidden = [[] if look.row is None else [look.row]] * len(features)
        hits = self.index.nearest(torch.cat(list(features.values())), k, hidden)
        return Answer(readable(query.text), dict(zip(features, hits)), maps, words)


def heat_maps(retriever: Retriever, query: Query, look: Look) -> list[HeatMap]:
    """The selector's strength and each extractor query's attention, beside their change from `a photo of [*]`."""
    condition = torch.cat([retriever.condition(query), retriever.condition(parse_query(IMAGE_ALONE, 1))])
    twice = ImageFeatures(*(part.expand(2, *part.shape[1:]) for part in look.features))
    maps = attention_maps(retriever.mapper, condition, twice)
    strength = maps.strength / maps.strength.mean(dim=-1, keepdim=True)
    attention = maps.queries * maps.queries.shape[-1]  # 1: an even share
    titles = ["Intent View Selector", *(f"extractor query {n}" for n in range(1, attention.shape[1] + 1))]
    stacked = torch.cat([strength[:, None], attention], dim=1)
    return [_heat_map(title, look.crop, *pair) for title, pair in zip(titles, stacked.unbind(dim=1))]


def _heat_map(title: str, crop: Image.Image, now: Tensor, before: Tensor) -> HeatMap:
    """Colours run from the map's least to its most; the note gives both, so that a flat map is seen to be flat."""
    low, high = now.min(), now.max()
    change = now - before
    most = change.abs().max().clamp(min=1e-6)
    note = f"{low:.2f} to {high:.2f} × even, moved by up to {most:.2f}"
    shown = (now - low) / (high - low).clamp(min=1e-6)
    return HeatMap(title, note, overlay(crop, shown), change_overlay(crop, change / most))


def by_title(retrievers: Sequence[Retriever], names: Sequence[str]) -> dict[str, Retriever]:
    """Retrievers by their method's name, with the checkpoint's name where two share it."""
    kinds = [_kind(retriever) for retriever in retrievers]
    titles = [kind if kinds.count(kind) == 1 else f"{kind} ({name})" for kind, name in zip(kinds, names)]
    return dict(zip(titles, retrievers))


def _kind(retriever: Retriever) -> str:
    title = getattr(retriever.mapper, "title", retriever.mapper_name)
    return (
        f"{title} without context"
        if isinstance(retriever.mapper, ContextI2W) and not retriever.mapper.uses_condition
        else title
    )
