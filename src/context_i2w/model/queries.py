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


def _unit(rows: Tensor) -> Tensor:
    from torch.nn.functional import normalize

    return normalize(rows, dim=-1)


def _sum(v: Vectors) -> Tensor:
    return _unit(v["image"] + v["text"])


def _no_vector(v: Vectors) -> Tensor:
    raise UserError(f"{PRODUCT} is not one vector: the evaluation ranks by it, no index does")


def _anchored(v: Vectors, weight: float) -> Tensor:
    return _unit((1 - weight) * v["composed"] + weight * v["image"])


def _blended(v: Vectors, weight: float, arc: float | None = None) -> Tensor:
    return _unit((1 - weight) * v["composed"] + weight * (_sum(v) if arc is None else _slerp(v, arc)))


def _pdv(v: Vectors, beta: float, alpha_image: float, alpha_text: float, alone: str = "alone") -> Tensor:
    """The published formula, gathered by vector."""
    of_composed = (1 - beta) * alpha_image + beta * alpha_text
    return _unit((1 - beta) * v["image"] + of_composed * v["composed"] + (beta - of_composed) * v[alone])


def _slerp(v: Vectors, weight: float) -> Tensor:
    """Where the two nearly coincide, the straight mix."""
    import torch

    image, text = v["image"], v["text"]
    angle = (image * text).sum(-1, keepdim=True).clamp(-1, 1).acos()
    near, sine = angle.sin() < 1e-4, angle.sin().clamp(min=1e-4)
    of_image = torch.where(near, 1 - weight, ((1 - weight) * angle).sin() / sine)
    of_text = torch.where(near, weight, (weight * angle).sin() / sine)
    return _unit(of_image * image + of_text * text)


class _Form(NamedTuple):
    """shown: to people; rule(vectors, *weights) -> [Q, E] of the vectors in `needs`; counts: how many weights;
    most: the largest value of each."""

    shown: str
    needs: tuple[str, ...]
    rule: Callable[..., Tensor]
    counts: tuple[int, ...] = (0,)
    most: tuple[int, ...] = (1, 1)


@dataclass(frozen=True)
class Method:
    """A method by the name that it was asked for: `method(vectors)` is the unit query [Q, E]; `needs` names vectors."""

    name: str
    form: _Form
    weights: tuple[float, ...]

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(self.form.needs)

    @property
    def uses_mapper(self) -> bool:
        return not self.needs.isdisjoint(OF_MAPPER)

    def __call__(self, vectors: Vectors) -> Tensor:
        return self.form.rule(vectors, *self.weights)


def parse_method(text: str) -> Method:
    """The method of a name. Raises UserError for an unknown one, and for weights that are none or out of range."""
    name, *words = DEFAULTS.get(text, text).split(":")
    if name not in _FORMS:
        raise UserError(f"{text!r}: no method of a query; known are {', '.join(FORMS)}")
    form = _FORMS[name]
    if name == "pdv" and words[-1:] == ["plain"]:
        form, words = _PDV_PLAIN, words[:-1]
    if len(words) not in form.counts:
        raise UserError(f"{text!r}: {form.shown} is expected")
    return Method(text, form, tuple(_weight(word, most, text, form) for word, most in zip(words, form.most)))


def _weight(word: str, most: int, text: str, form: _Form) -> float:
    try:
        weight = float(word)
    except ValueError:
        raise UserError(f"{text!r}: {word!r} is no weight; {form.shown} is expected") from None
    if not 0 <= weight <= most:  # nor NaN
        raise UserError(f"{text!r}: weight {word} is not from 0 to {most}; {form.shown} is expected")
    return weight


PRODUCT = "image*text"  # no vector but a way to rank
_FORMS = {
    **{name: _Form(name, (name,), operator.itemgetter(name)) for name in ("image", "text")},
    "image+text": _Form("image+text", ("image", "text"), _sum),
    PRODUCT: _Form(PRODUCT, ("image", "text"), _no_vector),
    "composed": _Form("composed", ("composed",), operator.itemgetter("composed")),
    "anchored": _Form("anchored:W", ("composed", "image"), _anchored, (1,)),
    "blended": _Form("blended:W or blended:W:A", ("composed", "image", "text"), _blended, (1, 2)),
    "pdv": _Form("pdv:B:AI:AT or pdv:B:AI:AT:plain", ("image", "composed", "alone"), _pdv, (3,), (1, 10, 10)),
    "slerp": _Form("slerp:A", ("image", "text"), _slerp, (1,)),
}
_PDV_PLAIN = _FORMS["pdv"]._replace(
    needs=("image", "composed", "alone:plain"), rule=functools.partial(_pdv, alone="alone:plain")
)
FORMS = tuple(form.shown for form in _FORMS.values())
# Chosen on the toy world's dev set by scripts/sweep.py (docs/evaluation.md says how).
DEFAULTS = {"anchored": "anchored:0.2", "blended": "blended:0.7:0.65", "pdv": "pdv:0.7:1:1", "slerp": "slerp:0.65"}
RECOMMENDED = DEFAULTS["blended"]
DEFAULT_METHODS = ("image", "text", "image+text", "composed", RECOMMENDED)
PLAIN_METHODS = ("image", "text", "image+text", "slerp")  # of CLIP without a mapper
