"""How a query is formed: the methods of composed retrieval by name, each a rule over a few unit vectors.

Vectors: v the reference image's embedding; s the description's; t(I, P) the composed prompt P, its placeholder being
the pseudo-word token; t(I) the same token in "a photo of [*]", which asks for nothing. norm(x) = x / ‖x‖.

    image, text      v; s
    image+text       norm(v + s)
    image*text       ranks by max(v·g, 0) · max(s·g, 0), g an image of the gallery      (arXiv 2510.25387, 2412.03297)
    composed         t(I, P), the published query of Pic2Word, SEARLE, LinCIR and Context-I2W
    anchored:W       norm((1 − W) t(I, P) + W v)
    blended:W        norm((1 − W) t(I, P) + W norm(v + s));  blended:W:A  with slerp(v, s, A) in place of the sum
    pdv:B:AI:AT      norm((1 − B)(v + AI Δ) + B (t(I) + AT Δ)), Δ = t(I, P) − t(I)    (PDV-F, arXiv 2502.07215)
    slerp:A          sin((1 − A)θ)/sin θ · v + sin(Aθ)/sin θ · s, θ between v and s   (arXiv 2405.00571)

A mapper that sees the description gives PDV two readings of t(I): the token of (I, P), or with `:plain` at the end the
token of (I, "a photo of [*]"). A bare name stands for the weights of DEFAULTS, the same for every benchmark.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from context_i2w.errors import UserError

if TYPE_CHECKING:  # the command line knows the methods without torch
    from torch import Tensor

IMAGE_ALONE = "a photo of [*]"  # the prompt of t(I)
# t(I) with the token of (I, P), and with that of (I, IMAGE_ALONE); the names of the vectors that need a mapper.
OF_MAPPER = ("composed", "alone", "alone:plain")
Vectors = Mapping[str, "Tensor"]  # name -> unit rows [Q, E]


@dataclass(frozen=True)
class Vector:
    """One of the vectors as it is: image, text, composed, alone, alone:plain."""

    name: str

    @property
    def needs(self) -> frozenset[str]:
        return frozenset([self.name])

    def __call__(self, vectors: Vectors) -> Tensor:
        return vectors[self.name]


@dataclass(frozen=True)
class WeightedSum:
    """norm(Σ weight · part), a part being a vector or a query of its own."""

    terms: tuple[tuple[float, Query], ...]

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(part.needs for _, part in self.terms))

    def __call__(self, vectors: Vectors) -> Tensor:
        return _unit(functools.reduce(operator.add, (weight * part(vectors) for weight, part in self.terms)))


@dataclass(frozen=True)
class Slerp:
    """On the arc from v to s, `weight` of the way; where the two nearly coincide, the straight mix."""

    weight: float
    needs = frozenset(["image", "text"])

    def __call__(self, vectors: Vectors) -> Tensor:
        import torch

        image, text = vectors["image"], vectors["text"]
        angle = (image * text).sum(-1, keepdim=True).clamp(-1, 1).acos()
        near, sine = angle.sin() < 1e-4, angle.sin().clamp(min=1e-4)
        of_image = torch.where(near, 1 - self.weight, ((1 - self.weight) * angle).sin() / sine)
        of_text = torch.where(near, self.weight, (self.weight * angle).sin() / sine)
        return _unit(of_image * image + of_text * text)


@dataclass(frozen=True)
class Product:
    """No vector but a way to rank: an image's score is the product of its similarities to both, each 0 at least."""

    factors: tuple[str, str]

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(self.factors)

    def __call__(self, vectors: Vectors) -> Tensor:
        raise UserError(f"{'*'.join(self.factors)} is not one vector: the evaluation ranks by it, no index does")


Query = Vector | WeightedSum | Slerp | Product


def _unit(rows: Tensor) -> Tensor:
    from torch.nn.functional import normalize

    return normalize(rows, dim=-1)


@dataclass(frozen=True)
class Method:
    """A method by the name that it was asked for: `method(vectors)` is the unit query [Q, E]; `needs` names vectors."""

    name: str
    query: Query

    @property
    def needs(self) -> frozenset[str]:
        return self.query.needs

    @property
    def uses_mapper(self) -> bool:
        return not self.needs.isdisjoint(OF_MAPPER)

    def __call__(self, vectors: Vectors) -> Tensor:
        return self.query(vectors)


def parse_method(text: str) -> Method:
    """The method of a name. Raises UserError for an unknown one, and for weights that are none or out of range."""
    name, *words = DEFAULTS.get(text, text).split(":")
    if name not in _FORMS:
        raise UserError(f"{text!r}: no method of a query; known are {', '.join(FORMS)}")
    form = _FORMS[name]
    plain = name == "pdv" and words[-1:] == ["plain"]
    words = words[:-1] if plain else words
    if len(words) not in form.counts:
        raise UserError(f"{text!r}: {form.shown} is expected")
    weights = [_weight(word, most, text, form) for word, most in zip(words, form.most)]
    return Method(text, form.build(*weights, *[True] * plain))


def anchored(weight: float) -> WeightedSum:
    return WeightedSum(((1 - weight, COMPOSED), (weight, IMAGE)))


def blended(weight: float, arc: float | None = None) -> WeightedSum:
    return WeightedSum(((1 - weight, COMPOSED), (weight, SUM if arc is None else Slerp(arc))))


def pdv(beta: float, alpha_image: float, alpha_text: float, plain: bool = False) -> WeightedSum:
    """The published formula, gathered by vector."""
    of_composed = (1 - beta) * alpha_image + beta * alpha_text
    alone = Vector("alone:plain" if plain else "alone")
    return WeightedSum(((1 - beta, IMAGE), (of_composed, COMPOSED), (beta - of_composed, alone)))


class _Form(NamedTuple):
    """shown: to people; build(*weights); counts: how many weights; most: the largest value of each."""

    shown: str
    build: Callable[..., Query]
    counts: tuple[int, ...]
    most: tuple[int, ...] = (1, 1)


def _weight(word: str, most: int, text: str, form: _Form) -> float:
    try:
        weight = float(word)
    except ValueError:
        raise UserError(f"{text!r}: {word!r} is no weight; {form.shown} is expected") from None
    if not 0 <= weight <= most:  # nor NaN
        raise UserError(f"{text!r}: weight {word} is not from 0 to {most}; {form.shown} is expected")
    return weight


IMAGE, TEXT, COMPOSED = Vector("image"), Vector("text"), Vector("composed")
SUM = WeightedSum(((1, IMAGE), (1, TEXT)))
_FORMS = {
    "image": _Form("image", lambda: IMAGE, (0,)),
    "text": _Form("text", lambda: TEXT, (0,)),
    "image+text": _Form("image+text", lambda: SUM, (0,)),
    "image*text": _Form("image*text", lambda: Product(("image", "text")), (0,)),
    "composed": _Form("composed", lambda: COMPOSED, (0,)),
    "anchored": _Form("anchored:W", anchored, (1,)),
    "blended": _Form("blended:W or blended:W:A", blended, (1, 2)),
    "pdv": _Form("pdv:B:AI:AT or pdv:B:AI:AT:plain", pdv, (3,), (1, 10, 10)),
    "slerp": _Form("slerp:A", Slerp, (1,)),
}
FORMS = tuple(form.shown for form in _FORMS.values())
# Chosen on the toy world's dev set by scripts/sweep.py (docs/evaluation.md says how).
DEFAULTS = {"anchored": "anchored:0.2", "blended": "blended:0.7:0.65", "pdv": "pdv:0.7:1:1", "slerp": "slerp:0.65"}
RECOMMENDED = DEFAULTS["blended"]
DEFAULT_METHODS = ("image", "text", "image+text", "composed", RECOMMENDED)
PLAIN_METHODS = ("image", "text", "image+text", "slerp")  # of CLIP without a mapper
