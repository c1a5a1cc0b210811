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
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from context_i2w.benchmarks.base import REMEDY, Benchmark, QueryGroup, find_folders, lines_of, places
from context_i2w.benchmarks.imagenet_lists import DOMAINS, PER_DOMAIN, QUERY_LIST, TARGET_LIST, images_in, label_of
from context_i2w.command_line import Options
from context_i2w.errors import UserError
from context_i2w.files import FileName, is_hidden, misfit, shown
from context_i2w.model.images import ImageSource
from context_i2w.model.prompts import fill
from context_i2w.ranking.exact import Ranking
from context_i2w.ranking.metrics import recall_and_precision_at, recall_ceiling_at

PROMPT = "a {domain} of [*]"
TEXT = "a {domain} of "
CUTOFFS = (1, 5, 10, 50, 100, 200)
CEILING_CUTOFFS = (10, 50)


class Image(NamedTuple):
    name: str  # relative to the data root
    path: str
    label: int


def load(data_root: str | os.PathLike, options: Options) -> Benchmark:
    """10,000 queries and 16,983 gallery images in the public data. Raises UserError."""
    queries, gallery, source = read_sets(data_root)
    groups = [_group(domain, queries, gallery) for domain in DOMAINS]
    protocol = {
        "prompt": PROMPT,
        "gallery": f"{len(gallery)} images, the query photos among them as distractors",
        "metric": "Recall@K = hits in the top K / positives (not hit@K), P@K beside it",
        "ceiling": {group.name: recall_ceiling_at(_counts(group.positives), CEILING_CUTOFFS) for group in groups},
        "queries": len(queries),
        "image": "shorter side resized, centre crop",
        "sets": source,
    }
    return Benchmark("imgnet", groups, protocol)


def read_sets(data_root: str | os.PathLike) -> tuple[list[Image], list[Image], str]:
    """Queries, gallery and where they come from. Raises UserError."""
    folder = find_folders(data_root, ("imgnet",), "ImageNet-R")[0]
    lists = [folder / QUERY_LIST, folder / TARGET_LIST]
    if all(path.is_file() for path in lists):
        queries, gallery = (_read_list(path, folder) for path in lists)
        return queries, gallery, "published lists"
    return *_from_folders(folder), "folders"


def _group(domain: str, queries: list[Image], gallery: list[Image]) -> QueryGroup:
    labels = torch.tensor([image.label for image in gallery])
    wanted = [label_of(domain, query.label % PER_DOMAIN) for query in queries]
    of_label = places(image.label for image in gallery)
    positives = [of_label.get(label, []) for label in wanted]

    def score(ranking: Ranking) -> dict[str, float]:
        hits = labels[ranking.top(max(CUTOFFS))] == torch.tensor(wanted)[:, None]
        return recall_and_precision_at(hits, _counts(positives), CUTOFFS, len(gallery))

    return QueryGroup(
        name=domain,
        gallery=[ImageSource(image.path) for image in gallery],
        gallery_names=[image.name for image in gallery],
        references=[ImageSource(query.path) for query in queries],
        query_ids=[query.name for query in queries],
        prompts=[(fill(PROMPT, domain=domain),)] * len(queries),
        texts=[(fill(TEXT, domain=domain),)] * len(queries),
        positives=positives,
        score=score,
    )


def _counts(positives: Sequence[Sequence[int]]) -> torch.Tensor:
    return torch.tensor([len(indices) for indices in positives])


def _read_list(path: Path, folder: Path) -> list[Image]:
    images = []
    for number, line in lines_of(path):
        *name, label = line.rsplit(None, 1)
        if not name or not re.fullmatch("[0-9]{1,9}", label) or misfit(name[0], FileName):
            raise UserError(f"{path}:{number}: `path label` is expected, found {shown(repr(line))}; {REMEDY}")
        images.append(Image(name[0], _resolve(name[0], folder), int(label)))
    return images


def _resolve(name: str, folder: Path) -> str:
    """Names begin with `imgnet/` as published; lists relative to that folder are understood too."""
    from_root = folder.parent / name
    inside = folder / name
    return os.fspath(inside if not os.path.isfile(from_root) and os.path.isfile(inside) else from_root)


def _from_folders(folder: Path) -> tuple[list[Image], list[Image]]:
    """Queries and gallery from the folders; classes are numbered in the order of their wnids."""
    renditions, real = folder / "imagenet-r", folder / "real"
    for needed in (renditions, real):
        if not needed.is_dir():
            raise UserError(f"no ImageNet-R data: neither the lists nor {needed}; {REMEDY}")
    classes = [entry.name for entry in sorted(renditions.iterdir()) if entry.is_dir() and not is_hidden(entry)]
    queries: list[Image] = []
    targets: list[Image] = []
    for number, wnid in enumerate(classes):
        queries += [_image(file, folder, number) for file in images_in(real / wnid)]
        for file in images_in(renditions / wnid):
            domain = file.name.partition("_")[0]
            if domain in DOMAINS:
                targets.append(_image(file, folder, label_of(domain, number)))
    if not queries or not targets:
        raise UserError(f"no ImageNet-R data: no images in {real} or {renditions}; {REMEDY}")
    return queries, targets + [query._replace(label=label_of("real", query.label)) for query in queries]


def _image(file: Path, folder: Path, label: int) -> Image:
    return Image(f"imgnet/{file.relative_to(folder).as_posix()}", os.fspath(file), label)
