"""Object composition in COCO's format: images with instance annotations, then prepared as the real ones are."""

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from context_i2w.files import write_text
from context_i2w.preparation.coco import CocoOptions, Query, cut_out, draw_queries, list_text
from context_i2w.preparation.coco_masks import segmentation_mask
from context_i2w.toy_world.drawing import SIZE
from context_i2w.toy_world.outlines import outlines
from context_i2w.toy_world.scenes import Scene, pick, random_things, stream_key
from context_i2w.toy_world.sizes import Sizes
from context_i2w.toy_world.vocabulary import GARMENTS, KINDS, PLACES, REAL
from context_i2w.toy_world.writing import Drawing, parallel, write_drawings, write_json

# Few kinds, so that many images hold the kinds that a text names and only the picture of the one tells which.
SHOWN = ("house", "tree", "car", "boat", "fish", "umbrella")
_CATEGORIES = {kind: number for number, kind in enumerate(KINDS, start=1)}


def write_coco(root: Path, copy: str, seed: int, sizes: Sizes, workers: int | None = None) -> None:
    """Writes `coco/` under `root`: val2017, its annotations, the cut-out query images and their list.

    Every image shows two things of different kinds: the picture gives the one, the text names the other.
    """
    folder = root / "coco"
    key = stream_key(seed, f"{copy}/coco")
    drawings = [
        Drawing(str(folder / "val2017" / f"{number + 1:012d}.png"), _scene(key, number), masks=True)
        for number in range(sizes.coco_images)
    ]
    masks = write_drawings(drawings, workers, f"{copy}: COCO")
    content = _annotations(drawings, masks)
    write_json(folder / "annotations" / "instances_val2017.json", content)
    queries = draw_queries(content, CocoOptions(seed=seed))
    (folder / "val2017_masked").mkdir()
    list(parallel(partial(_write_cut_out, folder), queries, workers, f"{copy}: cut-outs"))
    write_text(folder / "coco_eval.csv", list_text(queries))


def _scene(key: tuple[int, ...], number: int) -> Scene:
    rng = np.random.default_rng((*key, number))
    return Scene(random_things(rng, 2, SHOWN), pick(rng, PLACES), REAL, (*key, number))


def _annotations(drawings: list[Drawing], masks: list[list[np.ndarray]]) -> dict:
    """The content of an instances file."""
    images: list[dict] = []
    annotations: list[dict] = []
    for number, (drawing, shown) in enumerate(zip(drawings, masks), start=1):
        images.append({"id": number, "file_name": Path(drawing.path).name, "height": SIZE, "width": SIZE})
        for thing, mask in zip(drawing.scene.things, shown):
            if mask.any():
                annotation = {"id": len(annotations) + 1, "image_id": number, "iscrowd": 0}
                annotations.append(annotation | {"category_id": _CATEGORIES[thing.kind]} | _instance(mask))
    categories = [
        {"id": number, "name": kind, "supercategory": "garment" if kind in GARMENTS else "object"}
        for kind, number in _CATEGORIES.items()
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def _instance(mask: np.ndarray) -> dict:
    polygons = outlines(mask)
    covered = segmentation_mask(polygons, *mask.shape)
    rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
    x, y = int(columns[0]), int(rows[0])
    box = [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
    return {"segmentation": polygons, "area": int(covered.sum()), "bbox": box}


def _write_cut_out(folder: Path, query: Query) -> None:
    with Image.open(folder / "val2017" / query.file_name) as image:
        cut_out(image, query).save(folder / "val2017_masked" / query.file_name, compress_level=4)
