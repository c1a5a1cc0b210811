"""What a picture shows: things with attributes, a background, a domain; and how such scenes are drawn by lot.

Random numbers: every scene has its own generator, made of the world's seed, the stream's name and the scene's
number, so no scene depends on another one nor on the number of processes. Streams (pretraining, training pairs,
each benchmark's dev and test copy) never share a scene: attributes recur, a drawing does not.
"""

import zlib
from dataclasses import dataclass, replace

import numpy as np

from context_i2w.toy_world.vocabulary import COLOURS, CONVERTED, GARMENTS, KINDS, LENGTHS, PATTERNS, PLACES, REAL, WHITE


@dataclass(frozen=True)
class Thing:
    """One object: its kind and attributes; only garments have a length."""

    kind: str
    colour: str
    pattern: str = "plain"
    length: str | None = None


@dataclass(frozen=True)
class Scene:
    """A picture to draw. `seed` settles places, sizes and grain; `cutout`: one thing fills the frame."""

    things: tuple[Thing, ...]
    background: str
    domain: str
    seed: tuple[int, ...]
    cutout: bool = False

    def kinds(self) -> tuple[str, ...]:
        return tuple(thing.kind for thing in self.things)

    def changed(self, *seed: int, **fields) -> "Scene":
        """The scene with other fields, drawn anew."""
        return replace(self, seed=(*self.seed, *seed), **fields)


def stream_key(seed: int, stream: str) -> tuple[int, int]:
    """The numbers that a stream's generators start from."""
    return seed, zlib.crc32(stream.encode())


def random_thing(rng: np.random.Generator, kind: str) -> Thing:
    """A thing of this kind with random attributes."""
    length = pick(rng, LENGTHS) if kind in GARMENTS else None
    return Thing(kind, pick(rng, COLOURS), pick(rng, PATTERNS), length)


def random_things(rng: np.random.Generator, count: int, kinds: tuple[str, ...] = KINDS) -> tuple[Thing, ...]:
    """`count` things of different kinds."""
    return tuple(random_thing(rng, kinds[i]) for i in rng.permutation(len(kinds))[:count])


def random_scene(key: tuple[int, ...], number: int, counts: tuple[float, float, float] = (0.45, 0.35, 0.2)) -> Scene:
    """Scene `number` of the stream, as the open web might show it: any domain and background, one to three things.

    counts: shares of one, two and three things. A quarter of the single ones are cut out on white.
    """
    seed = (*key, number)
    rng = np.random.default_rng(seed)
    things = random_things(rng, 1 + int(rng.choice(3, p=counts)))
    domain = REAL if rng.random() < 0.36 else pick(rng, CONVERTED)
    if len(things) == 1 and rng.random() < 0.25:
        return Scene(things, WHITE, domain if rng.random() < 0.5 else REAL, seed, cutout=rng.random() < 0.7)
    background = WHITE if rng.random() < 0.08 else pick(rng, PLACES)
    return Scene(things, background, domain, seed)


def pick(rng: np.random.Generator, choices):
    """One of the choices, all equally likely."""
    return choices[int(rng.integers(len(choices)))]


def other(rng: np.random.Generator, choices, current):
    """One of the choices that is not the current one."""
    return pick(rng, [choice for choice in choices if choice != current])
