"""Prompts that name single attributes of the toy world, and which of them are true of a scene.

Pretraining classifies every image against them beside the contrastive loss; the probe measures with them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from context_i2w.toy_world.scenes import Scene, Thing
from context_i2w.toy_world.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    DOMAINS,
    GARMENTS,
    KINDS,
    LENGTHS,
    PATTERNS,
    REAL,
    WHERE,
    describe,
    with_article,
)

_MEDIUM = {domain: f"a {'photo' if domain == REAL else domain}" for domain in DOMAINS}


@dataclass(frozen=True)
class Bank:
    """Prompts keyed by a pair of attributes; `keys_of` gives the keys that are true of a scene, maybe none."""

    name: str
    prompts: dict[tuple[str, str], str]
    keys_of: Callable[[Scene], list[tuple[str, str]]]

    @cached_property
    def index(self) -> dict[tuple[str, str], int]:
        return {key: number for number, key in enumerate(self.prompts)}

    def labels(self, scene: Scene) -> list[int]:
        """Numbers of the prompts that are true of the scene."""
        return [self.index[key] for key in self.keys_of(scene)]


def banks() -> list[Bank]:
    """Kind × domain, colour × kind, pattern × kind, length × garment, background × domain."""
    return [
        Bank(
            "kind",
            {(d, k): f"{_MEDIUM[d]} of {with_article(k)}" for d in DOMAINS for k in KINDS},
            lambda scene: [(scene.domain, kind) for kind in scene.kinds()],
        ),
        _attribute_bank("colour", COLOURS, KINDS, lambda s, t: None if s.domain == "sculpture" else t.colour),
        _attribute_bank("pattern", PATTERNS, KINDS, lambda s, t: t.pattern),
        _attribute_bank("length", LENGTHS, GARMENTS, lambda s, t: t.length),
        Bank(
            "scene",
            {(d, b): f"{_MEDIUM[d]} {WHERE[b]}" for d in DOMAINS for b in BACKGROUNDS},
            lambda scene: [(scene.domain, scene.background)],
        ),
    ]


def _attribute_bank(
    name: str, values: tuple[str, ...], kinds: tuple[str, ...], value_of: Callable[[Scene, Thing], str | None]
) -> Bank:
    prompts = {(v, k): with_article(describe(v, None, None, k)) for v in values for k in kinds}

    def keys_of(scene: Scene) -> list[tuple[str, str]]:
        return [(value, t.kind) for t in scene.things if (value := value_of(scene, t))]

    return Bank(name, prompts, keys_of)
