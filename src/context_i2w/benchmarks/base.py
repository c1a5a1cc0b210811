"""What every benchmark hands to the evaluation, and reading its files with errors that a user can act on."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from context_i2w import files
from context_i2w.errors import UserError
from context_i2w.files import list_some, shown
from context_i2w.model.images import ImageSource
from context_i2w.ranking.exact import Ranking

REMEDY = "see data/README.md and run `python scripts/check_data.py`"
LONGEST = 100_000  # pixels of a box's side
LISTED = 10  # files named in one error; the check script lists them all
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class QueryGroup:
    """Queries that share a gallery and are reported together; lists of Q queries and G gallery images.

    prompts: for each query the texts that serve as condition and as composition, holding the placeholder;
    the features of several are averaged after normalising. texts: likewise for the text-only baseline, where
    a placeholder is an ordinary token. positives: gallery indices that answer each query (empty if unknown).
    score: the benchmark's metrics, in percent, of a ranking of this group's queries over its gallery.
    excluded [Q]: gallery index that is removed from each ranking, -1 for none. candidates: gallery indices
    that are ranked for each query, all if None.
    """

    name: str
    gallery: Sequence[ImageSource]
    gallery_names: Sequence[str]
    references: Sequence[ImageSource]
    query_ids: Sequence[str]
    prompts: Sequence[tuple[str, ...]]
    texts: Sequence[tuple[str, ...]]
    positives: Sequence[Sequence[int]]
    score: Callable[[Ranking], dict[str, float]]
    excluded: torch.Tensor | None = None
    candidates: Sequence[Sequence[int]] | None = None


@dataclass(frozen=True)
class Benchmark:
    """A benchmark under one protocol. `protocol` is printed beside every number and goes into the JSON.

    submission: for tests without public answers, the files to upload ({kind: content}) from a ranking.
    dollar: which `$` of a prompt is the placeholder under SEARLE's and LinCIR's rules, "first" or "every" one.
    """

    name: str
    groups: Sequence[QueryGroup]
    protocol: dict[str, Any] = field(default_factory=dict)
    submission: Callable[[Ranking], dict[str, Any]] | None = None
    dollar: str | None = None


def find_folders(data_root: str | os.PathLike, names: Sequence[str], what: str) -> list[Path]:
    """Folders of the data root called one of `names`, whatever their case, hyphens and underscores."""
    root = Path(data_root)
    if not root.is_dir():
        raise UserError(f"no data folder {root} ({what}); {REMEDY}")
    wanted = {plain(name) for name in names}
    found = sorted(entry for entry in root.iterdir() if plain(entry.name) in wanted and entry.is_dir())
    if not found:
        raise UserError(f"no {what} data: no folder {' or '.join(names)} in {root}; {REMEDY}")
    return found


def plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def find_file(candidates: Iterable[Path], what: str, remedy: str = REMEDY) -> Path:
    """The first candidate that exists; UserError naming them all if none does."""
    candidates = list(candidates)
    for path in candidates:
        if path.exists():
            return path
    raise UserError(f"no {what}: looked for {', '.join(map(str, candidates))}; {remedy}")


def read_json(path: Path, shape: Any) -> Any:
    """A JSON file of the declared shape (files.misfit), not empty. Raises UserError naming place and value."""
    return some(files.read_json(path, shape, REMEDY), path)


def some(entries: Any, path: Path) -> Any:
    """The entries of a file. Raises UserError if there are none."""
    if not entries:
        raise UserError(f"{path}: no entries; {REMEDY}")
    return entries


def lines_of(path: Path) -> list[tuple[int, str]]:
    """Number and text of a list's lines, at least one, that are not blank. Raises UserError; UTF-8 is expected."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read ({shown(str(error))}); {REMEDY}") from None
    return some([(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()], path)


def places(keys: Iterable[Key]) -> dict[Key, list[int]]:
    """The numbers at which each key stands."""
    found: dict[Key, list[int]] = {}
    for number, key in enumerate(keys):
        found.setdefault(key, []).append(number)
    return found


def index_of(position: dict[str, int], name: str, path: Path, where: str) -> int:
    """Gallery index of a name that the annotation file `path` mentions, or a UserError saying where."""
    if name not in position:
        raise UserError(f"{path}: {where}: image {shown(repr(name))} is not in the gallery; {REMEDY}")
    return position[name]


def check_images_exist(benchmark: Benchmark) -> None:
    """Raises one UserError listing every image file that the benchmark needs and that is not there."""
    paths = {source.path for group in benchmark.groups for source in (*group.gallery, *group.references)}
    missing = sorted(path for path in paths if not os.path.isfile(path))
    if missing:
        raise UserError(f"{benchmark.name}: {listing(missing, len(paths), 'are missing')}")


def listing(broken: Sequence[str], total: int, trouble: str) -> str:
    """One line that names files, for an error."""
    names = list_some(list(broken), LISTED)
    return f"{len(broken)} of {total} images {trouble}: {names}; `python scripts/check_data.py --decode` lists all"
