"""A grid's results for people: Markdown tables and a plot for each task."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from context_i2w.ablation.grid import Comparison, Grid
from context_i2w.ablation.results import LEVEL, RowResult, TaskScore, Tested
from context_i2w.ablation.scores import measure
from context_i2w.evaluation.report import markdown_table
from context_i2w.training.toy_run import TASKS as TITLES

MARKS = {"+": "▲", "-": "▼", "": ""}
COLOURS = {"+": "#1f9d3a", "-": "#c03030", "": "#555555"}
FULL, BASELINE = "#2266aa", "#aaaaaa"


def title(task: str) -> str:
    return f"{TITLES[task][0].lower() if task in TITLES else task} {measure(task)}"


def markdown(grid: Grid, rows: Mapping[str, RowResult], compared: Sequence, command: str) -> str:
    """The whole report."""
    parts = [f"# {grid.question}", f"`{command}`", _how(grid)]
    parts += ["## Scores", score_table(grid, rows), _legend(grid)]
    parts += [f"![{title(task)}]({task}.png)" for task in grid.tasks]
    parts += [f"## Differences to {grid.full}", difference_table(grid, rows)]
    if compared:
        parts += ["## Between rows", comparison_table(grid, rows, compared)]
        parts.append("Tested in the same way, adjusted over this table.")
    parts += ["## Effort and options", effort_table(grid, rows), "## More metrics", metric_table(grid, rows)]
    chosen = {name: row.chosen_from for name, row in rows.items() if row.chosen_from}
    if chosen:
        parts += ["## Chosen on dev", *itertools.starmap(_choice, chosen.items())]
    return "\n\n".join([*parts, grid.note] if grid.note else parts) + "\n"


def score_table(grid: Grid, rows: Mapping[str, RowResult]) -> str:
    """mean ± standard deviation over seeds [interval], marked where it differs from the full model."""
    table = [["row", *map(title, grid.tasks)]]
    table += [[name, *(_cell(row.tasks[task]) for task in grid.tasks)] for name, row in rows.items()]
    return markdown_table(table)


def difference_table(grid: Grid, rows: Mapping[str, RowResult]) -> str:
    table = [["row", *map(title, grid.tasks)]]
    for name, row in rows.items():
        if row.parameters is not None and name != grid.full:
            table.append([name, *(_tested(row.tasks[task].difference) for task in grid.tasks)])
    return markdown_table(table)


def effort_table(grid: Grid, rows: Mapping[str, RowResult]) -> str:
    table = [["row", "parameters", "MFLOP", "training loss", "seconds", "options of src/main.py"]]
    lines = grid.lines()
    trained = {run: row for name, row in rows.items() if (run := lines[name][0])}
    for name, row in trained.items():
        assert row.parameters is not None  # it was trained
        assert row.forward_flop is not None
        count, work = f"{row.parameters / 1e6:.2f} M", f"{row.forward_flop / 1e6:.1f}"
        options = f"`{row.options}`" if row.options else ""
        table.append([name, count, work, f"{row.loss:.4f}", f"{row.seconds:.0f}", options])
    return markdown_table(table)


def comparison_table(
    grid: Grid, rows: Mapping[str, RowResult], compared: Sequence[tuple[Comparison, str, Mapping[str, Tested]]]
) -> str:
    table = [["row", "minus", *map(title, grid.tasks)]]
    for entry, other, tested in compared:
        note = ""
        if entry.nearest:
            ours, theirs = (getattr(rows[name], entry.nearest) for name in (entry.row, other))
            note = f" (nearest in {entry.nearest}: {ours:.3g}, {theirs:.3g})"
        table.append([entry.row, other + note, *(_tested(tested[task]) for task in grid.tasks)])
    return markdown_table(table)


def metric_table(grid: Grid, rows: Mapping[str, RowResult]) -> str:
    """The tasks' usual metrics, mean ± standard deviation over seeds."""
    names = {task: TITLES[task][2] if task in TITLES else (measure(task),) for task in grid.tasks}
    table = [["row", *(f"{task} {name}" for task in grid.tasks for name in names[task])]]
    for row, found in rows.items():
        values = [found.tasks[task].metrics[name] for task in grid.tasks for name in names[task]]
        table.append([row, *map(_spread, values)])
    return markdown_table(table)


def plot(grid: Grid, rows: Mapping[str, RowResult], task: str, path: Path) -> None:
    """Each row's mean, interval and seeds on one task, as a PNG; the full model's mean as a line."""
    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.26 * len(rows)), layout="constrained")
    for place, (name, row) in enumerate(reversed([*rows.items()])):
        cell = row.tasks[task]
        colour = BASELINE if row.parameters is None else FULL if name == grid.full else COLOURS[_mark(cell)]
        axes.plot([cell.low, cell.high], [place, place], color=colour, linewidth=2, alpha=0.5)
        axes.plot(cell.seeds, [place] * len(cell.seeds), ".", color=colour, markersize=3, alpha=0.6)
        axes.plot(cell.mean, place, "o", color=colour, markersize=5)
    axes.axvline(rows[grid.full].tasks[task].mean, color=FULL, linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(rows)), reversed(list(rows)), fontsize=8)
    axes.set_xlabel(f"{title(task)}, percent", fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _how(grid: Grid) -> str:
    return (
        f"Scores on {grid.split}, percent: mean ± standard deviation over {grid.seeds} seeds, and in brackets the 95 % "
        "bootstrap interval of the mean when reference images are drawn again. A seed sets weights, order and dropout."
    )


def _legend(grid: Grid) -> str:
    return (
        f"▲ ▼: better or worse than {grid.full} beyond chance, over seeds alone (t test) and over seeds and queries "
        f"together (min F′), p < {LEVEL:g} after Holm's adjustment over all rows and tasks of the grid. No mark is no "
        "proof of equality: the intervals of the differences say what can be excluded."
    )


def _choice(name: str, candidates: Mapping[str, float]) -> str:
    found = ", ".join(f"`{options}` {mean:.2f}" for options, mean in candidates.items())
    best = max(candidates, key=candidates.__getitem__)
    return f"{name}: `{best}`, by the mean over the tasks on dev ({found})."


def _mark(cell: TaskScore) -> str:
    return cell.difference.mark if cell.difference else ""


def _cell(cell: TaskScore) -> str:
    return f"{_spread(cell.seeds)} [{cell.low:.1f}, {cell.high:.1f}] {MARKS[_mark(cell)]}".strip()


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def _tested(tested: Tested | None) -> str:
    if tested is None:
        return ""
    found, p = tested.difference, tested.adjusted_p
    shown = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"{found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}] {shown} {MARKS[tested.mark]}".strip()
