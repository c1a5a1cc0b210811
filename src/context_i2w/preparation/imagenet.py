"""The domain-conversion benchmark from ImageNet's validation images and ImageNet-R.

Queries are the validation images of ImageNet-R's 200 classes, sorted into `real/<wnid>/`; targets are the
ImageNet-R files of four domains and the queries themselves (benchmarks/imagenet_lists.py). A class's number is its
wnid's place in the sorted list of ImageNet-R's classes: it only has to tell classes apart.
"""

import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from context_i2w.benchmarks.imagenet_lists import DOMAINS, images_in, write_lists
from context_i2w.errors import UserError
from context_i2w.files import atomic_path, list_some, shown

PUBLISHED_COUNTS = {"real": 10_000, "cartoon": 3_726, "origami": 550, "toy": 1_511, "sculpture": 1_196}
_WNID = re.compile(r"n\d{8}")


class Picture(NamedTuple):
    """One image: its class (wnid), and the file. Pictures are in order by class and name."""

    wnid: str
    path: Path

    @property
    def domain(self) -> str:
        """Of an ImageNet-R file."""
        return self.path.name.partition("_")[0]


def find_targets(imagenet_r: Path) -> list[Picture]:
    """The ImageNet-R files of the four domains, by class and name. Raises UserError if there are none."""
    if not imagenet_r.is_dir():
        raise UserError(f"{imagenet_r} is missing; unpack imagenet-r.tar there (data/README.md)")
    folders = sorted(path for path in imagenet_r.iterdir() if _WNID.fullmatch(path.name))
    every = (Picture(folder.name, path) for folder in folders for path in images_in(folder))
    pictures = [picture for picture in every if picture.domain in DOMAINS]
    if not pictures:
        raise UserError(f"{imagenet_r} holds no <wnid>/cartoon_*.jpg and the like; is it ImageNet-R?")
    return pictures


def find_queries(val: Path, wnids: list[str], classes: Path | None = None) -> list[Picture]:
    """The validation images of the classes `wnids`, sorted by class and name.

    val: their folder, flat or with class folders (`val/<wnid>/*.JPEG`). classes: where a flat folder's are written
    (`read_classes`). Raises UserError for a missing folder or file, and for classes without an image.
    """
    if not val.is_dir():
        raise UserError(f"{val} is missing; give ImageNet's validation images with --imagenet-val")
    if any(_WNID.fullmatch(entry.name) for entry in os.scandir(val) if entry.is_dir()):
        pictures = [Picture(wnid, path) for wnid in wnids for path in images_in(val / wnid)]
    elif classes is None:
        raise UserError(f"{val} has no class folders; say with --val-classes which class each image has")
    else:
        known, wanted = read_classes(classes), set(wnids)
        every = (Picture(known.get(path.stem, ""), path) for path in images_in(val))
        pictures = [picture for picture in every if picture.wnid in wanted]
    lacking = sorted(set(wnids) - {picture.wnid for picture in pictures})
    if lacking:
        raise UserError(f"{val} has no image of {len(lacking)} of {len(wnids)} classes ({list_some(lacking)})")
    return sorted(pictures)


def read_classes(path: Path) -> dict[str, str]:
    """Image name without ending -> wnid, from any of

    - LOC_val_solution.csv (Kaggle): `ILSVRC2012_val_00048981,n03995372 85 1 499 272`,
    - the folder of bounding-box annotations `ILSVRC2012_val_00000001.xml` (image-net.org),
    - a list of 50,000 wnids in the images' order (TensorFlow's imagenet_2012_validation_synset_labels.txt),
    - val.txt, `ILSVRC2012_val_00000001.JPEG 65`, with LOC_synset_mapping.txt or synset_words.txt beside it.

    Raises UserError for a missing file and for the development kit's ground truth, whose order is its own.
    """
    if path.is_dir():
        return _classes_from_xml(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); give another file with --val-classes") from None
    rows = [line.strip() for line in lines if line.strip()]
    if rows and rows[0].lower().startswith("imageid,"):
        return dict(_kaggle_row(path, row) for row in rows[1:])
    if rows and all(_WNID.fullmatch(row) for row in rows):
        return {f"ILSVRC2012_val_{number:08d}": wnid for number, wnid in enumerate(rows, 1)}
    if rows and all(re.fullmatch(r"\S+\s+\d{1,3}", row) for row in rows):
        wnids = _synset_order(path.parent)
        return {Path(row.split()[0]).stem: wnids[int(row.split()[1])] for row in rows}
    if rows and all(row.isdigit() for row in rows):
        remedy = "give LOC_val_solution.csv or the folder of validation bounding boxes with --val-classes"
        raise UserError(f"{path} numbers the classes in the development kit's own order; {remedy}")
    raise UserError(f"{path}: its first line {shown(repr(rows[0] if rows else ''))} fits no known list of classes")


def _kaggle_row(path: Path, row: str) -> tuple[str, str]:
    found = re.fullmatch(r"([^,]+),\s*(n\d{8})\b.*", row)
    if not found:
        raise UserError(f"{path}: {shown(repr(row))} is not `image,wnid x1 y1 x2 y2`; give another --val-classes")
    return found[1], found[2]


def _synset_order(folder: Path) -> list[str]:
    for name in ("LOC_synset_mapping.txt", "synset_words.txt", "synsets.txt"):
        if (folder / name).is_file():
            lines = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
            wnids = [line.split()[0] for line in lines if line.strip()]
            if len(wnids) == 1000 and all(map(_WNID.fullmatch, wnids)):
                return wnids
            raise UserError(f"{folder / name} has {len(wnids)} classes, not ImageNet's 1000")
    raise UserError(f"{folder} lacks LOC_synset_mapping.txt or synset_words.txt, which name val.txt's classes")


def _classes_from_xml(folder: Path) -> dict[str, str]:
    texts = {path.stem: path.read_text(encoding="utf-8", errors="replace") for path in folder.glob("*.xml")}
    found = {name: re.search(r"<name>\s*(n\d{8})\s*</name>", text) for name, text in texts.items()}
    classes = {name: match[1] for name, match in found.items() if match}
    if not classes:
        raise UserError(f"{folder} holds no ILSVRC2012_val_*.xml with a class; give another place with --val-classes")
    return classes


def prepare(
    root: Path, targets: list[Picture], queries: list[Picture], copy: bool = False, progress=lambda items: items
) -> dict[str, int]:
    """Fills `root`/real/<wnid>/ with links to (or copies of) the queries, then writes both lists.

    root: .../imgnet; targets must lie under root/imagenet-r. Files that are there already are kept.
    Returns the number of pictures in each domain.
    """
    for query in progress(queries):
        place = root / "real" / query.wnid / query.path.name
        if not place.exists():
            _put(query.path, place, copy)
    wnids = sorted({target.wnid for target in targets})
    number = {wnid: index for index, wnid in enumerate(wnids)}
    write_lists(
        root,
        {f"imgnet/imagenet-r/{t.wnid}/{t.path.name}": (t.domain, number[t.wnid]) for t in targets},
        {f"imgnet/real/{query.wnid}/{query.path.name}": number[query.wnid] for query in queries},
    )
    return {"real": len(queries), **Counter(target.domain for target in targets)}


def _put(source: Path, place: Path, copy: bool) -> None:
    if copy:
        with atomic_path(place) as temporary:
            shutil.copyfile(source, temporary)
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)  # a link that leads nowhere
        place.symlink_to(source.resolve())
    except OSError as error:
        raise UserError(f"no link can be made in {place.parent} ({error.strerror}); add --copy") from None
