"""What waiting threads cost beside other programs: the toy CIRR evaluation while busy processes run on the same cores.

    python scripts/measure/busy.py                                          # beside six busy processes
    python scripts/measure/busy.py --busy 0 --rounds 5                      # on a quiet machine

The ways that torch's threads wait for one another take turns, several rounds: *thread*, one thread, which never
waits; *passive*, as the package sets it; *spin-N*, at most N turns of a loop; *spinning*, GNU OpenMP's own 300,000.
Prints one JSON object: medians of the seconds and of the processor's seconds, and how many times *thread*'s they are.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from context_i2w.command_line import Options, option, parse
from context_i2w.errors import UserError, exit_on_user_error

ROOT = Path(__file__).parents[2]
WAYS = {
    "thread": {"OMP_NUM_THREADS": "1"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "spin-1000": {"GOMP_SPINCOUNT": "1000"},
    "spin-10000": {"GOMP_SPINCOUNT": "10000"},
    "spinning": {"GOMP_SPINCOUNT": "300000"},
}
TOLD = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@dataclass(frozen=True)
class BusyOptions(Options):
    """What is measured."""

    busy: int = option(6, "busy processes beside the evaluation", at_least=0, at_most=1024)
    rounds: int = option(3, "times that each way runs", at_least=1)
    ways: tuple[str, ...] = option(("thread", "passive", "spin-1000"), "of waiting, the first of them first",
                                   choices=tuple(WAYS), metavar="WAY", commas=True)  # fmt: skip
    data_root: str | None = option(None, "folder of the toy benchmarks; drawn if left out", metavar="DIR")


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse(BusyOptions, argv, prog="python scripts/measure/busy.py", description=__doc__.splitlines()[0])
    command = [sys.executable, "src/eval_retrieval.py", "--eval-mode", "cirr", "--device", "cpu"]
    command += ["--resume", "toy"]
    command += ["--data-root", asked.data_root] if asked.data_root else []
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in asked.ways}
    with busy_processes(asked.busy):
        for number in range(asked.rounds + 1):
            for way in asked.ways if number else asked.ways[:1]:  # the first run reads files that the others find read
                found = run(command, WAYS[way])
                print(f"round {number}, {way}: {found[0]:.2f} s, {found[1]:.2f} s of CPU", file=sys.stderr, flush=True)
                seconds[way] += [found] * bool(number)
    medians = {way: [statistics.median(column) for column in zip(*runs)] for way, runs in seconds.items()}
    first = medians[asked.ways[0]]
    report = {
        way: {"seconds": round(wall, 2), "cpu_seconds": round(cpu, 2), "times": round(wall / first[0], 3),
              "cpu_times": round(cpu / first[1], 3)}
        for way, (wall, cpu) in medians.items()
    }  # fmt: skip
    print(json.dumps({"busy": asked.busy, "cores": os.cpu_count(), "rounds": asked.rounds, "ways": report}))


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many processes that compute without a pause."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def run(command: Sequence[str], told: dict[str, str]) -> tuple[float, float]:
    """Seconds and the processor's seconds of a command. Raises UserError if it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in TOLD} | told
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise UserError(f"`{' '.join(command)}` ended with status {process.returncode}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
