"""How much of Context-I2W's maps lies on the object that a description keeps, in toy scenes with two objects."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from context_i2w.evaluation.report import markdown_table
from context_i2w.model.attention import attention_maps
from context_i2w.model.clip import ImageFeatures
from context_i2w.search.query import parse_query
from context_i2w.search.retriever import Retriever
from context_i2w.toy_world.drawing import draw_with_masks
from context_i2w.toy_world.scenes import Scene, pick, random_things, stream_key
from context_i2w.toy_world.vocabulary import PLACES, REAL, with_article

# How a description keeps one object of two. The last is the form of the training captions: the masked noun is the
# object that the pseudo-word token stands for, and the other one is named.
FORMS = {
    "only": "a photo of [*] , only the {keep}",
    "without": "a photo of [*] without the {drop}",
    "and": "a photo of [*] and {a_drop}",
}


def make_scene(number: int) -> Scene:
    """A photograph-like scene with two objects of different kinds; no scene of the toy world's own streams."""
    key = (*stream_key(0, "attention"), number)
    rng = np.random.default_rng(key)
    return Scene(random_things(rng, 2), pick(rng, PLACES), REAL, key)


def patch_cover(mask: np.ndarray, side: int) -> Tensor:
    """Share of each patch that a mask [S, S] covers: [side · side]; S is a multiple of side."""
    size = mask.shape[0] // side
    return torch.from_numpy(mask.reshape(side, size, side, size).mean((1, 3))).float().flatten()


def maps_of(retriever: Retriever, image: Image.Image, descriptions: Sequence[str]) -> dict[str, Tensor]:
    """Map name -> [D, P], each row summing to 1, for one picture under D descriptions."""
    seen = retriever.see([image])
    condition = torch.cat([retriever.condition(parse_query(text, 1)) for text in descriptions])
    repeated = ImageFeatures(*(part.expand(len(condition), *part.shape[1:]) for part in seen))
    maps = attention_maps(retriever.mapper, condition, repeated)
    found = {
        "selector strength": maps.strength / maps.strength.sum(-1, keepdim=True),
        "all queries": maps.queries.mean(1),
    }
    return found | {f"query {number}": maps.queries[:, number - 1] for number in range(1, maps.queries.shape[1] + 1)}


def measure_scene(retriever: Retriever, scene: Scene) -> tuple[dict[str, dict[str, Tensor]], Tensor]:
    """Form -> map name -> mass [keep, object] on both objects; and the objects' shares of the picture [2]."""
    sizes = retriever.clip.sizes
    side = round((sizes.image_tokens - 1) ** 0.5)
    image, masks = draw_with_masks(scene, sizes.image_size)
    cover = torch.stack([patch_cover(mask, side) for mask in masks])
    found = {}
    for form, text in FORMS.items():
        kinds = scene.kinds()
        texts = [text.format(keep=kinds[k], drop=kinds[1 - k], a_drop=with_article(kinds[1 - k])) for k in (0, 1)]
        maps = maps_of(retriever, image, texts)
        found[form] = {name: values.cpu() @ cover.T for name, values in maps.items()}
    return found, cover.mean(dim=1)


def measure(retriever: Retriever, scenes: int) -> dict[str, dict[str, dict[str, float]]]:
    """Form -> map name -> what `summary` says."""
    measured = [measure_scene(retriever, make_scene(number)) for number in tqdm(range(scenes), "scenes", unit="scene")]
    area = torch.stack([area for _, area in measured])  # [scenes, object]
    mass = {
        form: {name: torch.stack([found[form][name] for found, _ in measured]) for name in maps}
        for form, maps in measured[0][0].items()
    }
    return {form: {name: summary(values, area) for name, values in maps.items()} for form, maps in mass.items()}


def summary(mass: Tensor, area: Tensor) -> dict[str, float]:
    """Percent. mass [S, keep, object]: on both objects while one is to be kept; area [S, object]."""
    kept = mass.diagonal(dim1=1, dim2=2)  # [S, object]: on each object while it is the one to keep
    dropped = mass.flip(1).diagonal(dim1=1, dim2=2)
    either = kept / mass.sum(dim=2)  # of what lies on the two objects
    moved = (kept - dropped).mean(dim=1)
    return {
        "share": _percent(kept.mean()),
        "share_se": _percent(kept.mean(1).std() / len(kept) ** 0.5),
        "chance": _percent(area.mean()),
        "of_both": _percent(either.mean()),
        "of_both_chance": 50.0,
        "moved": _percent(moved.mean()),
        "moved_se": _percent(moved.std() / len(moved) ** 0.5),
    }


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown."""
    rows = [["description", "map", "on the object to keep", "chance", "of the mass on both", "moved"]]
    for form, maps in results.items():
        for name, row in maps.items():
            share, moved = (f"{row[key]:.2f} ± {row[f'{key}_se']:.2f}" for key in ("share", "moved"))
            rows.append([FORMS[form], name, share, f"{row['chance']:.2f}", f"{row['of_both']:.2f}", moved])
    return markdown_table(rows)


def _percent(value: Tensor) -> float:
    return round(100 * float(value), 2)
