"""Every query's score under every run and method, kept beside the run."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from context_i2w.ablation.runs import Run
from context_i2w.benchmarks import BENCHMARKS
from context_i2w.checkpoints.files import read_checkpoint
from context_i2w.distributed import device_named
from context_i2w.evaluation.evaluate import ONLY, Result, evaluate, rows_of
from context_i2w.evaluation.intervals import reference_numbers
from context_i2w.files import atomic_path
from context_i2w.ranking.metrics import recall_of_each
from context_i2w.ranking.significance import Scores

CUTOFFS = {"cirr": 1, "genecis": 1}  # K of the Recall@K that rows are compared by; 10 elsewhere
AT_ONCE = 16  # mappers that share a pass over a benchmark's images


def measure(task: str) -> str:
    return f"R@{CUTOFFS.get(task, 10)}"


def score_all(
    runs: Iterable[Run], tasks: Sequence[str], split: str, data_root: Path, methods: Sequence[str] = (ONLY,)
) -> None:
    """Evaluates the runs under the methods whose scores of the split are not there; mappers share a CLIP's passes."""
    runs = list(dict.fromkeys(runs))
    missing = {run: [m for m in methods if not score_file(run.folder, split, m).is_file()] for run in runs}
    todo = [run for run in runs if missing[run]]
    device = device_named(None)
    for start in range(0, len(todo), AT_ONCE):
        part = todo[start : start + AT_ONCE]
        checkpoints = [read_checkpoint(run.checkpoint) for run in part]
        clip = checkpoints[0].load_clip(device=device)
        mappers = {str(run.folder): c.build_mapper(clip.sizes).to(device) for run, c in zip(part, checkpoints)}
        asked = list(dict.fromkeys(method for run in part for method in missing[run]))
        places = rows_of(asked, mappers)
        scores: dict[str, dict[str, Any]] = {row: {} for row in places}
        for task in tasks:
            result = evaluate(BENCHMARKS[task].load(data_root), clip, mappers, methods=asked)
            for row in scores:
                scores[row] |= _of_row(result, row, task)
        for run in part:
            for row, (method, mapper) in places.items():
                if method in missing[run] and mapper in (None, str(run.folder)):
                    path = score_file(run.folder, split, method)
                    with atomic_path(path) as temporary, open(temporary, "wb") as file:
                        np.savez_compressed(file, **scores[row])


def score_file(folder: Path, split: str, method: str = ONLY) -> Path:
    return folder / f"scores-{split}-{method.replace(':', '_')}.npz"


def read_scores(runs: Sequence[Run], task: str, split: str, method: str = ONLY) -> Scores:
    """Scores of a row's seeds on one task; a method without a mapper has the same for every seed."""
    files = [np.load(score_file(run.folder, split, method)) for run in runs]
    values = np.stack([file[f"{task}.values"] for file in files])
    return Scores(values, files[0][f"{task}.weights"], files[0][f"{task}.units"])


def read_metrics(run: Run, task: str, split: str, method: str = ONLY) -> dict[str, float]:
    """All metrics of the benchmark, of its mean where it has groups."""
    return json.loads(str(np.load(score_file(run.folder, split, method))[f"{task}.metrics"]))


def _of_row(result: Result, row: str, task: str) -> Mapping[str, Any]:
    groups, cutoff = result.benchmark.groups, CUTOFFS.get(task, 10)
    values = [recall_of_each(result.tops[group.name, row], group.positives, cutoff).numpy() for group in groups]
    return {
        f"{task}.values": np.concatenate(values),
        f"{task}.weights": np.concatenate([np.full(len(found), 1 / (len(groups) * len(found))) for found in values]),
        f"{task}.units": np.concatenate([*reference_numbers(result).values()]),
        f"{task}.metrics": json.dumps(result.metrics["mean" if "mean" in result.metrics else "all"][row]),
    }
