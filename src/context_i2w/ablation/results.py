"""From a grid's runs to its numbers: choice on dev, scores, differences to the full model, equal effort."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from context_i2w.ablation.grid import Equal, Grid
from context_i2w.ablation.runs import Run, run_of
from context_i2w.ablation.scores import measure, read_metrics, read_scores
from context_i2w.ablation.significance import Difference, Scores, bootstrap_interval, holm, paired_difference
from context_i2w.checkpoints import read_checkpoint
from context_i2w.evaluation import BASELINES
from context_i2w.flops import counted_forward
from context_i2w.report import versions

LEVEL = 0.05  # of the adjusted p-values, for a mark


@dataclass
class TaskScore:
    """A row on one task, in percent: mean and standard deviation over seeds, bootstrap interval over queries."""

    mean: float
    low: float
    high: float
    seeds: list[float]
    metrics: dict[str, float]  # every metric of the benchmark, mean over seeds
    difference: Difference | None = None  # to the full model
    adjusted_p: float | None = None
    mark: str = ""  # "+" or "-": better or worse than the full model by more than chance


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
            means = [_mean_over_tasks(seeds, grid) for seeds in candidates]
            options = [" ".join(candidate) for candidate in grid.rows[name].choose]
            chosen[name] = means.index(max(means)), dict(zip(options, means, strict=True))
    return chosen


def results_of(grid: Grid, runs: Mapping[str, Sequence[Run]]) -> dict[str, RowResult]:
    """The baselines and the grid's rows, with their differences to the full model."""
    anyone = runs[grid.full][0]
    rows = {name: RowResult("") for name in BASELINES}
    for name, row in rows.items():
        for task in grid.tasks:
            row.tasks[task] = _score([anyone], task, grid.split, name)
    for name, seeds in runs.items():
        rows[name] = RowResult(" ".join(seeds[0].options[:-2]), **_size(seeds[0]), **_effort(seeds))
        for task in grid.tasks:
            rows[name].tasks[task] = _score(seeds, task, grid.split)
    compare(rows, grid, lambda name, task: read_scores(runs[name], task, grid.split))
    return rows


def compare(rows: Mapping[str, RowResult], grid: Grid, scores: Callable[[str, str], Scores]) -> None:
    """Fills in differences to the full model and marks; p-values are adjusted over all rows and tasks together."""
    places = [(name, task) for name in grid.rows if name != grid.full for task in grid.tasks]
    found = [paired_difference(scores(name, task), scores(grid.full, task)) for name, task in places]
    for (name, task), difference, p in zip(places, found, holm([d.p for d in found]), strict=True):
        cell = rows[name].tasks[task]
        cell.difference, cell.adjusted_p = difference, p
        cell.mark = "" if p >= LEVEL else "+" if difference.mean > 0 else "-"


def at_equal_effort(
    grid: Grid, rows: Mapping[str, RowResult], runs: Mapping[str, Sequence[Run]]
) -> list[tuple[Equal, str, dict[str, Difference]]]:
    """For each comparison: the row of `among` nearest in effort, and `row` minus it on each task."""
    found = []
    for entry in grid.equal:
        wanted = effort(rows[entry.row], entry.by)
        nearest = min(entry.among, key=lambda name: abs(effort(rows[name], entry.by) - wanted))
        differences = {
            task: paired_difference(*(read_scores(runs[name], task, grid.split) for name in (entry.row, nearest)))
            for task in grid.tasks
        }
        found.append((entry, nearest, differences))
    return found


def effort(row: RowResult, by: str) -> float:
    return getattr(row, by)


def as_json(grid: Grid, rows: Mapping[str, RowResult], equal: list, command: str) -> dict[str, Any]:
    return {
        "grid": grid.name,
        "question": grid.question,
        "command": command,
        "split": grid.split,
        "seeds": grid.seeds,
        "full": grid.full,
        "measures": {task: measure(task) for task in grid.tasks},
        "rows": {name: asdict(row) for name, row in rows.items()},
        "equal effort": [
            asdict(entry) | {"nearest": nearest, "differences": {task: asdict(d) for task, d in differences.items()}}
            for entry, nearest, differences in equal
        ],
        "versions": versions(),
    }


def _score(seeds: Sequence[Run], task: str, split: str, row: str = "composed") -> TaskScore:
    scores = read_scores(seeds, task, split, row)
    low, high = bootstrap_interval(scores)
    every = [read_metrics(run, task, split, row) for run in seeds]
    metrics = {name: sum(found[name] for found in every) / len(every) for name in every[0]}
    return TaskScore(scores.mean, low, high, scores.by_seed.tolist(), metrics)


def _mean_over_tasks(seeds: Sequence[Run], grid: Grid) -> float:
    return sum(read_scores(seeds, task, "dev").mean for task in grid.tasks) / len(grid.tasks)


def _size(run: Run) -> dict[str, int]:
    checkpoint = read_checkpoint(run.checkpoint)
    sizes = checkpoint.load_clip().sizes
    mapper = checkpoint.build_mapper(sizes)
    return {
        "parameters": sum(parameter.numel() for parameter in mapper.parameters()),
        "forward_flop": counted_forward(mapper, sizes),
    }


def _effort(seeds: Sequence[Run]) -> dict[str, float]:
    efforts = [run.effort() for run in seeds]
    return {name: sum(effort[name] for effort in efforts) / len(efforts) for name in ("seconds", "loss")}
