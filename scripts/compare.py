"""Compares two rows query by query: difference, 95 % interval and p-value, from the files of `--rankings`.

    python src/eval_retrieval.py --eval-mode cirr --resume A --rankings a.jsonl        (and B to b.jsonl)
    python scripts/compare.py a.jsonl b.jsonl                                      every row that both have
    python scripts/compare.py a.jsonl b.jsonl --rows composed composed --metrics R@1 R@5 --output difference.json
    python scripts/compare.py a.jsonl --rows composed image+text                   two rows of one file

First minus second, in points. A paired t test in which the queries of one reference image count as one; p is adjusted
by Holm for all lines of the table.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from context_i2w.errors import UserError, exit_on_user_error
from context_i2w.evaluation.comparison import Comparison, compare_all, comparison_table, read_scores
from context_i2w.evaluation.report import write_json
from context_i2w.files import check_writable


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> list[Comparison]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.jsonl", help="one or two files of --rankings")
    parser.add_argument("--rows", nargs=2, metavar="ROW", help="of the first and of the second file")
    parser.add_argument("--metrics", nargs="+", metavar="METRIC", help="default: all")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="the same numbers")
    args = parser.parse_args(argv)
    if len(args.files) > 2 or (len(args.files) == 1 and not args.rows):
        raise UserError("give two files, or one with --rows ROW ROW")
    if args.output:
        check_writable(args.output, "--output")
    first, second = read_scores(args.files[0]), read_scores(args.files[-1])
    rows = [tuple(args.rows)] if args.rows else [(row, row) for row in first if row in second]
    found = compare_all(first, second, rows, args.metrics)
    print(comparison_table(found))
    if args.output:
        write_json([line.as_json() for line in found], args.output)
    return found


if __name__ == "__main__":
    main()
