"""Domain conversion in ImageNet-R's layout: from a photo of a kind to cartoon, origami, toy and sculpture of it."""

from pathlib import Path

import numpy as np

from context_i2w.toy_world.scenes import Scene, pick, random_thing, stream_key
from context_i2w.toy_world.sizes import Sizes
from context_i2w.toy_world.vocabulary import CONVERTED, KINDS, PLACES, REAL, WNIDS
from context_i2w.toy_world.writing import Drawing, write_drawings

PER_DOMAIN = 1000  # label = 1000 x domain + class
REAL_DOMAIN = 6


def write_imagenet(root: Path, copy: str, seed: int, sizes: Sizes, workers: int | None = None) -> None:
    """Writes `imgnet/` under `root`: photos by class, renditions by class, and the two lists.

    The number of renditions differs from class to class, as in ImageNet-R.
    """
    key = stream_key(seed, f"{copy}/imgnet")
    rng = np.random.default_rng(key)
    queries: dict[str, Scene] = {}
    renditions: dict[str, Scene] = {}
    for number in range(sizes.imagenet_queries):
        kind = KINDS[number % len(KINDS)]
        name = f"imgnet/real/{WNIDS[kind]}/ILSVRC2012_val_{number:08d}.png"
        queries[name] = _scene(kind, REAL, (*key, number), rng)
    for kind in KINDS:
        for domain in CONVERTED:
            low, high = sizes.imagenet_renditions * 2 // 3, sizes.imagenet_renditions * 4 // 3
            for number in range(int(rng.integers(max(low, 1), high + 1))):
                name = f"imgnet/imagenet-r/{WNIDS[kind]}/{domain}_{number}.png"
                renditions[name] = _scene(kind, domain, (*key, sizes.imagenet_queries + len(renditions)), rng)
    everything = renditions | queries
    drawings = [Drawing(str(root / name), scene) for name, scene in everything.items()]
    write_drawings(drawings, workers, f"{copy}: ImageNet-R")
    # As published, the query list gives the class alone.
    query_lines = [f"{name} {_label(scene) % PER_DOMAIN}" for name, scene in queries.items()]
    (root / "imgnet" / "imgnet_real_query.txt").write_text("\n".join(query_lines) + "\n")
    target_lines = [f"{name} {_label(scene)}" for name, scene in everything.items()]
    (root / "imgnet" / "imgnet_targets.txt").write_text("\n".join(target_lines) + "\n")


def _scene(kind: str, domain: str, seed: tuple[int, ...], rng: np.random.Generator) -> Scene:
    return Scene((random_thing(rng, kind),), pick(rng, PLACES), domain, seed)


def _label(scene: Scene) -> int:
    domain = REAL_DOMAIN if scene.domain == REAL else CONVERTED.index(scene.domain)
    return PER_DOMAIN * domain + KINDS.index(scene.kinds()[0])
