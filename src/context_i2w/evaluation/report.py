"""Results for people and for other tools: the table on the terminal, the JSON, the rankings, submissions."""

import json
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from context_i2w.benchmarks import BENCHMARKS
from context_i2w.evaluation.evaluate import Result
from context_i2w.evaluation.intervals import Intervals, means_over_queries, reference_numbers
from context_i2w.files import atomic_path, write_text
from context_i2w.model.queries import DEFAULTS, RECOMMENDED
from context_i2w.ranking.metrics import mean_over_groups

COLUMNS = 8  # metrics side by side on the terminal
PACKAGES = ("torch", "open_clip_torch", "numpy", "pillow")


def as_json(result: Result, setting: Mapping[str, Any]) -> dict[str, Any]:
    """The contract that other tools read; metrics in percent (ranks as ranks).

    setting: what the run used besides the protocol (checkpoints, clip, device, precision).
    """
    return {
        "benchmark": result.benchmark.name,
        "protocol": dict(result.benchmark.protocol),
        "results": result.metrics,
        "methods": result.methods,
        "recommended": recommended(result),
        **setting,
        "passes": result.passes,
        "cut": result.cut,
        "seconds": round(result.seconds, 2),
        "versions": versions(),
    }


def recommended(result: Result) -> str | list[str] | None:
    """The row of the recommended method; with several mappers a list, None if it was not asked for."""
    rows = [row for row, method in result.methods.items() if DEFAULTS.get(method, method) == RECOMMENDED]
    return rows if len(rows) > 1 else next(iter(rows), None)


def versions() -> dict[str, str]:
    """Versions of what can change a number: decoders, kernels, ours."""
    from context_i2w import __version__

    return {
        "context_i2w": __version__,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in PACKAGES},
    }


def rankings(result: Result) -> Iterable[dict[str, Any]]:
    """One entry per group, row and query: the names of its best gallery images in order, and its part in each metric.

    reference: number of its reference image, which queries of the same image share.
    """
    groups, references = {group.name: group for group in result.benchmark.groups}, reference_numbers(result)
    for (name, row), top in result.tops.items():
        group, numbers = groups[name], references[name].tolist()
        means = means_over_queries(result.metrics[name][row], len(numbers))
        values = {metric: mean.values.tolist() for metric, mean in means.items() if mean.weights is None}
        for query, indices in enumerate(top.tolist()):
            names = [group.gallery_names[index] for index in indices if index >= 0]
            scores = {metric: round(of_queries[query], 6) for metric, of_queries in values.items()}
            entry = {"group": name, "row": row, "query": query, "id": group.query_ids[query], "top": names}
            yield entry | {"reference": numbers[query], "scores": scores}


def write_json(content: Any, path: Path) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_rankings(results: Result | Mapping[str, Result], path: Path) -> None:
    """Of one benchmark, or of several by their names, which every line then bears."""
    if isinstance(results, Result):
        entries = rankings(results)
    else:
        entries = ({"benchmark": name} | entry for name, result in results.items() for entry in rankings(result))
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for entry in entries:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def write_submissions(result: Result, folder: Path) -> list[Path]:
    """`<benchmark>_<row>_<kind>.json` for every row, as the test server takes them; returns the paths."""
    written = []
    for row, files in result.submissions.items():
        for kind, content in files.items():
            name = re.sub(r"[/:* ]", "_", f"{result.benchmark.name}_{row}_{kind}.json")
            write_text(folder / name, json.dumps(content))
            written.append(folder / name)
    return written


def table(result: Result, bounds: Intervals | None = None) -> str:
    """The protocol, every number in percent, with its interval where given, and the ceiling where there is one."""
    lines = [f"{result.benchmark.name}: " + protocol_line(result.benchmark.protocol)]
    ceilings = dict(result.benchmark.protocol.get("ceiling", {}))
    ceilings |= {"mean": mean_over_groups([*ceilings.values()])} if len(ceilings) > 1 else {}
    names = list(dict.fromkeys(name for rows in result.metrics.values() for row in rows.values() for name in row))
    columns = COLUMNS if bounds is None else COLUMNS // 2
    for start in range(0, len(names), columns):
        lines += ["", *_block(result, ceilings, names[start : start + columns], bounds or {})]
    passes = ", ".join(f"{count} {what}" for what, count in result.passes.items())
    cut = f"; {result.cut} texts too long for CLIP lost their end" if result.cut else ""
    lines += ["", f"CLIP passes: {passes}; {result.seconds:.1f} s{cut}"]
    return "\n".join(lines)


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """The protocol in one line, as it stands beside every number."""
    parts = [f"{key} {value}" for key, value in protocol.items() if not isinstance(value, Mapping)]
    return "; ".join(parts)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the first of them the header, as an aligned Markdown table."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _block(
    result: Result, ceilings: Mapping[str, Mapping[str, float]], names: list[str], bounds: Intervals
) -> list[str]:
    """Some of the metrics, one line per group and row."""
    body = [["percent", *names]]
    for group, rows in result.metrics.items():
        shown: dict[str, Mapping[str, float]] = dict(rows)
        if any(name in ceilings.get(group, {}) for name in names):
            shown["(ceiling)"] = ceilings[group]
        label = "" if group == "all" else f"{group} "
        for row, values in shown.items():
            of_row = bounds.get(group, {}).get(row, {})
            body.append([label + row, *(_number(values.get(name), of_row.get(name)) for name in names)])
    left, *widths = (max(map(len, column)) for column in zip(*body))
    return [
        f"{label:<{left}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths))
        for label, *cells in body
    ]


def summary(results: Mapping[str, Result]) -> str:
    """One line for each benchmark: the number that it is best known by, of every row."""
    rows = list(dict.fromkeys(row for result in results.values() for row in next(iter(result.metrics.values()))))
    lines = [["benchmark", "metric", *rows]]
    for mode, result in results.items():
        name, metrics = BENCHMARKS[mode].measure, result.metrics.get("mean", result.metrics.get("all", {}))
        lines.append([mode, name, *(_number(metrics.get(row, {}).get(name)) for row in rows)])
    return markdown_table(lines)


def _number(value: float | None, bounds: tuple[float, float] | None = None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" + ("" if bounds is None else " [{:.2f}, {:.2f}]".format(*bounds))
