"""Measures our training step, evaluation, ranking and data loading beside the published way, in one process.

Every way runs in turn, so that a busy machine disturbs all alike; medians are compared (with `--threads 1` of the
thread's own time, for a machine that others use). Before anything is timed the
ways are shown to give the same numbers. CLIP has random weights: speed does not depend on them.

All sections on the CPU (about a quarter of an hour on two cores):
    python scripts/measure/benchmark.py --output benchmark.json
One section, quickly:
    python scripts/measure/benchmark.py --only ranking --gallery 10000
One GPU, ViT-L/14 in bf16, mapper compiled and not:
    python scripts/measure/benchmark.py --device cuda --only step-l14 --batch-size 128 --batch-size 1024 --compile
"""

import context_i2w  # noqa: F401  (first: torch's waiting threads then sleep)

# isort: split
import argparse
import gc
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarking.evaluation import SIZES, measure_evaluation
from benchmarking.loading import measure_loading
from benchmarking.ranking import measure_ranking
from benchmarking.steps import measure_steps
from benchmarking.timing import machine
from context_i2w.errors import exit_on_user_error
from context_i2w.evaluation.setup import choose_device
from context_i2w.model.clip_weights import load_clip, sizes_by_name
from context_i2w.model.flops import tower_shape

STEPS = {"step-b32": ("ViT-B-32", 32), "step-l14": ("ViT-L-14", 16)}  # model, batch on the CPU
EVALUATED = "ViT-B-32"
SCALES = {"cirr": 150, "fashioniq": 120, "imagenet": 1000}


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    arguments = make_parser().parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = choose_device(None, arguments.device)
    report: dict[str, Any] = {"machine": machine(device)}
    for section in arguments.only or SECTIONS:
        report[section] = list(SECTIONS[section](section, arguments, device))
        for row in report[section]:
            show(section, row)
        gc.collect()
        if arguments.output:
            Path(arguments.output).write_text(json.dumps(report, indent=1) + "\n")
    return report


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--only", action="append", choices=list(SECTIONS), help="a section; repeatable (default: all)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=int, help="threads on the CPU (default: torch's)")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds (default: 3)")
    parser.add_argument("--batch-size", type=int, action="append", help="of a training step (default: 32 and 16)")
    parser.add_argument("--compile", action="store_true", help="measure the step with a compiled mapper too")
    parser.add_argument("--gallery", type=int, action="append", help="of a ranking (default: 10k, 100k, 1M)")
    parser.add_argument("--queries", type=int, default=256, help="of a ranking (default: 256)")
    parser.add_argument("--images", type=int, default=512, help="of data loading (default: 512)")
    parser.add_argument("--product", type=int, default=4096, help="size of the matrix product (default: 4096)")
    parser.add_argument("--output", metavar="FILE.json", help="every number")
    return parser


def steps(section: str, arguments: argparse.Namespace, device: torch.device) -> Iterator[dict[str, Any]]:
    model, batch = STEPS[section]
    clip = load_clip(model, None, device)
    precision = "bf16" if device.type == "cuda" else "fp32"
    for size in arguments.batch_size or [batch]:
        for compiled in (False, True)[: 1 + arguments.compile]:
            shape = tower_shape(model)
            yield measure_steps(clip, shape, size, arguments.repeats, arguments.product, precision, compiled)


def evaluations(section: str, arguments: argparse.Namespace, device: torch.device) -> Iterator[dict[str, Any]]:
    clip = load_clip(EVALUATED, None, device)
    for name in SIZES:
        measured = measure_evaluation(clip, name, SCALES[name], 32, arguments.repeats, arguments.product)
        yield {"benchmark": name, "model": EVALUATED} | measured


def rankings(section: str, arguments: argparse.Namespace, device: torch.device) -> Iterator[dict[str, Any]]:
    for gallery in arguments.gallery or [10_000, 100_000, 1_000_000]:
        yield measure_ranking(gallery, arguments.queries, 768, arguments.repeats, device)


def loading(section: str, arguments: argparse.Namespace, device: torch.device) -> Iterator[dict[str, Any]]:
    yield measure_loading(sizes_by_name("ViT-L-14"), arguments.images, 32, 2)


SECTIONS: dict[str, Callable[..., Iterator[dict[str, Any]]]] = {
    **dict.fromkeys(STEPS, steps),
    "evaluation": evaluations,
    "ranking": rankings,
    "loading": loading,
}


def show(section: str, row: dict[str, Any]) -> None:
    """Prints numbers first, then one line for each way or task."""
    plain = {name: value for name, value in row.items() if not isinstance(value, dict)}
    print(f"{section}: {_line(plain)}", flush=True)
    for table in (value for value in row.values() if isinstance(value, dict)):
        for name, values in table.items():
            print(f"  {name:28s} {_line(values) if isinstance(values, dict) else _number(values)}", flush=True)


def _line(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in values.items())


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
