"""What waiting threads cost beside other programs: the toy CIRR evaluation while busy processes run on the same cores.

    python scripts/measure/busy.py                                          # beside six busy processes
    python scripts/measure/busy.py --busy 0 --rounds 5                      # on a quiet machine

The ways that torch's threads wait for one another take turns, several rounds: *thread*, one thread, which never
waits; *passive*, as the package sets it; *spin-N*, at most N turns of a loop; *spinning*, GNU OpenMP's own 300,000.
Prints one JSON object: medians of the seconds and of the processor's seconds, and how many times *thread*'s they are.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from benchmarking.commands import in_turn, medians, python
from context_i2w.command_line import Options, option, parse
from context_i2w.errors import exit_on_user_error

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
    busy: int = option(6, "busy processes beside the evaluation", at_least=0, at_most=1024)
    rounds: int = option(3, "times that each way runs", at_least=1)
    ways: tuple[str, ...] = option(("thread", "passive", "spin-1000"), "of waiting, the first of them first",
                                   choices=tuple(WAYS), metavar="WAY", commas=True)  # fmt: skip
    data_root: str | None = option(None, "folder of the toy benchmarks; drawn if left out", metavar="DIR")


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse(BusyOptions, argv, prog="python scripts/measure/busy.py", description=__doc__.splitlines()[0])
    command = ["src/eval_retrieval.py", "--eval-mode", "cirr", "--device", "cpu", "--resume", "toy"]
    command += ["--data-root", os.path.abspath(asked.data_root)] if asked.data_root else []
    ways = {way: partial(run, command, WAYS[way]) for way in asked.ways}
    with busy_processes(asked.busy):
        ways[asked.ways[0]]()  # reads files that the others find read
        report = {way: medians(runs) for way, runs in in_turn(ways, asked.rounds).items()}
    first = report[asked.ways[0]]
    for row in report.values():
        row |= {"times": row["seconds"] / first["seconds"], "cpu_times": row["cpu_seconds"] / first["cpu_seconds"]}
    report = {way: {name: round(value, 3) for name, value in row.items()} for way, row in report.items()}
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


def run(command: Sequence[str], told: Mapping[str, str]) -> dict[str, float]:
    done = python(command, told={name: value for name, value in os.environ.items() if name not in TOLD} | told)
    return {"seconds": done.seconds, "cpu_seconds": done.cpu}


if __name__ == "__main__":
    main()
