"""Trains a grid of variants with several seeds and compares them, query by query, with the full model.

The paper's grid on the toy world (71 minutes on two cores), and its report:
    python scripts/ablate.py scripts/grids/paper.toml --output docs/evidence/paper
A row or two, quickly:
    python scripts/ablate.py scripts/grids/paper.toml --rows "no condition" --seeds 2 --output /tmp/try
Your own data: give `options = "--train-data …"` and `data = {test = "data"}` in the grid's file.

Runs are kept under --logs by their settings and shared between grids; features are cached once for all. Stopped, the
same command goes on where it was. context_i2w/ablation/grid.py explains the file.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from context_i2w.command_line import Options, option, parse
from context_i2w.errors import UserError, exit_on_user_error

if TYPE_CHECKING:
    from context_i2w.ablation.grid import Grid


@dataclass(frozen=True)
class AblationOptions(Options):
    grid: Path = option(None, "a grid's file, as those in scripts/grids/", positional=True, required=True)
    output: Path = option(None, "report.md, results.json, plots", metavar="DIR", required=True)
    rows: tuple[str, ...] = option((), "only these, beside the full model", metavar="ROW")
    seeds: int | None = option(None, "in place of the grid's", at_least=1)
    jobs: int | None = option(None, "runs at a time; left out: one for each GPU or core", at_least=1)
    logs: Path = option(Path("logs/ablation"), "where runs are kept", metavar="DIR")


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse(AblationOptions, argv, prog="python scripts/ablate.py", description=__doc__.split("\n")[0])
    from context_i2w.ablation.grid import read_grid  # imports torch, which --help does without
    from context_i2w.ablation.runs import default_jobs
    from context_i2w.files import check_writable

    grid = narrowed(read_grid(asked.grid), asked.rows or None, asked.seeds)
    check_writable(asked.output / "report.md", "--output")
    report(grid, asked.logs, asked.jobs or default_jobs(), asked.output)


def narrowed(grid: Grid, rows: Sequence[str] | None, seeds: int | None) -> Grid:
    """The grid with a part of its rows, or other seeds."""
    if rows is not None:
        if unknown := [row for row in rows if row not in grid.rows]:
            raise UserError(f"--rows {', '.join(unknown)}: the grid's rows are {', '.join(grid.rows)}")
        kept = {name: row for name, row in grid.rows.items() if name in {grid.lines()[grid.full][0], *rows}}
        grid = replace(grid, rows=kept)
        lines = grid.lines().keys()
        grid = replace(grid, compare=tuple(c for c in grid.compare if {c.row, *c.against} <= lines))
    return replace(grid, seeds=seeds or grid.seeds)


def report(grid: Grid, logs: Path, jobs: int, output: Path) -> None:
    """Trains, chooses, scores, compares, writes."""
    from context_i2w.ablation.report import markdown, plot
    from context_i2w.ablation.results import all_runs, as_json, choose_on_dev, comparisons, results_of
    from context_i2w.ablation.runs import train_all
    from context_i2w.ablation.scores import score_all
    from context_i2w.evaluation.report import write_json
    from context_i2w.files import write_text

    candidates = all_runs(grid, logs)
    train_all([run for row in candidates.values() for seeds in row for run in seeds], jobs)
    open_choices = [run for row in candidates.values() if len(row) > 1 for seeds in row for run in seeds]
    score_all(open_choices, grid.tasks, "dev", Path(grid.data.get("dev", "")))
    chosen = choose_on_dev(candidates, grid)
    runs = {name: row[chosen[name][0] if name in chosen else 0] for name, row in candidates.items()}
    chosen_runs = [run for seeds in runs.values() for run in seeds]
    score_all(chosen_runs, grid.tasks, grid.split, Path(grid.data[grid.split]), grid.methods)
    rows = results_of(grid, runs)
    for name, (_, means) in chosen.items():
        rows[next(line for line, (row, _) in grid.lines().items() if row == name)].chosen_from = means
    compared = comparisons(grid, rows, runs)
    command = shlex.join(["python", *sys.argv])
    text = markdown(grid, rows, compared, command)
    for task in grid.tasks:
        plot(grid, rows, task, output / f"{task}.png")
    write_json(as_json(grid, rows, compared, command), output / "results.json")
    write_text(output / "report.md", text)
    print(text)


if __name__ == "__main__":
    main()
