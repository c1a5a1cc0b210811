"""Zero-shot accuracy of the tiny CLIP on drawn scenes."""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.prompts import Tokenizer
from context_i2w.toy_world.scenes import Scene, pick, random_things, stream_key
from context_i2w.toy_world.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    DOMAINS,
    GARMENTS,
    KINDS,
    LENGTHS,
    PATTERNS,
    PLACES,
    REAL,
    WHITE,
    describe,
    with_article,
)
from context_i2w.toy_world.writing import draw_arrays
from prompt_bank import Bank, banks

BATCH = 256


class Probe:
    """Class embeddings of one CLIP, and accuracies over drawn scenes."""

    def __init__(self, clip: FrozenCLIP):
        self.clip, self.tokenizer = clip, Tokenizer()
        self.banks = {bank.name: bank for bank in banks()}

    def texts(self, texts: list[str]) -> Tensor:
        """Unit-length embeddings [texts, E]."""
        return F.normalize(self.clip.encode_text(self.tokenizer(texts)), dim=-1)

    def classes(self, bank: Bank, values: tuple[str, ...], place: int) -> Tensor:
        """[values, E]: for each value of one half of the bank's keys the mean over the other half."""
        chosen = [[text for key, text in bank.prompts.items() if key[place] == value] for value in values]
        return torch.stack([F.normalize(self.texts(texts).mean(0), dim=0) for texts in chosen])

    def images(self, scenes: list[Scene]) -> Tensor:
        """Unit-length embeddings [scenes, E]."""
        pixels = torch.from_numpy(draw_arrays(scenes)).permute(0, 3, 1, 2)
        batches = tqdm(pixels.split(BATCH), desc="encoding", leave=False)
        return F.normalize(torch.cat([self.clip.encode_image(batch).embedding for batch in batches]), dim=-1)

    def accuracy(self, images: Tensor, truth: list[str], bank: str, values: tuple[str, ...], place: int) -> float:
        """Share of images whose nearest class is the true one."""
        nearest = (images @ self.classes(self.banks[bank], values, place).T).argmax(1).tolist()
        return 100 * float(np.mean([values[n] == t for n, t in zip(nearest, truth)]))


def single_scenes(domain: str, count: int, white: bool = False) -> list[Scene]:
    """Pictures of one thing, every kind equally often, on a place or cut out on white."""
    key = stream_key(0, f"probe/{domain}/{white}")
    scenes = []
    for number in range(count):
        rng = np.random.default_rng((*key, number))
        things = random_things(rng, 1, (KINDS[number % len(KINDS)],))
        scene = Scene(things, pick(rng, PLACES), domain, (*key, number))
        scenes.append(replace(scene, background=WHITE, cutout=True) if white else scene)
    return scenes


def pair_scenes(count: int) -> list[Scene]:
    """Pictures of two things of different kinds, of any domain."""
    key = stream_key(0, "probe/pairs")
    rngs = [np.random.default_rng((*key, number)) for number in range(count)]
    return [Scene(random_things(r, 2), pick(r, PLACES), pick(r, DOMAINS), (*key, n)) for n, r in enumerate(rngs)]


def measure(probe: Probe, count: int) -> dict[str, float]:
    """All figures, in percent; `count` scenes of each sort."""
    scenes = {domain: single_scenes(domain, count) for domain in DOMAINS}
    scenes["cut out on white"] = white = single_scenes(REAL, count, white=True)
    images = {name: probe.images(shown) for name, shown in scenes.items()}
    results = {}
    for name, shown in scenes.items():
        results[f"kind, {name}"] = probe.accuracy(images[name], [s.kinds()[0] for s in shown], "kind", KINDS, 1)
    # White belongs to the backgrounds: as many pictures of it as of each place.
    share = min(count, count * len(DOMAINS) // len(PLACES))
    every = [scene for domain in DOMAINS for scene in scenes[domain]] + white[:share]
    every_image = torch.cat([*map(images.get, DOMAINS), images["cut out on white"][:share]])
    return results | attributes(probe, every, every_image) | pairs(probe, pair_scenes(count))


def attributes(probe: Probe, scenes: list[Scene], images: Tensor) -> dict[str, float]:
    """Background, domain, colour, pattern, length of single things; stone has no colour."""

    def over(name: str, values: tuple[str, ...], place: int, value_of, chosen=lambda scene: True) -> float:
        kept = [number for number, scene in enumerate(scenes) if chosen(scene)]
        return probe.accuracy(images[kept], [value_of(scenes[n]) for n in kept], name, values, place)

    return {
        "scene": over("scene", BACKGROUNDS, 1, lambda s: s.background),
        "domain": over("kind", DOMAINS, 0, lambda s: s.domain),
        "colour": over("colour", COLOURS, 0, lambda s: s.things[0].colour, lambda s: s.domain != "sculpture"),
        "pattern": over("pattern", PATTERNS, 0, lambda s: s.things[0].pattern),
        "length": over("length", LENGTHS, 0, lambda s: s.things[0].length, lambda s: s.kinds()[0] in GARMENTS),
    }


def pairs(probe: Probe, scenes: list[Scene]) -> dict[str, float]:
    """Both kinds among the two nearest; and which colour belongs to which of two things (chance: 50)."""
    images = probe.images(scenes)
    nearest = (images @ probe.classes(probe.banks["kind"], KINDS, 1).T).topk(2).indices.tolist()
    found = [len({KINDS[n] for n in two} & set(scene.kinds())) / 2 for two, scene in zip(nearest, scenes)]
    told = [
        n
        for n, scene in enumerate(scenes)
        if scene.domain != "sculpture" and len({thing.colour for thing in scene.things}) == 2
    ]
    right = probe.texts([_coloured_pair(scenes[n], False) for n in told])
    swapped = probe.texts([_coloured_pair(scenes[n], True) for n in told])
    bound = (images[told] * (right - swapped)).sum(1) > 0
    return {
        "two kinds, recall": 100 * float(np.mean(found)),
        "colour-object binding": 100 * bound.float().mean().item(),
    }


def _coloured_pair(scene: Scene, swapped: bool) -> str:
    first, second = scene.things
    colours = (second.colour, first.colour) if swapped else (first.colour, second.colour)
    return " and ".join(
        with_article(describe(colour, None, None, thing.kind)) for colour, thing in zip(colours, scene.things)
    )
