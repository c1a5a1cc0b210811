"""ImageNet to ImageNet-R, domain conversion: a photo, and the same class as cartoon, origami, toy, sculpture.

Files:
    imgnet/imagenet-r/<wnid>/{cartoon,origami,toy,sculpture}_<n>.jpg    targets, other names are unused
    imgnet/real/<wnid>/ILSVRC2012_val_<n>.JPEG                          queries, and distractors
    imgnet/imgnet_real_query.txt, imgnet/imgnet_targets.txt             the published lists, if there
Without the lists (imagenet_lists.py) the same sets are taken from the folders.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from context_i2w.benchmarks.base import REMEDY, Benchmark, QueryGroup, find_folders, read_lines
from context_i2w.benchmarks.imagenet_lists import DOMAINS, PER_DOMAIN, QUERY_LIST, TARGET_LIST, label_of
from context_i2w.benchmarks.options import NoVariants
from context_i2w.errors import UserError
from context_i2w.files import FileName, is_hidden, misfit, shown
from context_i2w.model.images import ImageSource
from context_i2w.model.prompts import fill
from context_i2w.ranking.exact import Ranking
from context_i2w.ranking.metrics import recall_and_precision_at, recall_ceiling_at

FOLDERS = ("imgnet",)
PROMPT = "a {domain} of [*]"
TEXT = "a {domain} of "
CUTOFFS = (1, 5, 10, 50, 100, 200)
CEILING_CUTOFFS = (10, 50)


@dataclass(frozen=True)
class LabelledImages:
    names: list[str]  # relative to the data root
    paths: list[str]
    labels: torch.Tensor  # [n] int64


def load(data_root: str | os.PathLike, options: NoVariants | None = None) -> Benchmark:
    """10,000 queries and 16,983 gallery images in the public data. Raises UserError."""
    queries, gallery, source = read_sets(data_root)
    ceilings = {}
    groups = []
    for domain in DOMAINS:
        groups.append(_group(domain, queries, gallery, queries.labels % PER_DOMAIN + label_of(domain, 0)))
        counts = torch.tensor([len(positives) for positives in groups[-1].positives])
        ceilings[domain] = recall_ceiling_at(counts, CEILING_CUTOFFS)
    protocol = {
        "prompt": PROMPT,
        "gallery": f"{len(gallery.names)} images, the query photos among them as distractors",
        "metric": "Recall@K = hits in the top K / positives (not hit@K), P@K beside it",
        "ceiling": ceilings,
        "queries": len(queries.names),
        "image": "shorter side resized, centre crop",
        "sets": source,
    }
    return Benchmark("imgnet", groups, protocol)


def read_sets(data_root: str | os.PathLike) -> tuple[LabelledImages, LabelledImages, str]:
    """Queries, gallery and where they come from. Raises UserError."""
    folder = find_folders(data_root, FOLDERS, "ImageNet-R")[0]
    lists = [folder / QUERY_LIST, folder / TARGET_LIST]
    if all(path.is_file() for path in lists):
        queries, gallery = (_read_list(path, folder) for path in lists)
        return queries, gallery, "published lists"
    return *_from_folders(folder), "folders"


def _group(domain: str, queries: LabelledImages, gallery: LabelledImages, wanted: torch.Tensor) -> QueryGroup:
    by_label: dict[int, list[int]] = {}
    for index, label in enumerate(gallery.labels.tolist()):
        by_label.setdefault(label, []).append(index)
    positives = [by_label.get(label, []) for label in wanted.tolist()]
    counts = torch.tensor([len(indices) for indices in positives])

    def score(ranking: Ranking) -> dict[str, float]:
        hits = gallery.labels[ranking.top(max(CUTOFFS))] == wanted[:, None]
        return recall_and_precision_at(hits, counts, CUTOFFS, len(gallery.labels))

    return QueryGroup(
        name=domain,
        gallery=[ImageSource(path) for path in gallery.paths],
        gallery_names=gallery.names,
        references=[ImageSource(path) for path in queries.paths],
        query_ids=queries.names,
        prompts=[(fill(PROMPT, domain=domain),)] * len(queries.names),
        texts=[(fill(TEXT, domain=domain),)] * len(queries.names),
        positives=positives,
        score=score,
    )


def _read_list(path: Path, folder: Path) -> LabelledImages:
    names, labels = [], []
    for number, line in read_lines(path):
        *name, label = line.rsplit(None, 1)
        if not name or not re.fullmatch("[0-9]{1,9}", label) or misfit(name[0], FileName):
            raise UserError(f"{path}:{number}: `path label` is expected, found {shown(repr(line))}; {REMEDY}")
        names.append(name[0])
        labels.append(int(label))
    if not names:
        raise UserError(f"{path}: no entries; {REMEDY}")
    return LabelledImages(names, [_resolve(name, folder) for name in names], torch.tensor(labels))


def _resolve(name: str, folder: Path) -> str:
    """Names begin with `imgnet/` as published; lists relative to that folder are understood too."""
    from_root = folder.parent / name
    inside = folder / name
    return os.fspath(inside if not os.path.isfile(from_root) and os.path.isfile(inside) else from_root)


def _from_folders(folder: Path) -> tuple[LabelledImages, LabelledImages]:
    """Queries and gallery from the folders; classes are numbered in the order of their wnids."""
    renditions, real = folder / "imagenet-r", folder / "real"
    for needed in (renditions, real):
        if not needed.is_dir():
            raise UserError(f"no ImageNet-R data: neither the lists nor {needed}; {REMEDY}")
    classes = [entry.name for entry in sorted(renditions.iterdir()) if entry.is_dir() and not is_hidden(entry)]
    queries, targets = [], []
    for number, wnid in enumerate(classes):
        queries += [(file, number) for file in _images(real / wnid)]
        for file in _images(renditions / wnid):
            domain = file.name.partition("_")[0]
            if domain in DOMAINS:
                targets.append((file, label_of(domain, number)))
    if not queries or not targets:
        raise UserError(f"no ImageNet-R data: no images in {real} or {renditions}; {REMEDY}")
    distractors = [(file, label_of("real", number)) for file, number in queries]
    return _labelled(queries, folder), _labelled(targets + distractors, folder)


def _images(folder: Path) -> list[Path]:
    suffixes = (".jpg", ".jpeg", ".png")
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in suffixes and not is_hidden(file))


def _labelled(images: list[tuple[Path, int]], folder: Path) -> LabelledImages:
    names = [f"imgnet/{file.relative_to(folder).as_posix()}" for file, _ in images]
    return LabelledImages(names, [os.fspath(file) for file, _ in images], torch.tensor([n for _, n in images]))
