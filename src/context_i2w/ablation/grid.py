"""A grid of runs, named in one readable file.

    question = "What does each part buy?"
    seeds = 5
    full = "full model"                         # the row that all others are compared with
    options = ""                                # of src/main.py, for every row

    [rows]
    "full model" = ""
    "no rotation" = "--mapper-option rotation=False"

    [rows.Pic2Word]
    options = "--mapper pic2word"
    choose = ["--lr 3e-4", "--lr 1e-3"]         # the best on dev is reported on test

    [[compare]]                                 # more comparisons than with the full model
    row = "Pic2Word"
    against = ["no rotation"]

    [[compare]]                                 # at equal effort: with the one that comes nearest in it
    row = "full model"
    against = ["Pic2Word, 8 epochs", "Pic2Word, 16 epochs"]
    nearest = "loss"                            # or "seconds"

Keys that may be left out: options, choose, compare, note (said under the tables), split = "dev" (to look for a recipe
without touching the test queries), data = {dev = "…", test = "…"} (data roots, the toy world's by default),
tasks = ["imgnet", "coco", "cirr", "fashion"] and

    methods = ["image+text", "slerp:0.65", "composed", "blended:0.7:0.65"]

the methods of a query (model/queries.py) that every run is scored with. Each makes a line of the tables, called ROW for
`composed`, ROW METHOD for the others, METHOD where it needs no mapper; `full` and `compare` name lines.
"""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from context_i2w.benchmarks import BENCHMARKS
from context_i2w.errors import UserError
from context_i2w.evaluation.evaluate import BASELINES, ONLY
from context_i2w.evaluation.setup import TOY_ROOT
from context_i2w.model.queries import parse_method

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TASKS = ("imgnet", "coco", "cirr", "fashion")
EFFORTS = ("loss", "seconds")  # of training


@dataclass(frozen=True)
class Row:
    """Options of src/main.py; of the candidates in `choose` the best on dev is taken."""

    options: tuple[str, ...]
    choose: tuple[tuple[str, ...], ...] = ()

    def variants(self) -> list[tuple[str, ...]]:
        return [(*self.options, *candidate) for candidate in self.choose] or [self.options]


@dataclass(frozen=True)
class Comparison:
    """The line `row` with one of `against`: the only one, or the one that is nearest in its effort."""

    row: str
    against: tuple[str, ...]
    nearest: str | None = None


@dataclass(frozen=True)
class Grid:
    """What a grid file says."""

    name: str
    question: str
    seeds: int
    full: str
    rows: dict[str, Row]
    options: tuple[str, ...] = ()
    compare: tuple[Comparison, ...] = ()
    note: str = ""
    split: str = "test"
    tasks: tuple[str, ...] = TASKS
    methods: tuple[str, ...] = (*BASELINES, ONLY)
    data: Mapping[str, str] = field(default_factory=lambda: {s: str(TOY_ROOT / s) for s in ("dev", "test")})

    def lines(self) -> dict[str, tuple[str | None, str]]:
        """Line of the tables -> its row, None for a method without a mapper, and its method."""
        of_mapper = [method for method in self.methods if parse_method(method).uses_mapper]
        alone = {method: (None, method) for method in self.methods if method not in of_mapper}
        pairs = [(row, method) for row in self.rows for method in of_mapper]
        return alone | {row if method == ONLY else f"{row} {method}": (row, method) for row, method in pairs}


def read_grid(path: Path) -> Grid:
    """Raises UserError, naming the key and what is expected there."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; the shipped grids are in scripts/grids/") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not TOML ({error})") from None
    known = {*Grid.__dataclass_fields__} - {"name"}
    if unknown := ", ".join(sorted(content.keys() - known)):
        raise UserError(f"{path}: unknown key {unknown}; known are {', '.join(sorted(known))}")
    try:
        grid = _grid(path.stem, content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: {type(error).__name__} {error}; context_i2w/ablation/grid.py shows the form"
        ) from None
    _check(grid, path)
    return grid


def _grid(name: str, content: dict[str, Any]) -> Grid:
    rows = {}
    for row, value in content.pop("rows").items():
        value = {"options": value} if isinstance(value, str) else value
        rows[row] = Row(_words(value.pop("options", "")), tuple(map(_words, value.pop("choose", ()))))
        if value:
            raise ValueError(f"row {row!r} has no key {', '.join(value)}")
    compare = tuple(Comparison(**entry | {"against": tuple(entry["against"])}) for entry in content.pop("compare", ()))
    options, tasks = _words(content.pop("options", "")), tuple(content.pop("tasks", TASKS))
    methods = tuple(content.pop("methods", Grid.methods))
    return Grid(name, rows=rows, options=options, compare=compare, tasks=tasks, methods=methods, **content)


def _words(options: str) -> tuple[str, ...]:
    return tuple(shlex.split(options))


def _check(grid: Grid, path: Path) -> None:
    mentioned = {grid.full: "full"} | {row: "compare" for c in grid.compare for row in (c.row, *c.against)}
    lines = grid.lines()
    for name, key in mentioned.items():
        if name not in lines or (key == "full" and lines[name][0] is None):
            known = [line for line, (row, _) in lines.items() if row is not None or key != "full"]
            raise UserError(f"{path}: {key}: no row {name!r}; the rows are {', '.join(known)}")
    for entry in grid.compare:
        if entry.nearest and any(lines[name][0] is None for name in (entry.row, *entry.against)):
            raise UserError(f"{path}: compare: {entry.row!r}: nearest in {entry.nearest} is for rows that are trained")
        if entry.nearest not in (None, *EFFORTS) or (len(entry.against) != 1 and entry.nearest is None):
            raise UserError(
                f"{path}: compare: {entry.row!r} with one row, or with the nearest in {' or '.join(EFFORTS)}"
            )
    if unknown := [task for task in grid.tasks if task not in BENCHMARKS]:
        raise UserError(f"{path}: tasks: {', '.join(unknown)} unknown; known are {', '.join(BENCHMARKS)}")
    if grid.split not in grid.data or not isinstance(grid.seeds, int) or grid.seeds < 1:
        raise UserError(f"{path}: split {grid.split!r} needs a data root of that name, and seeds a number from 1 on")
