"""From a grid's runs to its numbers: choice on dev, scores, differences to the full model and between rows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from context_i2w.ablation.grid import EFFORTS, Comparison, Grid
from context_i2w.ablation.runs import Run, run_of
from context_i2w.ablation.scores import measure, read_metrics, read_scores
from context_i2w.checkpoints.files import read_checkpoint
from context_i2w.evaluation.report import versions
from context_i2w.model.flops import counted_forward
from context_i2w.ranking.significance import Difference, Scores, bootstrap_interval, holm, paired_difference

LEVEL = 0.05  # of the adjusted p-values, for a mark


@dataclass
class TaskScore:
    """A row on one task, in percent: mean and standard deviation over seeds, bootstrap interval over queries."""

    mean: float
    low: float
    high: float
    seeds: list[float]
    metrics: dict[str, list[float]]  # every metric of the benchmark, for each seed
    difference: "Tested | None" = None  # to the full model


@dataclass(frozen=True)
class Tested:
    """A difference with its p-value adjusted for all those tested beside it."""

    difference: Difference
    adjusted_p: float

    @property
    def mark(self) -> str:
        """ "+" or "-": better or worse by more than chance."""
        if self.adjusted_p >= LEVEL:
            return ""
        return "+" if self.difference.mean > 0 else "-"


@dataclass
class RowResult:
    """Everything about one row."""

    options: str
    tasks: dict[str, TaskScore] = field(default_factory=dict)
    parameters: int | None = None
    forward_flop: int | None = None  # of the mapper, for one image
    seconds: float | None = None
    loss: float | None = None  # training loss of the last epoch
    chosen_from: dict[str, float] | None = None  # candidates' options -> mean over the tasks on dev


def all_runs(grid: Grid, logs: Path) -> dict[str, list[list[Run]]]:
    """row -> candidate -> a run for each seed."""
    return {
        name: [
            [run_of([*grid.options, *options, "--seed", str(seed)], logs) for seed in range(grid.seeds)]
            for options in row.variants()
        ]
        for name, row in grid.rows.items()
    }


def choose_on_dev(runs: Mapping[str, Sequence[Sequence[Run]]], grid: Grid) -> dict[str, tuple[int, dict[str, float]]]:
    """row -> number of its best candidate, and the candidates' means over the tasks, for rows that have a choice."""
    chosen = {}
    for name, candidates in runs.items():
        if len(candidates) > 1:
            scores = [[read_scores(seeds, task, "dev").mean for task in grid.tasks] for seeds in candidates]
            means = [sum(row) / len(row) for row in scores]
            options = [" ".join(candidate) for candidate in grid.rows[name].choose]
            chosen[name] = means.index(max(means)), dict(zip(options, means, strict=True))
    return chosen


def results_of(grid: Grid, runs: Mapping[str, Sequence[Run]]) -> dict[str, RowResult]:
    """The grid's lines, with the differences of those of a mapper to the full model."""
    anyone = next(iter(runs.values()))[0]
    about = {name: _about(seeds) for name, seeds in runs.items()}
    rows, lines = {}, grid.lines()
    for name, (row, method) in lines.items():
        rows[name] = RowResult(**about[row]) if row else RowResult("")
        for task in grid.tasks:
            rows[name].tasks[task] = _score(runs[row] if row else [anyone], task, grid.split, method)
    places = [(name, task) for name, (row, _) in lines.items() if row and name != grid.full for task in grid.tasks]
    pairs = [_pair(grid, runs, name, grid.full, task) for name, task in places]
    for (name, task), tested in zip(places, differences_of(pairs), strict=True):
        rows[name].tasks[task].difference = tested
    return rows


def _pair(grid: Grid, runs: Mapping[str, Sequence[Run]], ours: str, theirs: str, task: str) -> tuple[Scores, Scores]:
    """Scores of two lines; a method without a mapper is paired with every seed of the other."""
    lines = grid.lines()
    (row, method), (other, its_method) = lines[ours], lines[theirs]
    seeds, its_seeds = (runs[name] if name else None for name in (row or other, other or row))
    anyone = [next(iter(runs.values()))[0]]
    return (
        read_scores(seeds or anyone, task, grid.split, method),
        read_scores(its_seeds or anyone, task, grid.split, its_method),
    )


def differences_of(pairs: Sequence[tuple[Scores, Scores]]) -> list[Tested]:
    """First minus second of each pair; p-values adjusted by Holm for all pairs."""
    found = [paired_difference(*pair) for pair in pairs]
    return list(map(Tested, found, holm([difference.p for difference in found])))


def comparisons(
    grid: Grid, rows: Mapping[str, RowResult], runs: Mapping[str, Sequence[Run]]
) -> list[tuple[Comparison, str, dict[str, Tested]]]:
    """For each of the grid's: the row compared with, and `row` minus it on each task, tested together."""
    others = [_other(entry, rows) for entry in grid.compare]
    named = [(entry.row, other, task) for entry, other in zip(grid.compare, others) for task in grid.tasks]
    pairs = [_pair(grid, runs, *place) for place in named]
    tested = iter(differences_of(pairs))
    return [(entry, other, {task: next(tested) for task in grid.tasks}) for entry, other in zip(grid.compare, others)]


def _other(entry: Comparison, rows: Mapping[str, RowResult]) -> str:
    """The line that a comparison is with."""
    nearest = entry.nearest
    if nearest is None:
        return entry.against[0]
    wanted = getattr(rows[entry.row], nearest)
    return min(entry.against, key=lambda name: abs(getattr(rows[name], nearest) - wanted))


def as_json(grid: Grid, rows: Mapping[str, RowResult], compared: list, command: str) -> dict[str, Any]:
    return {
        "grid": grid.name,
        "question": grid.question,
        "command": command,
        "split": grid.split,
        "seeds": grid.seeds,
        "full": grid.full,
        "measures": {task: measure(task) for task in grid.tasks},
        "rows": {name: asdict(row) for name, row in rows.items()},
        "comparisons": [
            asdict(entry) | {"with": other, "differences": {task: asdict(found) for task, found in tested.items()}}
            for entry, other, tested in compared
        ],
        "versions": versions(),
    }


def _score(seeds: Sequence[Run], task: str, split: str, method: str) -> TaskScore:
    scores = read_scores(seeds, task, split, method)
    low, high = bootstrap_interval(scores)
    every = [read_metrics(run, task, split, method) for run in seeds]
    metrics = {name: [found[name] for found in every] for name in every[0]}
    return TaskScore(scores.mean, low, high, scores.by_seed.tolist(), metrics)


def _about(seeds: Sequence[Run]) -> dict[str, Any]:
    """Of a row's runs: options, sizes, mean effort."""
    checkpoint, efforts = read_checkpoint(seeds[0].checkpoint), [run.effort() for run in seeds]
    sizes = checkpoint.load_clip().sizes
    mapper = checkpoint.build_mapper(sizes)
    return {
        "options": " ".join(seeds[0].options[:-2]),
        "parameters": sum(parameter.numel() for parameter in mapper.parameters()),
        "forward_flop": counted_forward(mapper, sizes),
        **{name: sum(effort[name] for effort in efforts) / len(efforts) for name in EFFORTS},
    }
