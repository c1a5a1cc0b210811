"""What the gallery, the page and the terminal show: the answer to one reference and one description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from PIL import Image
from torch import Tensor

from context_i2w.demo.pictures import CHANGE, overlay
from context_i2w.errors import UserError
from context_i2w.model.attention import attention_maps
from context_i2w.model.clip import ImageFeatures
from context_i2w.model.images import BrokenImage, as_image
from context_i2w.model.mappers import ContextI2W
from context_i2w.model.nearest_words import NearestWords
from context_i2w.model.prompts import MARK, readable
from context_i2w.model.queries import DEFAULTS, IMAGE_ALONE, RECOMMENDED, parse_method
from context_i2w.search.index import Hit, Index
from context_i2w.search.pictures import Picture
from context_i2w.search.query import Query, parse_query, parse_text
from context_i2w.search.retriever import Retriever
from context_i2w.search.vectors import QueryVectors

BASELINES = {"image": "image only", "text": "text only", "image+text": "image + text"}
KEPT = 16  # queries
SHOWN = 512  # pixels of the longer side of a reference that are kept
# Methods whose weight is that of the slider "stay with the picture … follow the words"; without a mapper, the other.
MIXES = {"anchored": "the picture", "blended": "picture + words"}
PLAIN_MIXES = {"slerp": "the words"}


@dataclass(frozen=True, eq=False)
class Look:
    """A reference after its one vision pass. crop: the square part of it that CLIP sees."""

    image: Image.Image
    crop: Image.Image
    features: ImageFeatures
    row: int | None = None  # in the index, if it is one of its images
    label: str = ""


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
    """An index and the mappers (by title) that search it; they share one CLIP, which may also search alone.

    What the last few queries needed of them is kept: another weight, number of results or look at maps costs no pass.
    """

    def __init__(self, index: Index, mappers: Mapping[str, Retriever]):
        self.index = index
        self.mappers = dict(mappers)
        self.retriever = next(iter(self.mappers.values()))
        self.mixes = PLAIN_MIXES if self.retriever.mapper is None else MIXES
        self.nearest_words = NearestWords(self.retriever.clip)
        self._vectors = lru_cache(KEPT)(self._make_vectors)
        self._words = lru_cache(KEPT)(self._find_words)
        self._maps = lru_cache(KEPT)(self._draw_maps)

    @property
    def method(self) -> str:
        """How queries are formed where nothing is said: as the page begins."""
        return mixed(*recommended(self.mixes))

    def look(self, picture: Picture, name: str | None = None, label: str = "") -> Look:
        """One vision pass; name: in the index, where it must not find itself. Raises UserError if it can't be read."""
        try:
            image = as_image(self.retriever.preparation.read(picture))
            crop = as_image(self.retriever.preparation.crop(image))
        except BrokenImage as error:
            raise UserError(f"reference {error}") from None
        row = self.index.row(name) if name is not None and name in self.index else None
        features = self.retriever.see([image])
        image.thumbnail((SHOWN, SHOWN))
        return Look(image, crop, features, row, label or name or "")

    def answer(
        self,
        looks: Look | Sequence[Look],
        description: str,
        k: int = 10,
        compare: bool = False,
        with_maps: bool = True,
        with_words: bool = True,
        method: str | None = None,
    ) -> Answer:
        """looks: the references; none: a query of text alone. compare: the baselines too.

        method: of model/queries.py, the recommended if None. Raises UserError for what can't be composed.
        """
        looks = (looks,) if isinstance(looks, Look) else tuple(looks)
        query, vectors = self._vectors(looks, description)
        rows = _rows(query, vectors, compare, method or self.method)
        hidden = [[look.row for look in looks if look.row is not None]] * len(rows)
        hits = self.index.nearest(torch.cat(list(rows.values())), k, hidden)
        maps = self._maps(looks, description) if with_maps and looks else []
        words = self._words(looks, description) if with_words and looks else {}
        return Answer(_shown(query), dict(zip(rows, hits)), maps, words)

    def _make_vectors(self, looks: tuple[Look, ...], description: str) -> tuple[Query, dict[str, QueryVectors]]:
        """The query, and by title what it is mixed of; the text is read once for all mappers."""
        query = parse_query(description, len(looks)) if looks else parse_text(description)
        features = [look.features for look in looks] or [ImageFeatures(torch.empty(0, 0), torch.empty(0, 0))]
        seen = ImageFeatures(*map(torch.cat, zip(*features)))
        vectors = {title: one.vectors([query], seen) for title, one in self.mappers.items()}
        text = next(iter(vectors.values()))["text"]
        for own in vectors.values():
            own["text"] = text
        return query, vectors

    def _find_words(self, looks: tuple[Look, ...], description: str) -> dict[str, list[tuple[str, float]]]:
        _, vectors = self._vectors(looks, description)
        found = {title: self.nearest_words(own["words"]) for title, own in vectors.items() if own.mapper is not None}
        return {title + _which(looks, n): near for title, words in found.items() for n, near in enumerate(words)}

    def _draw_maps(self, looks: tuple[Look, ...], description: str) -> list[HeatMap]:
        query = parse_query(description, len(looks))
        mappers = [one for one in self.mappers.values() if isinstance(one.mapper, ContextI2W)]
        pairs = [(one, n, look) for one in mappers for n, look in enumerate(looks)]
        return [heat for one, n, look in pairs for heat in heat_maps(one, query, look, _which(looks, n))]


def _which(looks: Sequence[Look], number: int) -> str:
    return f" of [*{number + 1}]" if len(looks) > 1 else ""


def _shown(query: Query) -> str:
    """The prompt for people; of several references, which one stands where."""
    if set(query.words) == {0}:
        return readable(query.text)
    first, *rest = query.text.split(MARK)
    return first + "".join(f"[*{word + 1}]{text}" for word, text in zip(query.words, rest))


def _rows(query: Query, vectors: Mapping[str, QueryVectors], compare: bool, method: str) -> dict[str, Tensor]:
    """Title -> query [1, E]."""
    first = next(iter(vectors.values()))
    if not query.words:  # of text alone
        return {BASELINES["text"]: first["text"]}
    rows = {title: parse_method(name)(first) for name, title in BASELINES.items()} if compare else {}
    return rows | {title: parse_method(method)(own) for title, own in vectors.items()}


def mixed(mix: str, weight: float) -> str:
    """The method of one of the mixes that stays with the picture by `weight`, with its default for any other weight."""
    name, _, *others = DEFAULTS[mix].split(":")
    return ":".join([name, f"{1 - weight if mix in PLAIN_MIXES else weight:g}", *others])


def recommended(mixes: Mapping[str, str]) -> tuple[str, float]:
    """The mix that a page begins with, and its weight."""
    best = RECOMMENDED.split(":")[0]
    mix = best if best in mixes else next(iter(mixes))
    weight = float(DEFAULTS[mix].split(":")[1])
    return mix, 1 - weight if mix in PLAIN_MIXES else weight


def heat_maps(retriever: Retriever, query: Query, look: Look, which: str = "") -> list[HeatMap]:
    """The selector's strength and each extractor query's attention, beside their change from `a photo of [*]`."""
    condition = torch.cat([retriever.condition(query), retriever.condition(parse_query(IMAGE_ALONE, 1))])
    twice = ImageFeatures(*(part.expand(2, *part.shape[1:]) for part in look.features))
    assert isinstance(retriever.mapper, ContextI2W)  # the others have no maps
    maps = attention_maps(retriever.mapper, condition, twice)
    strength = maps.strength / maps.strength.mean(dim=-1, keepdim=True)
    attention = maps.queries * maps.queries.shape[-1]  # 1: an even share
    titles = ["Intent View Selector", *(f"extractor query {n}" for n in range(1, attention.shape[1] + 1))]
    stacked = torch.cat([strength[:, None], attention], dim=1)
    return [_heat_map(title + which, look.crop, *pair) for title, pair in zip(titles, stacked.unbind(dim=1))]


def _heat_map(title: str, crop: Image.Image, now: Tensor, before: Tensor) -> HeatMap:
    """Colours run from the map's least to its most; the note gives both, so that a flat map is seen to be flat."""
    low, high = now.min(), now.max()
    change = now - before
    most = change.abs().max().clamp(min=1e-6)
    note = f"{low:.2f} to {high:.2f} × even, moved by up to {most:.2f}"
    shown = (now - low) / (high - low).clamp(min=1e-6)
    return HeatMap(title, note, overlay(crop, shown), overlay(crop, (change / most + 1) / 2, CHANGE))


def by_title(retrievers: Sequence[Retriever], names: Sequence[str]) -> dict[str, Retriever]:
    """Retrievers by their method's name, with the checkpoint's name where two share it."""
    kinds = [_kind(retriever) for retriever in retrievers]
    titles = [kind if kinds.count(kind) == 1 else f"{kind} ({name})" for kind, name in zip(kinds, names)]
    return dict(zip(titles, retrievers))


def _kind(retriever: Retriever) -> str:
    title = getattr(retriever.mapper, "title", retriever.mapper_name) or "CLIP without a mapper"
    blind = isinstance(retriever.mapper, ContextI2W) and not retriever.mapper.uses_condition
    return f"{title} without context" if blind else title
