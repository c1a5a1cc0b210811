"""Compares two rows query by query: difference, 95 % interval and p-value, from the files of `--rankings`.

    python src/eval_retrieval.py --eval-mode cirr --resume A --rankings a.jsonl        (and B to b.jsonl)
    python scripts/compare.py a.jsonl b.jsonl                                      every row that both have
    python scripts/compare.py a.jsonl b.jsonl --rows composed composed --metrics R@1 R@5 --output difference.json
    python scripts/compare.py a.jsonl --rows composed image+text                   two rows of one file

First minus second, in points. A paired t test in which the queries of one reference image count as one; p is adjusted
by Holm for all lines of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from context_i2w.command_line import Options, option, parse
from context_i2w.errors import UserError, exit_on_user_error

if TYPE_CHECKING:
    from context_i2w.evaluation.comparison import Comparison


@dataclass(frozen=True)
class CompareOptions(Options):
    files: tuple[Path, ...] = option(
        (), "one or two files of --rankings", metavar="FILE.jsonl", positional=True, required=True
    )
    rows: tuple[str, ...] = option((), "of the first and of the second file", metavar="ROW", count=2)
    metrics: tuple[str, ...] = option((), "left out: all", metavar="METRIC")
    output: Path | None = option(None, "the same numbers", metavar="FILE.json")

    def __post_init__(self):
        super().__post_init__()
        if len(self.files) > 2 or (len(self.files) == 1 and not self.rows):
            raise UserError("give two files, or one with --rows ROW ROW")


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> list[Comparison]:
    asked = parse(CompareOptions, argv, prog="python scripts/compare.py", description=__doc__)
    from context_i2w.evaluation.comparison import compare_all, comparison_table, read_scores  # imports torch
    from context_i2w.evaluation.report import write_json
    from context_i2w.files import check_writable

    if asked.output:
        check_writable(asked.output, "--output")
    first, second = read_scores(asked.files[0]), read_scores(asked.files[-1])
    rows = [asked.rows] if asked.rows else [(row, row) for row in first if row in second]
    found = compare_all(first, second, rows, asked.metrics or None)
    print(comparison_table(found))
    if asked.output:
        write_json([asdict(line) for line in found], asked.output)
    return found


if __name__ == "__main__":
    main()
