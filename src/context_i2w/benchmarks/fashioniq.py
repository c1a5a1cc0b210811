"""FashionIQ, attribute manipulation: a garment and two short captions that say how the target differs.

Files (`json/` in place of `captions/` in Pic2Word's layout; images .png, .jpg or .webp, in any case):
    fashion-iq/captions/cap.{dress,shirt,toptee}.val.json
    fashion-iq/image_splits/split.{dress,shirt,toptee}.val.json
    fashion-iq/images/
The reference image stays in the ranking. Papers disagree on the captions' order, the gallery and the image
preparation; each way has a name, and numbers under different ones do not compare.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from context_i2w.benchmarks.base import REMEDY, Benchmark, QueryGroup, find_file, find_folders, index_of, read_json
from context_i2w.benchmarks.options import CAPTIONS, FASHION_PROMPTS, GALLERIES, GARMENTS, VIEWS, FashionIQOptions
from context_i2w.errors import UserError
from context_i2w.files import FileName, is_hidden
from context_i2w.model.images import ImageSource
from context_i2w.model.prompts import fill
from context_i2w.ranking.metrics import recall_at

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # in order of preference where an image is there twice
CUTOFFS = (1, 5, 10, 50, 100)


def load(data_root: str | os.PathLike, options: FashionIQOptions) -> Benchmark:
    """Queries/gallery in the public data: dress 2,017/3,817, shirt 2,038/6,346, toptee 1,961/5,373."""
    folders = find_folders(data_root, ("fashion-iq", "fashioniq_dataset"), "FashionIQ")
    garments = GARMENTS if options.source == "all" else (options.source,)
    listed = functools.cache(image_files)  # the garments' folder is mostly one
    groups = [_group(garment, folders, options, listed) for garment in garments]
    protocol = {
        "source": options.source,
        "prompt": FASHION_PROMPTS[options.prompt],
        "prompt variant": options.prompt,
        "captions": f"{options.captions}: {CAPTIONS[options.captions]}",
        "gallery": f"{options.gallery}: {GALLERIES[options.gallery]}, reference not removed",
        "image": f"{options.image}: {VIEWS[options.image]}",
        "metric": "Recall@K",
        "queries": {group.name: len(group.query_ids) for group in groups},
        "images": {group.name: len(group.gallery) for group in groups},
    }
    return Benchmark("fashion", groups, protocol)


def image_files(folder: Path) -> dict[str, str]:
    """Name without suffix -> file, from one listing of the folder (three probes per image would be slow)."""
    known: dict[str, str] = {}
    entries = [os.path.splitext(entry) for entry in sorted(os.listdir(folder)) if not is_hidden(entry)]
    for preferred in SUFFIXES:
        for stem, suffix in entries:
            if suffix.lower() == preferred:
                known.setdefault(stem, os.path.join(folder, stem + suffix))
    return known


def _group(
    garment: str, folders: list[Path], options: FashionIQOptions, listed: Callable[[Path], dict[str, str]]
) -> QueryGroup:
    places = [folder / inner / f"cap.{garment}.val.json" for folder in folders for inner in ("captions", "json")]
    path = find_file(places, f"FashionIQ {garment} captions")
    root = path.parent.parent
    split = find_file([root / "image_splits" / f"split.{garment}.val.json"], f"FashionIQ {garment} split")
    images = find_file([root / "images"], "FashionIQ images")
    entries = read_json(path, [{"candidate": FileName, "target": str, "captions": [str]}])
    names = _gallery_names(entries, split, options.gallery)
    position = {name: index for index, name in enumerate(names)}
    targets = [index_of(position, entry["target"], path, f"entry {number}") for number, entry in enumerate(entries)]
    texts = [_texts(entry, number, path, options) for number, entry in enumerate(entries)]
    known = listed(images)

    def source(name: str) -> ImageSource:
        return ImageSource(known.get(name, os.fspath(images / f"{name}.png")), view=options.image)

    return QueryGroup(
        name=garment,
        gallery=[source(name) for name in names],
        gallery_names=names,
        references=[source(entry["candidate"]) for entry in entries],
        query_ids=[f"{entry['candidate']}:{entry['target']}" for entry in entries],
        prompts=texts,
        texts=texts,  # the published baseline keeps the prompt, placeholder and all
        positives=[(target,) for target in targets],
        score=lambda ranking: recall_at(ranking.ranks(torch.tensor(targets)), CUTOFFS),
    )


def _gallery_names(entries: list[dict[str, Any]], split: Path, gallery: str) -> list[str]:
    names = list(dict.fromkeys(read_json(split, [FileName])))
    if gallery == "split":
        return names
    used = {entry[key] for entry in entries for key in ("candidate", "target")}
    return [name for name in names if name in used]


def _texts(entry: dict[str, Any], number: int, path: Path, options: FashionIQOptions) -> tuple[str, ...]:
    captions = entry["captions"]
    if len(captions) != 2:
        raise UserError(f"{path}: entry {number}: two captions are expected, found {len(captions)}; {REMEDY}")
    prompt = FASHION_PROMPTS[options.prompt]
    if options.captions == "both-orders":
        captions = [caption.strip(".?, ") for caption in captions]
    forward = fill(prompt, first=captions[0], second=captions[1])
    backward = fill(prompt, first=captions[1], second=captions[0])
    return {"reversed": (backward,), "forward": (forward,), "both-orders": (forward, backward)}[options.captions]
