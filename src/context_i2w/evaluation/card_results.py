"""An evaluation's numbers in the form that the hub's model cards have for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from context_i2w.errors import UserError
from context_i2w.evaluation.evaluate import row_name
from context_i2w.evaluation.report import protocol_line
from context_i2w.files import read_json
from context_i2w.model.queries import parse_method

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

REMEDY = "write it with `python src/eval_retrieval.py --output FILE.json`"
_SHAPE = {
    "benchmark": str,
    "protocol": {str: object},
    "results": {str: {str: {str: float}}},
    "methods": {str: str},
    "checkpoints": {str: {"sha256": str}},
}


def read_results(paths: Sequence[Path], checkpoint_hash: str) -> list[EvalResult]:
    """The numbers of a mapper's rows, in percent with two decimals, from files of `--output`, of `all` too.

    checkpoint_hash: SHA-256 of the mapper's file. Raises UserError for a file of another kind or another checkpoint.
    """
    return [result for path in paths for content in _contents(path) for result in _of(content, path, checkpoint_hash)]


def _contents(path: Path) -> list[dict[str, Any]]:
    content = read_json(path, {"benchmarks?": {str: _SHAPE}}, REMEDY)
    return list(content["benchmarks"].values()) if "benchmarks" in content else [read_json(path, _SHAPE, REMEDY)]


def _of(content: dict[str, Any], path: Path, checkpoint_hash: str) -> Iterator[EvalResult]:
    from huggingface_hub import EvalResult

    names = [name for name, about in content["checkpoints"].items() if about["sha256"] == checkpoint_hash]
    if not names:
        raise UserError(f"{path}: evaluates another checkpoint ({', '.join(content['checkpoints'])}); {REMEDY}")
    methods = {row: method for row, method in content["methods"].items() if parse_method(method).uses_mapper}
    for group, rows in content["results"].items():
        for row, method in methods.items():
            if row not in {row_name(method, name) for name in names}:
                continue
            for metric, value in rows.get(row, {}).items():
                yield EvalResult(
                    task_type="composed-image-retrieval",
                    task_name="Zero-shot composed image retrieval",
                    dataset_type=content["benchmark"],
                    dataset_name=content["benchmark"] + ("" if group == "all" else f" {group}"),
                    dataset_config=group,
                    dataset_split=content["protocol"].get("split"),
                    dataset_args={"protocol": protocol_line(content["protocol"])},
                    metric_type=metric,
                    metric_name=f"{metric}, {method}",
                    metric_config=method,
                    metric_value=round(value, 2),
                )
