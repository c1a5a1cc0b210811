"""Two rows of result files, query by query (see `scripts/compare.py`)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from context_i2w.errors import UserError
from context_i2w.evaluation.report import markdown_table
from context_i2w.ranking.significance import Difference, Scores, holm, paired_difference

REMEDY = "write it by `python src/eval_retrieval.py … --rankings FILE.jsonl`"


@dataclass(frozen=True)
class Query:
    scores: Mapping[str, float]
    reference: int


# row -> group -> (query's number, its id) -> its scores; groups of a run over all benchmarks bear their names
Rows = Mapping[str, Mapping[str, Mapping[tuple[int, str], Query]]]


@dataclass(frozen=True)
class Comparison:
    """rows: of the first and the second file. means: theirs. p: of all lines, adjusted by Holm."""

    group: str
    rows: tuple[str, str]
    metric: str
    queries: int
    means: tuple[float, float]
    difference: Difference
    adjusted_p: float


def read_scores(path: Path) -> Rows:
    """Raises UserError for a file that is none of ours, or was written without scores."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read ({error})") from None
    rows: dict = {}
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            group = " ".join(entry[key] for key in ("benchmark", "group") if key in entry)
            query = Query(entry["scores"], entry["reference"])
            rows.setdefault(entry["row"], {}).setdefault(group, {})[entry["query"], entry["id"]] = query
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}:{number}: no ranking of a query with its scores; {REMEDY}") from None
    if not rows:
        raise UserError(f"{path}: empty; {REMEDY}")
    return rows


def compare_all(
    first: Rows, second: Rows, pairs: Sequence[tuple[str, str]], metrics: Sequence[str] | None = None
) -> list[Comparison]:
    """Every pair of rows in each of their groups and metrics. Raises UserError for what can't be paired."""
    for rows, names in ((first, [a for a, _ in pairs]), (second, [b for _, b in pairs])):
        if unknown := [name for name in names if name not in rows]:
            raise UserError(f"no row {unknown[0]!r}; rows are {', '.join(rows)}")
    found = []
    for ours, theirs in pairs:
        for group in [name for name in first[ours] if name in second[theirs]]:
            queries = first[ours][group], second[theirs][group]
            measured = next(iter(queries[0].values())).scores
            for metric in [name for name in measured if metrics is None or name in metrics]:
                found.append((group, (ours, theirs), metric, len(queries[0]), *_paired(*queries, metric, group)))
    if not found:
        raise UserError("nothing to compare: no row, group and metric in common")
    adjusted = holm([line[-1].p for line in found])
    return [Comparison(*line, p) for line, p in zip(found, adjusted, strict=True)]


def comparison_table(found: Sequence[Comparison]) -> str:
    head = ["group", "rows", "metric", "first", "second", "difference", "95 % interval", "p", "p adjusted"]
    body = [[
        line.group, " − ".join(dict.fromkeys(line.rows)), line.metric, *(f"{mean:.2f}" for mean in line.means),
        f"{line.difference.mean:+.2f}", f"{line.difference.low:+.2f} to {line.difference.high:+.2f}",
        f"{line.difference.p:.2g}", f"{line.adjusted_p:.2g}",
    ] for line in found]  # fmt: skip
    return markdown_table([head, *body])


def _paired(
    first: Mapping[tuple[int, str], Query], second: Mapping[tuple[int, str], Query], metric: str, group: str
) -> tuple[tuple[float, float], Difference]:
    if first.keys() != second.keys() or any(metric not in query.scores for query in second.values()):
        raise UserError(f"{group}: the files hold other queries or metrics; evaluate the same benchmark and protocol")
    units = np.array([query.reference for query in first.values()])
    weights = np.full(len(units), 1 / len(units))
    ours, theirs = (
        Scores(np.array([[rows[key].scores[metric] for key in first]], dtype=float), weights, units)
        for rows in (first, second)
    )
    try:
        return (ours.mean, theirs.mean), paired_difference(ours, theirs)
    except ValueError as error:
        raise UserError(f"{group}: {error}") from None
