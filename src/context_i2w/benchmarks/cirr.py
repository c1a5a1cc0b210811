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
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from context_i2w.benchmarks.base import REMEDY, Benchmark, QueryGroup, find_file, find_folders, index_of, read_json
from context_i2w.benchmarks.options import PROMPTS, CIRROptions
from context_i2w.errors import UserError
from context_i2w.files import FileName
from context_i2w.model.images import ImageSource
from context_i2w.model.prompts import fill
from context_i2w.ranking.exact import Ranking
from context_i2w.ranking.metrics import recall_at

IMAGE_FOLDERS = ("", "img_raw", "images", "nlvr2", "nlvr2/images")
CUTOFFS = (1, 5, 10, 50, 100)
SUBSET_CUTOFFS = (1, 2, 3)
SUBMITTED, SUBMITTED_SUBSET = 50, 3


def load(split: str, data_root: str | os.PathLike, options: CIRROptions) -> Benchmark:
    """Queries and images in the public data: val 4,181 and 2,297; test1, without answers, 4,148 and 2,315.

    Raises UserError.
    """
    path, split_file, folders = _find_files(data_root, split)
    answer = {"target_hard" if split == "val" else "target_hard?": str}
    shape = {"reference": FileName, "caption": str, "pairid": int | str, "img_set": {"members": [str]}} | answer
    entries = read_json(path, [shape])
    gallery = _gallery(read_json(split_file, {str: FileName}), folders)
    position = {name: index for index, name in enumerate(gallery)}
    targets, members = zip(*(_answer(entry, position, path) for entry in entries))
    group = _group(entries, gallery, [] if None in targets else targets, members, PROMPTS[options.prompt])
    protocol = {
        "split": split,
        "prompt": PROMPTS[options.prompt],
        "prompt variant": options.prompt,
        "gallery": f"whole split file, {len(gallery)} images, reference removed",
        "metric": "Recall@K; R_subset@K over the other five members of the image set",
        "queries": len(entries),
        "image": "shorter side resized, centre crop",
    }
    if split == "val":
        return Benchmark("cirr", [group], protocol)
    if len(set(group.query_ids)) < len(entries):
        raise UserError(f"{path}: a pairid comes twice, and the submission could hold it once; {REMEDY}")
    return Benchmark("cirr_test", [group], protocol, partial(_submission, group, members))


def _find_files(data_root: str | os.PathLike, split: str) -> tuple[Path, Path, list[Path]]:
    """Captions, split file and the folders where images may be, in any of the layouts met in the wild."""
    found = find_folders(data_root, ("CIRR", "cirr_dataset"), "CIRR")
    roots = [folder / inner for folder in found for inner in ("", "cirr")]
    captions = find_file([root / "captions" / f"cap.rc2.{split}.json" for root in roots], "CIRR captions")
    annotations = captions.parent.parent
    splits = [root / "image_splits" / f"split.rc2.{split}.json" for root in (annotations, *roots)]
    bases = dict.fromkeys([annotations, annotations.parent, *roots])
    return captions, find_file(splits, "CIRR split file"), [base / inner for base in bases for inner in IMAGE_FOLDERS]


def _gallery(images: dict[str, str], folders: list[Path]) -> dict[str, ImageSource]:
    """The images of the split file by name; one that is in no folder is reported as missing with all others."""
    first = next(iter(images.values()))
    folders = sorted(folders, key=lambda folder: not os.path.isfile(folder / first))

    def source(image: str) -> ImageSource:
        places = (os.fspath(folder / image) for folder in folders)
        return ImageSource(next(filter(os.path.isfile, places), os.fspath(folders[0] / image)))

    return {name: source(image) for name, image in images.items()}


def _answer(entry: dict[str, Any], position: dict[str, int], path: Path) -> tuple[int | None, list[int]]:
    """Gallery indices of the answer, None where it is not known, and of the image set without the reference."""
    where, target = f"pairid {entry['pairid']}", entry.get("target_hard")
    names = [name for name in dict.fromkeys(entry["img_set"]["members"]) if name != entry["reference"]]
    answer = None if target is None else index_of(position, target, path, where)
    if target == entry["reference"]:
        raise UserError(f"{path}: {where}: target and reference are the same image")
    others = [index_of(position, name, path, f"{where}, img_set") for name in names]
    if answer is not None and target not in names:
        raise UserError(f"{path}: {where}: target_hard is not in img_set; {REMEDY}")
    return answer, others


def _group(
    entries: list[dict[str, Any]],
    gallery: dict[str, ImageSource],
    targets: Sequence[int],
    members: Sequence[list[int]],
    prompt: str,
) -> QueryGroup:
    names, sources = list(gallery), list(gallery.values())
    neighbour = Path(sources[0].path)  # a reference outside of the gallery lies beside the gallery's images

    def reference(name: str) -> ImageSource:
        if name in gallery:
            return gallery[name]
        return ImageSource(os.fspath(neighbour.parent / (name + neighbour.suffix)))

    def score(ranking: Ranking) -> dict[str, float]:
        wanted = torch.tensor(targets)
        subset = ranking.among(members).ranks(wanted)
        return recall_at(ranking.ranks(wanted), CUTOFFS) | recall_at(subset, SUBSET_CUTOFFS, "R_subset@{}")

    position = {name: index for index, name in enumerate(names)}
    return QueryGroup(
        name="all",
        gallery=sources,
        gallery_names=names,
        references=[reference(entry["reference"]) for entry in entries],
        query_ids=[str(entry["pairid"]) for entry in entries],
        prompts=[(fill(prompt, caption=entry["caption"]),) for entry in entries],
        texts=[(fill("{caption}", caption=entry["caption"]),) for entry in entries],
        positives=[(target,) for target in targets] or [()] * len(entries),
        score=score if targets else lambda ranking: {},
        excluded=torch.tensor([position.get(entry["reference"], -1) for entry in entries]),
    )


def _submission(group: QueryGroup, members: Sequence[list[int]], ranking: Ranking) -> dict[str, Any]:
    """The two files of the test server: 50 names per pair over the gallery, 3 over the image set."""
    tops = {"recall": ranking.top(SUBMITTED), "recall_subset": ranking.among(members).top(SUBMITTED_SUBSET)}
    files = {}
    for metric, top in tops.items():
        lists = {
            pair: [group.gallery_names[index] for index in row if index >= 0]
            for pair, row in zip(group.query_ids, top.tolist())
        }
        files[metric] = {"version": "rc2", "metric": metric} | lists
    return files
