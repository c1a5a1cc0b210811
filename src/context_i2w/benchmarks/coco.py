"""COCO, object composition: one object cut out of an image, and the names of the others in it.

Files (the list and the masked images are made by `python scripts/prepare_coco.py`):
    coco/val2017/                 the gallery, whole images
    coco/val2017_masked/          the query images, pixels outside the object's mask being 255
    coco/coco_eval.csv            id,query_regions,query_class,classes; box x1;y1;x2;y2, classes joined by ;
The query is the masked image's region, resized to a square without cropping.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch

from context_i2w.benchmarks.base import LONGEST, REMEDY, Benchmark, QueryGroup, find_file, find_folders, some
from context_i2w.benchmarks.options import ENDINGS, COCOOptions
from context_i2w.data.tables import read_table
from context_i2w.errors import UserError
from context_i2w.files import FileName, misfit, shown
from context_i2w.model.images import ImageSource
from context_i2w.model.prompts import fill
from context_i2w.ranking.exact import Ranking
from context_i2w.ranking.metrics import rank_statistics, recall_at

LIST = "coco_eval.csv"
COLUMNS = ("id", "query_regions", "query_class", "classes")
PROMPT = "a photo of [*] and {object} and {others}"
TEXT = "a photo of {object} and {others}"
CUTOFFS = (1, 5, 10, 50, 100)


class Row(NamedTuple):
    name: str
    box: tuple[int, int, int, int]
    query_class: str
    others: list[str]


def load(data_root: str | os.PathLike, options: COCOOptions) -> Benchmark:
    """About 4,766 queries, each with its own image as the one target. Raises UserError."""
    remedy = "make it by `python scripts/prepare_coco.py`"
    folders = find_folders(data_root, ("coco",), "COCO")
    path = find_file([folder / LIST for folder in folders], "COCO query list", remedy)
    masked = find_file([path.parent / "val2017_masked"], "masked COCO images", remedy)
    images = find_file([path.parent / "val2017"], "COCO images")
    rows = read_list(path)
    protocol = {
        "prompt": PROMPT,
        "ending": f"{options.ending}: {ENDINGS[options.ending]}",
        "gallery": f"the {len(rows)} images of the list, whole",
        "metric": "Recall@K and ranks of the one target; `reverse`: image to query",
        "queries": len(rows),
        "image": "query: region resized to a square; gallery: shorter side resized, centre crop",
    }
    return Benchmark("coco", [_group(rows, masked, images, options)], protocol)


def read_list(path: Path) -> list[Row]:
    """The rows of `coco_eval.csv`. Raises UserError with the row that can't be read."""
    table = read_table(path, ",")
    absent = [column for column in COLUMNS if column not in table.columns]
    if absent:
        raise UserError(f"{path}: no column {', '.join(absent)}; {REMEDY}")
    rows = some(list(zip(*(table.columns[column] for column in COLUMNS))), path)
    return [_row(f"{path}, row {number}", *row) for number, row in enumerate(rows, 1)]


def _row(where: str, name: str, region: str, query_class: str, classes: str) -> Row:
    try:
        # Truncation may leave a thin object no pixel: its region is then black, as in the published code.
        x1, y1, x2, y2 = (int(float(value)) for value in region.split(";"))
        if max(map(abs, (x1, y1, x2, y2))) > LONGEST or x2 < x1 or y2 < y1:
            raise ValueError
    except (ValueError, OverflowError):
        raise UserError(f"{where}: box {shown(repr(region))} is not x1;y1;x2;y2 in pixels; {REMEDY}") from None
    if misfit(name.strip(), FileName):
        raise UserError(f"{where}: id {shown(repr(name))} is no file name inside the folder; {REMEDY}")
    return Row(name.strip(), (x1, y1, x2, y2), query_class, [name for name in classes.split(";") if name])


def _text(template: str, row: Row, options: COCOOptions) -> str:
    if not row.others and options.ending == "clean":
        template = template.removesuffix(" and {others}")
    return fill(template, object=row.query_class, others=" and ".join(row.others))


def _group(rows: list[Row], masked: Path, images: Path, options: COCOOptions) -> QueryGroup:
    names = [row.name for row in rows]
    targets = torch.arange(len(rows))

    def score(ranking: Ranking) -> dict[str, float]:
        results: dict[str, float] = {}
        for direction, prefix in ((ranking, ""), (ranking.reversed(), "reverse ")):
            ranks = direction.ranks(targets)
            measured = recall_at(ranks, CUTOFFS) | rank_statistics(ranks)
            results |= {prefix + name: value for name, value in measured.items()}
        return results

    return QueryGroup(
        name="all",
        gallery=[ImageSource(os.fspath(images / name)) for name in names],
        gallery_names=names,
        references=[ImageSource(os.fspath(masked / row.name), row.box, "square") for row in rows],
        query_ids=names,
        prompts=[(_text(PROMPT, row, options),) for row in rows],
        texts=[(_text(TEXT, row, options),) for row in rows],
        positives=[(index,) for index in range(len(rows))],
        score=score,
    )
