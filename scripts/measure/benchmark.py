"""Measures training step, evaluation, ranking, data loading and indexing beside the published way or others' programs.

Every way runs in turn, so that a busy machine disturbs all alike; medians are compared (with `--threads 1` of the
thread's own time, for a machine that others use). Before anything is timed the
ways are shown to give the same numbers. CLIP has random weights: speed does not depend on them.

All sections on the CPU (about a quarter of an hour on two cores):
    python scripts/measure/benchmark.py --output benchmark.json
One section, quickly:
    python scripts/measure/benchmark.py --only ranking --gallery 10000
One GPU, ViT-L/14 in bf16, compiled and not:
    python scripts/measure/benchmark.py --device cuda --only step-l14 --batch-size 128 --batch-size 1024 --compile
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarking.options import MeasureOptions
from context_i2w.command_line import option, parse
from context_i2w.errors import exit_on_user_error

STEPS = {"step-b32": ("ViT-B-32", 32), "step-l14": ("ViT-L-14", 16)}  # model, batch on the CPU
SCALES = {"cirr": 150, "fashioniq": 120, "imagenet": 1000}

SECTIONS = (*STEPS, "evaluation", "ranking", "loading", "indexing")


@dataclass(frozen=True)
class BenchmarkOptions(MeasureOptions):
    only: tuple[str, ...] = option((), "these sections; left out: all", choices=SECTIONS)
    repeats: int = option(3, "timed rounds", at_least=1)
    batch_size: tuple[int, ...] = option((), "of a training step; left out: 32 and 16", at_least=1)
    compile: bool = option(False, "measure our steps compiled too")
    gallery: tuple[int, ...] = option((10_000, 100_000, 1_000_000), "of a ranking", at_least=1)
    queries: int = option(256, "of a ranking", at_least=1)
    images: int = option(512, "of data loading and of indexing", at_least=1)
    model: str = option("ViT-B-32", "of evaluation and indexing")
    scale: int | None = option(None, "of a real benchmark's size the evaluation has 1 : SCALE", at_least=1)
    workers: int = option(0, "of evaluation", at_least=0)
    product: int = option(4096, "size of the matrix product", at_least=1)


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse(BenchmarkOptions, argv, prog="python scripts/measure/benchmark.py", description=__doc__)
    from benchmarking.timing import machine, start  # imports torch, as all below does; --help does without
    from context_i2w.evaluation.report import write_json

    device = start(asked)
    report: dict[str, Any] = {"machine": machine(device)}
    for section in asked.only or SECTIONS:
        report[section] = list(WAYS[section](section, asked, device))
        for row in report[section]:
            print(f"{section}: {short(row)}", flush=True)
        if asked.output:
            write_json(report, asked.output)


def steps(section: str, asked: BenchmarkOptions, device: Any) -> Iterator[dict[str, Any]]:
    from benchmarking.steps import measure_steps
    from context_i2w.model.clip_weights import load_clip
    from step_work import tower_shape

    model, batch = STEPS[section]
    clip = load_clip(model, None, device)
    precision = "bf16" if device.type == "cuda" else "fp32"
    for size in asked.batch_size or (batch,):
        for compiled in (False, True)[: 1 + asked.compile]:
            yield measure_steps(clip, tower_shape(model), size, asked.repeats, asked.product, precision, compiled)


def evaluations(section: str, asked: BenchmarkOptions, device: Any) -> Iterator[dict[str, Any]]:
    from benchmarking.evaluation import SIZES, measure_evaluation
    from context_i2w.model.clip_weights import load_clip

    clip = load_clip(asked.model, None, device)
    for name in SIZES:
        scale = asked.scale or SCALES[name]
        measured = measure_evaluation(clip, name, scale, 32, asked.repeats, asked.product, asked.workers)
        yield {"benchmark": name, "model": asked.model} | measured


def rankings(section: str, asked: BenchmarkOptions, device: Any) -> Iterator[dict[str, Any]]:
    from benchmarking.ranking import measure_ranking

    for gallery in asked.gallery:
        yield measure_ranking(gallery, asked.queries, 768, asked.repeats, device)


def loading(section: str, asked: BenchmarkOptions, device: Any) -> Iterator[dict[str, Any]]:
    from benchmarking.loading import measure_loading
    from context_i2w.model.clip_weights import sizes_by_name

    yield measure_loading(sizes_by_name("ViT-L-14"), asked.images, 32, 2)


def indexing(section: str, asked: BenchmarkOptions, device: Any) -> Iterator[dict[str, Any]]:
    from benchmarking.indexing import measure_indexing
    from context_i2w.model.clip_weights import load_clip

    for workers in (0, 2):
        yield measure_indexing(load_clip(asked.model, None, device), asked.images, workers, asked.repeats)


WAYS: dict[str, Callable[..., Iterator[dict[str, Any]]]] = {
    **dict.fromkeys(STEPS, steps),
    "evaluation": evaluations,
    "ranking": rankings,
    "loading": loading,
    "indexing": indexing,
}


def short(row: dict[str, Any]) -> str:
    """As JSON, with numbers of four digits."""
    return json.dumps(json.loads(json.dumps(row), parse_float=lambda number: float(f"{float(number):.4g}")), indent=1)


if __name__ == "__main__":
    main()
