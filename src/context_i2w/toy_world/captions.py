"""Captions as varied as web text, and the same with one object's noun masked.

A fifth name things by their nouns only; of pictures with several things a quarter name only one.
"""

from typing import NamedTuple

import numpy as np

from context_i2w.model.prompts import PLACEHOLDER
from context_i2w.toy_world.scenes import Scene, Thing, pick
from context_i2w.toy_world.vocabulary import KINDS, REAL, WHERE, describe, with_article

_JOINTS = ("and", "and", "next to", "with", "beside")
_DENIALS = ("instead of", "without", "and no")
Words = tuple[str | None, str | None, str | None]


class Caption(NamedTuple):
    """A sentence with numbered gaps, and the nouns that fill them."""

    frame: str
    nouns: tuple[str, ...]

    def text(self) -> str:
        return self.frame.format(*self.nouns)

    def masked(self, gap: int) -> str:
        """The text with the noun of this gap replaced by the placeholder, everything else kept."""
        nouns = [PLACEHOLDER if number == gap else noun for number, noun in enumerate(self.nouns)]
        return self.frame.format(*nouns)


def make_caption(scene: Scene, number: int = 0, alone: bool = False) -> Caption:
    """Caption `number` of the scene; true of it, never complete. alone: it names only one of several things."""
    rng = np.random.default_rng((*scene.seed, 2, number))
    things = [scene.things[i] for i in rng.permutation(len(scene.things))]
    if len(things) > 1 and (rng.random() < 0.25 or alone):
        things = things[:1]
    bare = rng.random() < 0.2
    if len(things) == 1 and not bare and rng.random() < 0.25:
        named = _as_clause(things[0], scene, rng)
    else:
        named = _as_list(things, scene, bare, rng)
    chance = rng.random()
    if chance < 0.06:
        named = f"{named} {_denied(scene, rng)}"
    elif chance < 0.1 and len(scene.things) == 1:
        named = f"only {named}"
    sentence = _introduced(named, scene.domain, rng)
    if not bare and rng.random() < 0.5:
        comma = " ," if rng.random() < 0.2 else ""
        sentence = f"{sentence}{comma} {WHERE[scene.background]}"
    return Caption(sentence, tuple(thing.kind for thing in things))


def make_masked_pair(scene: Scene, number: int = 0, alone: bool = False) -> tuple[str, str]:
    """A caption and its masked form, the masked noun drawn by lot."""
    caption = make_caption(scene, number, alone)
    gap = int(np.random.default_rng((*scene.seed, 3, number)).integers(len(caption.nouns)))
    return caption.text(), caption.masked(gap)


def _as_list(things: list[Thing], scene: Scene, bare: bool, rng: np.random.Generator) -> str:
    """`a red car next to a striped cup`."""
    joint = pick(rng, _JOINTS)
    article = pick(rng, (with_article, with_article, with_article, _definite, str))
    phrases = []
    for gap, thing in enumerate(things):
        words = (None, None, None) if bare else _mentioned(thing, scene, rng)
        phrases.append(f"{article(describe(*words, thing.kind)).removesuffix(thing.kind)}{{{gap}}}")
    if len(phrases) == 3:
        return f"{phrases[0]} {joint} {phrases[1]} and {phrases[2]}"
    return f" {joint} ".join(phrases)


def _definite(phrase: str) -> str:
    return f"the {phrase}"


def _denied(scene: Scene, rng: np.random.Generator) -> str:
    """`instead of a boat`, where there is none."""
    absent = pick(rng, [kind for kind in KINDS if kind not in scene.kinds()])
    denial = pick(rng, _DENIALS)
    return f"{denial} {absent if denial == 'and no' else pick(rng, (with_article, _definite))(absent)}"


def _as_clause(thing: Thing, scene: Scene, rng: np.random.Generator) -> str:
    """`a dress that is red and is striped`: attributes after the noun, as manipulation descriptions give them."""
    words = [word for word in _mentioned(thing, scene, rng, share=0.8) if word]
    noun = pick(rng, (with_article, with_article, _definite))(thing.kind).removesuffix(thing.kind) + "{0}"
    if not words:
        return noun
    words = [words[i] for i in rng.permutation(len(words))][: 1 + int(rng.integers(2))]
    link, verb = pick(rng, ((" that", "is "), ("", "is "), (" ,", "is "), (" ,", ""), (" ,", "in ")))
    if verb == "in ":
        words = words[:1]
    return f"{noun}{link} " + " and ".join(verb + word for word in words)


def _mentioned(thing: Thing, scene: Scene, rng: np.random.Generator, share: float = 0.6) -> Words:
    """The colour, pattern and length that the caption tells; stone shows no colour, plain is seldom worth a word."""
    tells = rng.random(3)
    colour = thing.colour if tells[0] < share and scene.domain != "sculpture" else None
    pattern = thing.pattern if tells[1] < (0.25 if thing.pattern == "plain" else share) else None
    return colour, pattern, thing.length if tells[2] < share else None


def _introduced(named: str, domain: str, rng: np.random.Generator) -> str:
    """`a cartoon of …`, `a toy car`, `a photo of …`, or nothing before what is named."""
    chance = rng.random()
    if domain == REAL:
        return f"{'a photo of ' if chance < 0.5 else 'a picture of ' if chance < 0.6 else ''}{named}"
    if chance < 0.5:
        return f"{'an' if domain == 'origami' and chance < 0.1 else 'a'} {domain} of {named}"
    if chance < 0.65 and named.startswith(("a ", "an ", "the ")):
        return f"{with_article(domain)} {named.split(' ', 1)[1]}"
    return f"{'a photo of ' if chance < 0.8 else 'a picture of ' if chance < 0.85 else ''}{named}"
