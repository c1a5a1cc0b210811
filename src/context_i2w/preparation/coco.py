"""The COCO composition benchmark from val2017: one instance drawn for each image, cut out on white, and the list.

An instance's area lies within the bounds of the area filter; images without such an instance are left out. The
published script draws unseeded, and its lower bound, meant as 5 % of the image, compares pixels with 0.05 and filters
nothing: filter `published`. `intended` is what was meant. The draw of an image depends on the seed and its id alone, so
a resumed run equals an unbroken one.
"""

import csv
import hashlib
import io
import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from context_i2w.command_line import Options, option
from context_i2w.errors import UserError
from context_i2w.files import FileName, atomic_path, list_some, read_json, shown, write_text
from context_i2w.preparation.coco_masks import segmentation_mask

AREA_FILTERS = ("published", "intended")
LARGEST_SHARE = 0.5
SMALLEST_SHARE = 0.05
LIST_NAME = "coco_eval.csv"
MASKED_FOLDER = "val2017_masked"
SETTINGS_NAME = "coco_eval.json"
INSTANCES = {
    "images": [{"id": int, "file_name": FileName, "width": int, "height": int}],
    "annotations": [{"image_id": int, "category_id": int, "area": float, "bbox": [float], "segmentation": list | dict}],
    "categories": [{"id": int, "name": str}],
}


@dataclass(frozen=True)
class CocoOptions(Options):
    """How instances are drawn."""

    seed: int = option(0, "seed of the draws", at_least=0)
    area: str = option("published", "which instances qualify", choices=AREA_FILTERS)


@dataclass(frozen=True)
class Query:
    """A drawn instance: image file, its size, segmentation, region (x1, y1, x2, y2) and the class names."""

    file_name: str
    height: int
    width: int
    segmentation: list | dict
    region: tuple[float, float, float, float]
    query_class: str
    other_classes: tuple[str, ...]


def read_annotations(path: Path) -> dict:
    """instances_val2017.json as it is. Raises UserError if it is missing or not a COCO instances file."""
    if not path.is_file():
        raise UserError(f"{path} is missing; data/README.md says where COCO's annotations come from")
    content = read_json(path, INSTANCES, "download COCO's annotations again")
    classes = {category["id"] for category in content["categories"]}
    for number, annotation in enumerate(content["annotations"]):
        if annotation["category_id"] not in classes or len(annotation["bbox"]) != 4:
            raise UserError(f"{path}: annotations[{number}] has no known category or no box of four numbers")
    return content


def draw_queries(content: dict, options: CocoOptions) -> list[Query]:
    """One query for each image that has a suitable instance, in the order of image ids."""
    class_names = {category["id"]: category["name"] for category in content["categories"]}
    instances = defaultdict(list)
    for annotation in content["annotations"]:
        instances[annotation["image_id"]].append(annotation)
    queries = []
    for image in sorted(content["images"], key=lambda image: image["id"]):
        everything = instances[image["id"]]
        suitable = [a for a in everything if _is_suitable(a, image["height"] * image["width"], options.area)]
        if suitable:
            drawn = suitable[_draw(options.seed, image["id"], len(suitable))]
            queries.append(_make_query(image, drawn, everything, class_names))
    return queries


def _is_suitable(annotation: dict, image_area: int, area_filter: str) -> bool:
    smallest = SMALLEST_SHARE if area_filter == "published" else SMALLEST_SHARE * image_area
    return smallest <= annotation["area"] <= LARGEST_SHARE * image_area


def _draw(seed: int, image_id: int, count: int) -> int:
    """A number below `count` from a hash: the same on every machine, for any order of images."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{image_id}".encode()).digest(), "big") % count


def _make_query(image: dict, drawn: dict, instances: list[dict], class_names: dict[int, str]) -> Query:
    name, *others = dict.fromkeys(class_names[instance["category_id"]] for instance in (drawn, *instances))
    x, y, width, height = drawn["bbox"]
    region = x, y, x + width, y + height
    size = image["height"], image["width"]
    return Query(image["file_name"], *size, drawn["segmentation"], region, name, tuple(others))


def cut_out(image: Image.Image, query: Query) -> Image.Image:
    """The image in its own mode with everything outside the query's mask painted 255."""
    if image.size != (query.width, query.height):
        sizes = f"is {image.width}x{image.height}, its annotation says {query.width}x{query.height}"
        raise UserError(f"{query.file_name} {sizes}; images and annotations are of different versions")
    pixels = np.array(image)
    try:
        mask = segmentation_mask(query.segmentation, query.height, query.width)
    except (ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise UserError(f"{query.file_name}: its segmentation is no mask ({shown(str(error))})") from None
    pixels[~mask] = 255
    return Image.fromarray(pixels)


def list_text(queries: list[Query]) -> str:
    """coco_eval.csv in the published format, the blank after the region included."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "query_regions", "query_class", "classes"])
    for query in queries:
        region = ";".join(map(str, query.region)) + " "
        writer.writerow([query.file_name, region, query.query_class, ";".join(query.other_classes)])
    return text.getvalue()


def begin(root: Path, content: dict, options: CocoOptions, overwrite: bool = False) -> None:
    """Claims the output files for these options, so that no run goes on from another's images.

    Raises UserError if a list is there that was made with other options or by something else.
    """
    settings_path, list_path = root / SETTINGS_NAME, root / LIST_NAME
    digest = hashlib.sha256(json.dumps(content["annotations"], sort_keys=True).encode()).hexdigest()
    settings = json.dumps({**asdict(options), "annotations": digest}, indent=1) + "\n"
    found = settings_path.read_bytes() if settings_path.exists() else None
    if found == settings.encode():
        return
    masked = root / MASKED_FOLDER
    occupied = list_path.exists() or (masked.is_dir() and any(masked.iterdir()))
    if occupied and not overwrite:
        maker = "with other options" if found else "by something else than this script"
        raise UserError(f"{list_path} or {masked} was made {maker}; move them away or add --overwrite")
    list_path.unlink(missing_ok=True)
    for path in masked.glob("*.jpg"):
        path.unlink()
    write_text(settings_path, settings)


def prepare(root: Path, queries: list[Query], progress=lambda items: items) -> int:
    """Writes the cut-outs that are not there yet, then the list; returns how many it wrote.

    `progress` wraps the iteration (tqdm). Raises UserError if images are missing, naming them.
    """
    images, cut = root / "val2017", root / MASKED_FOLDER
    missing = [query.file_name for query in queries if not (images / query.file_name).is_file()]
    if missing:
        lacking = f"{images} lacks {len(missing)} of {len(queries)} images ({list_some(missing)})"
        raise UserError(f"{lacking}; data/README.md says where they come from")
    todo = [query for query in queries if not (cut / query.file_name).exists()]
    for query in progress(todo):
        masked = _masked_jpeg(images / query.file_name, query)
        with atomic_path(cut / query.file_name) as temporary:
            temporary.write_bytes(masked)
    write_text(root / LIST_NAME, list_text(queries))
    return len(todo)


def _masked_jpeg(path: Path, query: Query) -> bytes:
    content = io.BytesIO()
    try:
        with Image.open(path) as image:
            cut_out(image, query).save(content, format="JPEG")  # Pillow's default quality, as published
    except UserError:
        raise
    except Exception as error:  # a damaged image can raise nearly anything
        raise UserError(f"{path}: not an image that can be cut out ({shown(str(error))}); download it again") from None
    return content.getvalue()
