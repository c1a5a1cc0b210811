"""CIRCO, beyond the paper: several right answers per query, a gallery of 123,403 COCO images.

Files:
    CIRCO/annotations/{val,test}.json
    CIRCO/COCO2017_unlabeled/annotations/image_info_unlabeled2017.json
    CIRCO/COCO2017_unlabeled/unlabeled2017/<id, 12 digits>.jpg
The last two may also lie directly in the folder, or in `coco/`. The reference stays in the ranking. The test
split has no answers: it makes a submission file.
"""

from __future__ import annotations

import itertools
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch

from context_i2w.benchmarks.base import REMEDY, Benchmark, QueryGroup, find_file, find_folders, index_of, read_json
from context_i2w.benchmarks.options import PROMPTS, CIRCOOptions
from context_i2w.errors import UserError
from context_i2w.model.images import ImageSource
from context_i2w.model.prompts import fill
from context_i2w.ranking.exact import Ranking
from context_i2w.ranking.metrics import mean_average_precision_at, recall_at

CUTOFFS = (5, 10, 25, 50)
ASPECT_CUTOFF = 10
SUBMITTED = 50


def load(data_root: str | os.PathLike, options: CIRCOOptions) -> Benchmark:
    """Raises UserError if a file is missing or an answer is not in the gallery."""
    folders = find_folders(data_root, ("CIRCO",), "CIRCO")
    path = find_file([folder / "annotations" / f"{options.split}.json" for folder in folders], "CIRCO queries")
    answers = {"target_img_id": int, "gt_img_ids": [int]} if options.split == "val" else {}
    shapes = {"id": int, "reference_img_id": int, "relative_caption": str, "semantic_aspects?": [str], **answers}
    entries = read_json(path, [shapes])
    lacking = next((entry["id"] for entry in entries if answers and not entry["gt_img_ids"]), None)
    if lacking is not None:
        raise UserError(f"{path}: id {lacking}: gt_img_ids is empty, at least one answer is expected; {REMEDY}")
    images, ids = _gallery(path.parent.parent, Path(data_root))
    group = _group(entries, path, images, ids, PROMPTS[options.prompt])
    protocol = {
        "split": options.split,
        "prompt": PROMPTS[options.prompt],
        "prompt variant": options.prompt,
        "gallery": f"{len(ids)} images, reference not removed",
        "metric": "mAP@K over all answers, Recall@K of the one target, mAP@10 by semantic aspect",
        "queries": len(entries),
        "image": "shorter side resized, centre crop",
    }
    return Benchmark("circo", [group], protocol, None if answers else partial(_submission, group))


def _gallery(folder: Path, data_root: Path) -> tuple[Path, list[int]]:
    """Where the images are, and the ids of all of them in the order of COCO's list."""
    places = [folder / "COCO2017_unlabeled", folder, data_root / "coco"]
    lists = [place / "annotations" / "image_info_unlabeled2017.json" for place in places]
    info = find_file(lists, "list of CIRCO images")
    images = find_file([place / "unlabeled2017" for place in places], "CIRCO images")
    ids = dict.fromkeys(image["id"] for image in read_json(info, {"images": [{"id": int}]})["images"])
    if not ids:
        raise UserError(f"{info}: no images; {REMEDY}")
    return images, list(ids)


def _group(entries: list[dict[str, Any]], path: Path, images: Path, ids: list[int], prompt: str) -> QueryGroup:
    names = [str(number) for number in ids]
    position = {name: index for index, name in enumerate(names)}

    def indices(entry: dict[str, Any], numbers: list[int]) -> list[int]:
        return [index_of(position, str(number), path, f"id {entry['id']}") for number in numbers]

    positives = [indices(entry, list(dict.fromkeys(entry.get("gt_img_ids", [])))) for entry in entries]
    targets = [indices(entry, [entry["target_img_id"]])[0] for entry in entries if "target_img_id" in entry]
    aspects = _aspects(entries)

    def score(ranking: Ranking) -> dict[str, float]:
        if not targets:
            return {}
        top = ranking.top(max(CUTOFFS))
        hits = torch.tensor([[i in wanted for i in row] for row, wanted in zip(top.tolist(), positives)])
        counts = torch.tensor([len(wanted) for wanted in positives])
        results = mean_average_precision_at(hits, counts, CUTOFFS)
        results |= recall_at(ranking.ranks(torch.tensor(targets)), CUTOFFS)
        for aspect, rows in aspects.items():
            of_aspect = mean_average_precision_at(hits[rows], counts[rows], (ASPECT_CUTOFF,))
            results[f"mAP@{ASPECT_CUTOFF} {aspect}"] = of_aspect[f"mAP@{ASPECT_CUTOFF}"]
        return results

    def source(number: int) -> ImageSource:
        return ImageSource(os.fspath(images / f"{number:012d}.jpg"))

    return QueryGroup(
        name="all",
        gallery=[source(number) for number in ids],
        gallery_names=names,
        references=[source(entry["reference_img_id"]) for entry in entries],
        query_ids=[str(entry["id"]) for entry in entries],
        prompts=[(fill(prompt, caption=entry["relative_caption"]),) for entry in entries],
        texts=[(fill("{caption}", caption=entry["relative_caption"]),) for entry in entries],
        positives=positives,
        score=score,
    )


def _aspects(entries: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Numbers of the queries that have each semantic aspect."""
    aspects = [entry.get("semantic_aspects", []) for entry in entries]
    every = sorted(set(itertools.chain.from_iterable(aspects)))
    return {aspect: [number for number, listed in enumerate(aspects) if aspect in listed] for aspect in every}


def _submission(group: QueryGroup, ranking: Ranking) -> dict[str, Any]:
    tops = zip(group.query_ids, ranking.top(SUBMITTED).tolist())
    return {"test": {query: [int(group.gallery_names[index]) for index in top] for query, top in tops}}
