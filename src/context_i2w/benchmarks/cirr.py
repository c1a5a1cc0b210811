"""CIRR, object manipulation: a reference image and a sentence that says how the target differs.

Files (annotations directly in the folder or under `cirr/`, images beside them or in one of IMAGE_FOLDERS):
    CIRR/captions/cap.rc2.{val,test1}.json
    CIRR/image_splits/split.rc2.{val,test1}.json      name -> ./dev/name.png
    CIRR/dev/, CIRR/test1/
The gallery is the whole split file. The reference image is removed from the ranking. R_subset ranks only the
other five members of the query's image set. The test split has no answers: it makes two submission files.
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
from context_i2w.benchmarks.options import PROMPTS, CIRROptions
from context_i2w.errors import UserError
from context_i2w.files import FileName
from context_i2w.model.images import ImageSource
from context_i2w.model.prompts import fill
from context_i2w.ranking.exact import Ranking
from context_i2w.ranking.metrics import recall_at

FOLDERS = ("CIRR", "cirr", "cirr_dataset")
IMAGE_FOLDERS = ("", "img_raw", "images", "nlvr2", "nlvr2/images")
CUTOFFS = (1, 5, 10, 50, 100)
SUBSET_CUTOFFS = (1, 2, 3)
SUBMITTED, SUBMITTED_SUBSET = 50, 3


@dataclass(frozen=True)
class Files:
    captions: Path
    split: Path
    image_folders: list[Path]


def load(data_root: str | os.PathLike, options: CIRROptions | None = None) -> Benchmark:
    """The validation split, 4,181 queries over 2,297 images in the public data. Raises UserError."""
    return _load(data_root, "val", options or CIRROptions())


def load_test(data_root: str | os.PathLike, options: CIRROptions | None = None) -> Benchmark:
    """The test split without answers, 4,148 queries over 2,315 images. Raises UserError."""
    return _load(data_root, "test1", options or CIRROptions())


def find_files(data_root: str | os.PathLike, split: str) -> Files:
    """Where captions, split file and images are, in any of the layouts met in the wild."""
    roots = [folder / inner for folder in find_folders(data_root, FOLDERS, "CIRR") for inner in ("", "cirr")]
    captions = find_file([root / "captions" / f"cap.rc2.{split}.json" for root in roots], "CIRR captions")
    annotations = captions.parent.parent
    splits = [root / "image_splits" / f"split.rc2.{split}.json" for root in (annotations, *roots)]
    bases = dict.fromkeys([annotations, annotations.parent, *roots])
    folders = [base / inner for base in bases for inner in IMAGE_FOLDERS]
    return Files(captions, find_file(splits, "CIRR split file"), folders)


def _load(data_root: str | os.PathLike, split: str, options: CIRROptions) -> Benchmark:
    files = find_files(data_root, split)
    shapes = {"reference": FileName, "caption": str, "pairid": int | str, "img_set": {"members": [str]}}
    entries = read_entries(files.captions, **shapes, **{"target_hard" + ("" if split == "val" else "?"): str})
    paths = read_json(files.split, {str: FileName})
    if not paths:
        raise UserError(f"{files.split}: no images; a mapping from names to image files is expected; {REMEDY}")
    group = _group(entries, paths, files, PROMPTS[options.prompt])
    name = "cirr" if split == "val" else "cirr_test"
    protocol = {
        "split": split,
        "prompt": PROMPTS[options.prompt],
        "prompt variant": options.prompt,
        "gallery": f"whole split file, {len(paths)} images, reference removed",
        "metric": "Recall@K; R_subset@K over the other five members of the image set",
        "queries": len(entries),
        "image": "shorter side resized, centre crop",
    }
    submission = _submission(group, entries, files.captions) if split == "test1" else None
    return Benchmark(name, [group], protocol, submission)


def _group(entries: list[dict[str, Any]], paths: dict[str, str], files: Files, prompt: str) -> QueryGroup:
    names = list(paths)
    position = {name: index for index, name in enumerate(names)}
    first = next(iter(paths.values()))
    folders = sorted(files.image_folders, key=lambda folder: not os.path.isfile(folder / first))
    gallery = [ImageSource(_resolve(path, folders)) for path in paths.values()]
    targets = _targets(entries, position, files.captions)
    members = [_others(entry, position, files.captions) for entry in entries]
    excluded = torch.tensor([position.get(entry["reference"], -1) for entry in entries])

    def score(ranking: Ranking) -> dict[str, float]:
        if not targets:
            return {}
        wanted = torch.tensor(targets)
        subset_ranks = ranking.among(members).ranks(wanted)
        recalls = recall_at(ranking.ranks(wanted), CUTOFFS)
        return recalls | recall_at(subset_ranks, SUBSET_CUTOFFS, "R_subset@{}")

    return QueryGroup(
        name="all",
        gallery=gallery,
        gallery_names=names,
        references=[_reference(entry["reference"], position, gallery) for entry in entries],
        query_ids=[str(entry["pairid"]) for entry in entries],
        prompts=[(fill(prompt, caption=entry["caption"]),) for entry in entries],
        texts=[(fill("{caption}", caption=entry["caption"]),) for entry in entries],
        positives=[(target,) for target in targets] or [()] * len(entries),
        score=score,
        excluded=excluded,
    )


def _resolve(path: str, folders: list[Path]) -> str:
    for folder in folders:
        if os.path.isfile(folder / path):
            return os.fspath(folder / path)
    return os.fspath(folders[0] / path)  # reported as missing with all others


def _reference(name: str, position: dict[str, int], gallery: list[ImageSource]) -> ImageSource:
    """A reference outside the gallery lies beside the gallery's images."""
    if name in position:
        return gallery[position[name]]
    neighbour = Path(gallery[0].path)
    return ImageSource(os.fspath(neighbour.parent / (name + neighbour.suffix)))


def _targets(entries: list[dict[str, Any]], position: dict[str, int], path: Path) -> list[int]:
    """Gallery index of each answer; empty for the test split."""
    targets = []
    for entry in entries:
        if "target_hard" not in entry:
            return []
        targets.append(index_of(position, entry["target_hard"], path, f"pairid {entry['pairid']}"))
        if entry["target_hard"] == entry["reference"]:
            raise UserError(f"{path}: pairid {entry['pairid']}: target and reference are the same image")
    return targets


def _others(entry: dict[str, Any], position: dict[str, int], path: Path) -> list[int]:
    """Gallery indices of the image set without the reference."""
    names = [name for name in dict.fromkeys(entry["img_set"]["members"]) if name != entry["reference"]]
    others = [index_of(position, name, path, f"pairid {entry['pairid']}, img_set") for name in names]
    if "target_hard" in entry and entry["target_hard"] not in names:
        raise UserError(f"{path}: pairid {entry['pairid']}: target_hard is not in img_set; {REMEDY}")
    return others


def _submission(group: QueryGroup, entries: list[dict[str, Any]], path: Path):
    """The two files of the test server: 50 names per pair over the gallery, 3 over the image set."""
    if len(set(group.query_ids)) < len(group.query_ids):
        raise UserError(f"{path}: a pairid comes twice, and the submission could hold it once; {REMEDY}")
    position = {name: index for index, name in enumerate(group.gallery_names)}

    def submission(ranking: Ranking) -> dict[str, Any]:
        members = [_others(entry, position, path) for entry in entries]
        tops = {"recall": ranking.top(SUBMITTED), "recall_subset": ranking.among(members).top(SUBMITTED_SUBSET)}
        files = {}
        for metric, top in tops.items():
            lists = {
                pair: [group.gallery_names[index] for index in row if index >= 0]
                for pair, row in zip(group.query_ids, top.tolist())
            }
            files[metric] = {"version": "rc2", "metric": metric} | lists
        return files

    return submission
