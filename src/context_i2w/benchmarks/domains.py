"""Domain conversion between all domains of a set, beyond the paper: NICO++, Mini-DomainNet, LTLL, ImageNet-R.

Files:
    nico/{query,database}_files.csv, minidn/{query,database}_files.csv, ltll/full_files.csv, imagenet_r/full_files.csv
    a line is `minidn/clipart/aircraft_carrier/clipart_001_000014.jpg clipart aircraft_carrier`, no header
Paths begin at the data folder; blanks of the original names are underscores in the lists, and files are found under
both spellings. One list serves as queries and database where there is one. Without `imagenet_r/` its images are those
of the paper's ImageNet-R task (see `imagenet.py`).

For every ordered pair of domains the images of the first are queries over the whole database, and those of their class
and the second domain are the positives; a query that is itself in the database stays there.
Source: arXiv 2412.03297.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from context_i2w.benchmarks import imagenet
from context_i2w.benchmarks.base import REMEDY, Benchmark, QueryGroup, find_file, find_folders, lines_of, places, plain
from context_i2w.benchmarks.imagenet_lists import DOMAINS, PER_DOMAIN, REAL
from context_i2w.command_line import Options
from context_i2w.errors import UserError
from context_i2w.files import FileName, misfit, shown
from context_i2w.model.images import ImageSource
from context_i2w.model.prompts import fill
from context_i2w.ranking.exact import Ranking
from context_i2w.ranking.metrics import domain_recall_and_precision, mean_average_precision

PROMPT, TEXT = "a {word} of [*]", "{word}"


class DomainSet(NamedTuple):
    """lists: of queries and of the database. words: for each domain the word that names it in a text."""

    title: str
    folder: str
    lists: tuple[str, str]
    words: Mapping[str, str]
    cutoffs: tuple[int, int]


def _same(*domains: str) -> dict[str, str]:
    return {domain: domain for domain in domains}


_TWO, _ONE = ("query_files.csv", "database_files.csv"), ("full_files.csv", "full_files.csv")
_NICO = {"autumn": "autumn", "dim": "dimlight"} | _same("grass", "outdoor", "rock", "water")
_MINIDN = _same("clipart", "painting") | {"real": "photo", "sketch": "sketch"}
_IMAGENET_R = {"real": "photo"} | _same(*DOMAINS)
SETS = {
    "nico": DomainSet("NICO++", "nico", _TWO, _NICO, (50, 100)),
    "minidn": DomainSet("Mini-DomainNet", "minidn", _TWO, _MINIDN, (50, 100)),
    "ltll": DomainSet("LTLL", "ltll", _ONE, {"New": "Today", "Old": "Archive"}, (5, 10)),
    "imagenet-r-all": DomainSet("ImageNet-R", "imagenet_r", _ONE, _IMAGENET_R, (10, 50)),
}


class Image(NamedTuple):
    name: str  # as the list spells it
    path: str
    domain: str
    label: str


def load(mode: str, data_root: str | os.PathLike, options: Options) -> Benchmark:
    """The data set of that `--eval-mode`. Raises UserError if a list is missing or a line of it can't be read."""
    kind = SETS[mode]
    try:
        folder = find_folders(data_root, (kind.folder,), kind.title)[0]
    except UserError:
        if mode != "imagenet-r-all":
            raise
        queries = database = _from_imagenet(data_root)
        source = "those of imgnet"
    else:
        paths = [find_file([folder / name], f"list of {kind.title}") for name in kind.lists]
        queries, database = (read_list(path, folder, kind.words) for path in paths)
        source = "published lists"
    targets = {image.domain for image in database}
    sources = {image.domain for image in queries}
    pairs = [pair for pair in permutations(kind.words, 2) if pair[0] in sources and pair[1] in targets]
    if not pairs:
        raise UserError(f"{kind.title}: no two domains in the lists; {REMEDY}")
    gallery = {
        "gallery": [ImageSource(image.path) for image in database],
        "gallery_names": [image.name for image in database],
    }
    answers = places((image.domain, image.label) for image in database)
    groups = [_group(*pair, kind, queries, answers, gallery) for pair in pairs]
    protocol = {
        "prompt": PROMPT,
        "gallery": f"{len(database)} images, nothing removed",
        "metric": "mAP over the whole gallery by trapezoids, R@K = hits in the top K / positives, "
        "P_capped@K = hits in the top K / min(positives, K); mean over ordered pairs of domains",
        "queries": len(queries),
        "words": ", ".join(kind.words.values()),
        "image": "shorter side resized, centre crop",
        "sets": source,
    }
    return Benchmark(mode, groups, protocol)


def _group(source: str, target: str, kind: DomainSet, queries: list[Image], answers: dict, gallery: dict) -> QueryGroup:
    asked = [image for image in queries if image.domain == source]
    positives = [answers.get((target, image.label), []) for image in asked]

    def score(ranking: Ranking) -> dict[str, float]:
        ranks = ranking.ranks_of(positives)
        return mean_average_precision(ranks) | domain_recall_and_precision(ranks, kind.cutoffs)

    word = kind.words[target]
    return QueryGroup(
        name=f"{source} to {target}",
        **gallery,
        references=[ImageSource(image.path) for image in asked],
        query_ids=[image.name for image in asked],
        prompts=[(fill(PROMPT, word=word),)] * len(asked),
        texts=[(fill(TEXT, word=word),)] * len(asked),
        positives=positives,
        score=score,
    )


def read_list(path: Path, folder: Path, domains: Mapping[str, str]) -> list[Image]:
    """Raises UserError for a line that isn't `path domain class` or names an unknown domain."""
    images, find = [], _Finder(folder)
    for number, line in lines_of(path):
        fields = line.split()
        if len(fields) != 3 or fields[1] not in domains or misfit(fields[0], FileName):
            wanted = f"`path domain class` is expected, the domain one of {', '.join(domains)}"
            raise UserError(f"{path}:{number}: {wanted}, found {shown(repr(line))}; {REMEDY}")
        images.append(Image(fields[0], find(fields[0]), *fields[1:]))
    return images


class _Finder:
    """Paths of a list as the files are spelled, blanks or underscores; a folder is listed once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.spellings: dict[str, dict[str, str]] = {}  # of a folder

    def __call__(self, name: str) -> str:
        first, *parts = PurePosixPath(name).parts
        path = os.fspath(self.folder)
        if plain(first) != plain(self.folder.name):
            path, parts = os.path.dirname(path), [first, *parts]
        for part in parts:
            path = os.path.join(path, self._spelled(path, part))
        return path

    def _spelled(self, folder: str, name: str) -> str:
        if folder not in self.spellings:
            entries = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
            of_folder = {entry.replace(" ", "_"): entry for entry in entries}
            self.spellings[folder] = of_folder | {entry: entry for entry in entries}
        return self.spellings[folder].get(name, name)


def _from_imagenet(data_root: str | os.PathLike) -> list[Image]:
    domains = dict(enumerate(DOMAINS)) | {REAL: "real"}
    labelled = [(image, *divmod(image.label, PER_DOMAIN)) for image in imagenet.read_sets(data_root)[1]]
    return [Image(image.name, image.path, domains.get(domain, ""), str(label)) for image, domain, label in labelled]
