"""Domain conversion in ImageNet-R's layout: from a photo of a kind to cartoon, origami, toy and sculpture of it."""

from pathlib import Path

import numpy as np

from context_i2w.benchmarks.imagenet_lists import write_lists
from context_i2w.toy_world.scenes import Scene, pick, random_thing, stream_key
from context_i2w.toy_world.sizes import Sizes
from context_i2w.toy_world.vocabulary import CONVERTED, KINDS, PLACES, REAL, WNIDS
from context_i2w.toy_world.writing import Drawing, write_drawings


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
    drawings = [Drawing(str(root / name), scene) for name, scene in (renditions | queries).items()]
    write_drawings(drawings, workers, f"{copy}: ImageNet-R")
    targets = {name: (scene.domain, _class(scene)) for name, scene in renditions.items()}
    write_lists(root / "imgnet", targets, {name: _class(scene) for name, scene in queries.items()})


def _scene(kind: str, domain: str, seed: tuple[int, ...], rng: np.random.Generator) -> Scene:
    return Scene((random_thing(rng, kind),), pick(rng, PLACES), domain, seed)


def _class(scene: Scene) -> int:
    return KINDS.index(scene.kinds()[0])
