"""GeneCIS, beyond the paper: four tasks of one-word conditions, each query with a small gallery of its own.

Files:
    genecis/{focus,change}_{attribute,object}.json
    coco/val2017/<id, 12 digits>.jpg             object tasks: whole images
    genecis/VG_100K/<id>.jpg, VG_100K_2, ...     attribute tasks: objects cut out of Visual Genome images
An object's part of the image is the published one (the benchmark's own evaluation): the box's
corner goes left and up by 0.7 of its size, stopping at the border; from there the part is 1.7 times the box, cut at
the border. Away from it the part thus ends where the box does. It is padded to a square in black.
R@1/2/3 over the target and the query's gallery, and the mean over the tasks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from context_i2w.benchmarks.base import LONGEST, REMEDY, Benchmark, QueryGroup, find_file, find_folders, read_json
from context_i2w.benchmarks.options import PROMPTS, GeneCISOptions
from context_i2w.errors import UserError
from context_i2w.files import FileName, shown
from context_i2w.model.images import ImageSource
from context_i2w.model.prompts import fill
from context_i2w.ranking.metrics import recall_at

TASKS = ("focus_attribute", "change_attribute", "focus_object", "change_object")
DILATION = 0.7
CUTOFFS = (1, 2, 3)
GENOME_FOLDERS = ("VG_100K", "VG_100K_2", "VG_100K_all", "visual_genome/VG_100K", "visual_genome/VG_100K_2")
OBJECT = {"val_image_id": int | str}
ATTRIBUTE = {"image_id": int | FileName, "instance_bbox": [float]}
Source = Callable[[dict[str, Any]], ImageSource]


def load(data_root: str | os.PathLike, options: GeneCISOptions) -> Benchmark:
    """The tasks as groups. Raises UserError."""
    folders = find_folders(data_root, ("genecis",), "GeneCIS")
    groups = []
    for task in TASKS:
        kind = task.partition("_")[2]
        if options.tasks not in ("all", kind):
            continue
        attribute = kind == "attribute"
        remedy = f"--genecis-tasks {'object' if attribute else 'attribute'} does without; {REMEDY}"
        path = find_file([folder / f"{task}.json" for folder in folders], f"GeneCIS {task}", remedy)
        image = ATTRIBUTE if attribute else OBJECT
        entries = read_json(path, [{"condition": str, "reference": image, "target": image, "gallery": [image]}])
        source = _genome(path.parent, Path(data_root)) if attribute else _coco(path.parent, Path(data_root))
        groups.append(_group(task, entries, path, source, PROMPTS[options.prompt]))
    protocol = {
        "prompt": PROMPTS[options.prompt],
        "prompt variant": options.prompt,
        "gallery": "each query's own, with its target",
        "metric": "Recall@K",
        "queries": {group.name: len(group.query_ids) for group in groups},
        "image": "attributes: the published part about the box, black square; objects: centre crop",
    }
    return Benchmark("genecis", groups, protocol)


def _coco(folder: Path, data_root: Path) -> Source:
    images = find_file([data_root / "coco" / "val2017", folder / "val2017"], "COCO images of GeneCIS")
    return lambda item: ImageSource(os.fspath(images / f"{int(item['val_image_id']):012d}.jpg"))


def _genome(folder: Path, data_root: Path) -> Source:
    """Visual Genome comes in two folders; a listing tells where an image is."""
    places = [base / name for base in (folder, data_root) for name in GENOME_FOLDERS]
    first = find_file(places, "Visual Genome images of GeneCIS", f"--genecis-tasks object does without; {REMEDY}")
    files = {name: os.fspath(place / name) for place in places if place.is_dir() for name in os.listdir(place)}

    def source(item: dict[str, Any]) -> ImageSource:
        x, y, width, height = item["instance_bbox"]
        if max(map(abs, item["instance_bbox"])) > LONGEST or min(width, height) < 0:
            raise ValueError(f"{item['instance_bbox']} is not x, y, width, height in pixels")
        left, top = max(0, x - DILATION * width), max(0, y - DILATION * height)
        part = left, top, left + (1 + DILATION) * width, top + (1 + DILATION) * height  # the image's border cuts it
        x1, y1, x2, y2 = map(round, part)
        name = f"{item['image_id']}.jpg"
        return ImageSource(files.get(name, os.fspath(first / name)), (x1, y1, x2, y2), "black-square")

    return source


def _group(task: str, entries: list[dict[str, Any]], path: Path, source: Source, prompt: str) -> QueryGroup:
    references, targets, galleries = [], [], []
    for number, entry in enumerate(entries):
        try:
            references.append(source(entry["reference"]))
            targets.append(source(entry["target"]))
            galleries.append([source(item) for item in entry["gallery"]])
        except (ValueError, OverflowError) as error:
            raise UserError(f"{path}: entry {number}: an image's id or box: {shown(str(error))}; {REMEDY}") from None
    # Sorted, so that the order which breaks ties knows nothing of the answers.
    gallery = sorted({*targets, *(item for items in galleries for item in items)})
    position = {item: index for index, item in enumerate(gallery)}
    wanted = [position[target] for target in targets]
    candidates = [sorted({target, *(position[item] for item in items)}) for target, items in zip(wanted, galleries)]
    return QueryGroup(
        name=task,
        gallery=gallery,
        gallery_names=[_name(item) for item in gallery],
        references=references,
        query_ids=[str(number) for number in range(len(entries))],
        prompts=[(fill(prompt, caption=entry["condition"]),) for entry in entries],
        texts=[(fill("{caption}", caption=entry["condition"]),) for entry in entries],
        positives=[(target,) for target in wanted],
        score=lambda ranking: recall_at(ranking.ranks(torch.tensor(wanted)), CUTOFFS),
        candidates=candidates,
    )


def _name(item: ImageSource) -> str:
    box = "" if item.box is None else ":" + ",".join(map(str, item.box))
    return Path(item.path).name + box
