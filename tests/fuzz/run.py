"""Feeds broken inputs to every entry point and says what came of it.

    python -m tests.fuzz.run --seed 1 --cases 400
    python -m tests.fuzz.run --seed 1 --cases 400 --case 17     # one of them again, with all that it printed
    python -m tests.fuzz.run --options                          # every flag with every value that nobody means
    python -m tests.fuzz.run --options --part 1/2               # half of them, beside another process

Right are exit status 0, and 2 with one line "error: …". Faults are tracebacks, hangs, deaths by a signal, and silent
wrong results. Exit status 1 if there was one.
"""

import argparse
import itertools
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz import forked
from tests.fuzz.cases import GROUPS, Case, World, commands, flags_of, values_of, with_flags


def judged(world: World, case: Case, folder: Path) -> tuple[str | None, forked.End]:
    """What is wrong with how a case ended, if anything."""
    end = forked.run(world.job(case.entry, case.argv), folder, case.limit)
    wrong = None if case.endless and end.status is None else forked.fault(end, case.statuses)
    if not wrong and case.must_fail and end.status == 0:
        wrong = f"accepted: {case.name}"
    if not wrong and (end.status == 0 or case.must_fail):
        found = case.check(end.out)
        wrong = found and f"wrong result: {found}"
    return wrong, end


def drawn(world: World, seed: int, number: int, folder: Path, only: list[str]) -> Case:
    """The case of a seed and number; the same each time."""
    rng = random.Random(f"{seed}-{number}")
    bag = [name for name in only or GROUPS for _ in range(GROUPS[name][1])]
    name = rng.choice(bag)
    case = GROUPS[name][0](world, rng, folder)
    return case._replace(name=f"{name}: {case.name}")


def swept(world: World, folder: Path, share: float, seed: int) -> Iterator[Case]:
    """Every flag of every command with every value; a share of them."""
    rng = random.Random(seed)
    for entry, argv in commands(world, folder):
        for flag in flags_of(entry):
            for value in values_of(flag):
                if rng.random() < share:
                    yield with_flags(entry, argv, [f"{flag}={value}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=400)
    parser.add_argument("--case", type=int, help="this one alone, with all that it printed")
    parser.add_argument("--only", nargs="+", default=[], choices=list(GROUPS))
    parser.add_argument("--options", action="store_true", help="every flag in place of drawn cases")
    parser.add_argument("--seconds", type=float, default=1e9, help="end after so many")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="every N-th case from the I-th on")
    parser.add_argument("--share", type=float, default=1.0, help="of the flags' values that are tried")
    args = parser.parse_args()
    began, kinds, count = time.monotonic(), Counter(), 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
        world, folder = World(Path(root)), Path(root) / "case"
        if args.options:
            cases = (lambda case=case: case for case in swept(world, folder, args.share, args.seed))
        else:
            numbers = range(args.cases) if args.case is None else [args.case]
            cases = (lambda n=n: drawn(world, args.seed, n, folder, args.only) for n in numbers)
        first, parts = map(int, args.part.split("/"))
        for number, make in itertools.islice(enumerate(cases), first - 1, None, parts):
            if time.monotonic() - began > args.seconds:
                break
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            case = make()
            wrong, end = judged(world, case, folder)
            count += 1
            kinds[wrong.split(":")[0] if wrong else "fine" if end.status == 0 else "refused"] += 1
            if wrong:
                print(f"{number}: {case.name!r}: {wrong}", flush=True)
            if args.case is not None:
                print(case.entry, case.argv, end.status, end.out, end.err, sep="\n")
    print(f"{count} cases in {time.monotonic() - began:.0f} s, seed {args.seed}: {dict(kinds)}")
    sys.exit(bool(kinds.keys() - {"fine", "refused"}))


if __name__ == "__main__":
    main()
