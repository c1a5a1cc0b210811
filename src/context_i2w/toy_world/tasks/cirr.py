"""Object manipulation in CIRR's format: image sets of six, made of a scene and five variants, each one change away."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from context_i2w.toy_world.scenes import Scene, other, pick, random_thing, random_things, stream_key
from context_i2w.toy_world.sizes import Sizes
from context_i2w.toy_world.vocabulary import COLOURS, KINDS, PATTERNS, PLACES, REAL, WHERE, describe, with_article
from context_i2w.toy_world.writing import Drawing, write_drawings, write_json

SET_SIZE = 6
DRAWN_AGAIN = 2  # further images of each set's scene: near copies of the reference that no query asks for
# A change of a scene: the changed one, and descriptions of the way there and back.
Change = tuple[Scene, str, str]


def write_cirr(root: Path, copy: str, seed: int, sizes: Sizes, workers: int | None = None) -> None:
    """Writes `cirr/` under `root`: captions, split file and images of a validation split."""
    folder = root / "cirr"
    key = stream_key(seed, f"{copy}/cirr")
    entries: list[dict] = []
    scenes: dict[str, Scene] = {}
    for number in range(sizes.cirr_sets):
        rng = np.random.default_rng((*key, number))
        base = Scene(random_things(rng, 1 + int(rng.integers(2))), pick(rng, PLACES), REAL, (*key, number))
        changes = [_CHANGES[i](base, rng) for i in rng.permutation(len(_CHANGES))[: SET_SIZE - 1]]
        family = [base, *(change[0] for change in changes), *([base] * DRAWN_AGAIN)]
        names = [f"dev-{number}-{i // 2}-img{i % 2}" for i in range(len(family))]
        scenes |= {name: scene.changed(i) for i, (name, scene) in enumerate(zip(names, family))}
        entries += _entries(number, names[:SET_SIZE], changes, rng)
    files = {name: f"./dev/{name}.png" for name in scenes}
    write_json(folder / "captions" / "cap.rc2.val.json", entries)
    write_json(folder / "image_splits" / "split.rc2.val.json", files)
    drawings = [Drawing(str(folder / files[name]), scene) for name, scene in scenes.items()]
    write_drawings(drawings, workers, f"{copy}: CIRR")


def _entries(number: int, members: list[str], changes: list[Change], rng: np.random.Generator) -> list[dict]:
    """A query for each change, there or back."""
    entries = []
    for position, (_, there, back) in enumerate(changes, start=1):
        reference, target, caption = (0, position, there) if rng.random() < 0.5 else (position, 0, back)
        entries.append(
            {
                "pairid": number * (SET_SIZE - 1) + position,
                "reference": members[reference],
                "target_hard": members[target],
                "target_soft": {members[target]: 1.0},
                "caption": caption,
                "img_set": {"id": number, "members": members, "reference_rank": reference, "target_rank": target},
            }
        )
    return entries


def _with_attribute(name: str, values: tuple[str, ...], scene: Scene, rng: np.random.Generator) -> Change:
    place = int(rng.integers(len(scene.things)))
    thing = scene.things[place]
    before, after = getattr(thing, name), other(rng, values, getattr(thing, name))
    changed = replace(thing, **{name: after})
    form = "is {word}" if len(scene.things) == 1 else pick(rng, ("the {kind} is {word}", "a {word} {kind}"))
    phrases = (form.format(word=word, kind=thing.kind) for word in (after, before))
    there, back = (with_article(p.removeprefix("a ")) if p.startswith("a ") else p for p in phrases)
    return _with_thing(scene, place, changed), there, back


def _move(scene: Scene, rng: np.random.Generator) -> Change:
    after = other(rng, PLACES, scene.background)
    form = pick(rng, ("{}", "is {}"))
    return replace(scene, background=after), form.format(WHERE[after]), form.format(WHERE[scene.background])


def _add(scene: Scene, rng: np.random.Generator) -> Change:
    thing = random_thing(rng, pick(rng, _absent(scene)))
    phrase = with_article(describe(thing.colour if rng.random() < 0.7 else None, None, None, thing.kind))
    there = f"{pick(rng, ('with', 'and', 'next to'))} {phrase}"
    return replace(scene, things=(*scene.things, thing)), there, f"without the {thing.kind}"


def _exchange(scene: Scene, rng: np.random.Generator) -> Change:
    place = int(rng.integers(len(scene.things)))
    old, new = scene.things[place], random_thing(rng, pick(rng, _absent(scene)))
    new = replace(new, colour=old.colour, pattern=old.pattern)
    there, back = (f"{with_article(a)} instead of the {b}" for a, b in ((new.kind, old.kind), (old.kind, new.kind)))
    return _with_thing(scene, place, new), there, back


def _restyle(scene: Scene, rng: np.random.Generator) -> Change:
    """Two attributes at once, said in one phrase."""
    place = int(rng.integers(len(scene.things)))
    old = scene.things[place]
    new = replace(old, colour=other(rng, COLOURS, old.colour), pattern=other(rng, PATTERNS, old.pattern))
    there, back = (with_article(describe(thing.colour, thing.pattern, None, thing.kind)) for thing in (new, old))
    return _with_thing(scene, place, new), there, back


_CHANGES: tuple[Callable[[Scene, np.random.Generator], Change], ...] = (
    partial(_with_attribute, "colour", COLOURS),
    partial(_with_attribute, "pattern", PATTERNS),
    _move,
    _add,
    _exchange,
    _restyle,
)


def _absent(scene: Scene) -> list[str]:
    return [kind for kind in KINDS if kind not in scene.kinds()]


def _with_thing(scene: Scene, place: int, thing) -> Scene:
    return replace(scene, things=(*scene.things[:place], thing, *scene.things[place + 1 :]))
