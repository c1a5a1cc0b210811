"""Commands in processes of their own, and ways that take turns, so that a busy machine disturbs all alike."""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from context_i2w.errors import UserError

T = TypeVar("T")
HERE = Path(__file__).resolve().parents[3]


class Done(NamedTuple):
    seconds: float
    cpu: float
    printed: str


def python(words: Sequence[str], tree: Path = HERE, source: str = "src", told: Mapping[str, str] = os.environ) -> Done:
    """Runs `python WORDS` in a tree, by the package in its source folder, in the environment told.

    Raises UserError with the last line of its errors.
    """
    environment = {**told, "PYTHONPATH": str(tree / source), "TQDM_DISABLE": "1"}
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *words], cwd=tree, env=environment, capture_output=True, text=True)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise UserError(f"{tree}: {' '.join(words)}: {reason}")
    return Done(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout)


def in_turn(ways: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each way gives in each round."""
    found: dict[str, list[T]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
            print(f"{name}: {found[name][-1]}", file=sys.stderr, flush=True)
    return found


def medians(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}
