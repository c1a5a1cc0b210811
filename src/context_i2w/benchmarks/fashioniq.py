"""FashionIQ, attribute manipulation: a garment and two short captions that say how the target differs.

Files (`json/` in place of `captions/` in Pic2Word's layout; images .png, .jpg or .webp, in any case):
    fashion-iq/captions/cap.{dress,shirt,toptee}.val.json
    fashion-iq/image_splits/split.{dress,shirt,toptee}.val.json
    fashion-iq/images/
The reference image stays in the ranking. Papers disagree on the captions' order, the gallery and the image
preparation; each way is a named and numbers under different ones do not compare.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from context_i2w.benchmarks.base import (
    REMEDY,
    Benchmark,
    QueryGroup,
    find_file,
    find_folders,
    index_of,
    read_entries,
    read_json,
)
from context_i2w.benchmarks.options import CAPTIONS, FASHION_PROMPTS, GALLERIES, GARMENTS, VIEWS, FashionIQOptions
from context_i2w.errors import UserError
from context_i2w.files import FileName, is_hidden
from context_i2w.model.images import ImageSource
from context_i2w.model.prompts import fill
from context_i2w.ranking.exact import Ranking
from context_i2w.ranking.metrics import recall_at

FOLDERS = ("fashion-iq", "fashionIQ", "fashioniq_dataset")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # in order of preference where an image is there twice
CUTOFFS = (1, 5, 10, 50, 100)


@dataclass(frozen=True)
class Files:
    captions: Path
    split: Path
    images: Path


def load(data_root: str | os.PathLike, options: FashionIQOptions | None = None) -> Benchmark:
    """Queries/gallery in the public data: dress 2,017/3,817, shirt 2,038/6,346, toptee 1,961/5,373."""
    options = options or FashionIQOptions()
    garments = GARMENTS if options.source == "all" else (options.source,)
    located = {garment: find_files(data_root, garment) for garment in garments}
    known = image_files(located[garments[0]].images)
    groups = [_group(garment, files, known, options) for garment, files in located.items()]
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


def find_files(data_root: str | os.PathLike, garment: str) -> Files:
    """Where captions, split file and images of a garment are, in either layout."""
    roots = find_folders(data_root, FOLDERS, "FashionIQ")
    places = [root / folder / f"cap.{garment}.val.json" for root in roots for folder in ("captions", "json")]
    captions = find_file(places, f"FashionIQ {garment} captions")
    root = captions.parent.parent
    split = find_file([root / "image_splits" / f"split.{garment}.val.json"], f"FashionIQ {garment} split")
    return Files(captions, split, find_file([root / "images"], "FashionIQ images"))


def image_files(folder: Path) -> dict[str, str]:
    """Name without suffix -> file, from one listing of the folder (three probes per image would be slow)."""
    known: dict[str, tuple[int, str]] = {}
    for entry in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(entry)
        if suffix.lower() in SUFFIXES and not is_hidden(entry):
            preference = SUFFIXES.index(suffix.lower())
            if stem not in known or preference < known[stem][0]:
                known[stem] = (preference, os.path.join(folder, entry))
    return {stem: path for stem, (_, path) in known.items()}


def _group(garment: str, files: Files, known: dict[str, str], options: FashionIQOptions) -> QueryGroup:
    entries = read_entries(files.captions, candidate=FileName, target=str, captions=[str])
    names = _gallery_names(entries, files, options.gallery)
    position = {name: index for index, name in enumerate(names)}
    targets = [
        index_of(position, entry["target"], files.captions, f"entry {number}") for number, entry in enumerate(entries)
    ]
    texts = [_texts(entry, number, files.captions, options) for number, entry in enumerate(entries)]

    def source(name: str) -> ImageSource:
        return ImageSource(known.get(name, os.fspath(files.images / f"{name}.png")), view=options.image)

    def score(ranking: Ranking) -> dict[str, float]:
        return recall_at(ranking.ranks(torch.tensor(targets)), CUTOFFS)

    return QueryGroup(
        name=garment,
        gallery=[source(name) for name in names],
        gallery_names=names,
        references=[source(entry["candidate"]) for entry in entries],
        query_ids=[f"{entry['candidate']}:{entry['target']}" for entry in entries],
        prompts=texts,
        texts=texts,  # the published baseline keeps the prompt, placeholder and all
        positives=[(target,) for target in targets],
        score=score,
    )


def _gallery_names(entries: list[dict[str, Any]], files: Files, gallery: str) -> list[str]:
    names = list(dict.fromkeys(read_json(files.split, [FileName])))
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
