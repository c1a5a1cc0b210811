"""The usual commands by this tree and by an earlier one: how soon they start and how long they take.

    git clone . /tmp/before && git -C /tmp/before checkout -q daa38b1
    python scripts/measure/before.py --before /tmp/before --data-root data/toy --rounds 5

The two trees take turns with each command, after a round that is not counted. Prints a line for each command and one
JSON object: medians of the seconds and of the processor's seconds, and the ratio now ÷ before; training's rate is the
median of the `images_per_second` that the runs logged. The world is drawn by `python src/main.py`.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarking.commands import HERE, in_turn, medians, python
from context_i2w.command_line import Options, option, parse
from context_i2w.errors import UserError, exit_on_user_error

MAPPER = "checkpoints/toy/context-i2w"
ROWS = "image,text,image+text,composed"  # that every tree has; earlier ones can't be told and have no others


@dataclass(frozen=True)
class BeforeOptions(Options):
    before: Path = option(None, "an earlier tree", metavar="DIR", required=True)
    data_root: Path = option(Path("data/toy"), "the toy world, as `python src/main.py` draws it", metavar="DIR")
    rounds: int = option(5, "times that each command runs", at_least=1)
    only: tuple[str, ...] = option((), "these commands; left out: all", metavar="NAME", commas=True)


def commands(world: Path, made: Path) -> dict[str, list[str]]:
    """By name; `made` is an empty folder for what they write."""
    photos, pairs = world / "test/cirr/dev", world / "cc/Train_GCC-training_output.csv"
    evaluation = f"--eval-mode cirr --resume {MAPPER} --data-root {world}/test --device cpu"
    toy = f"--train-data {pairs} --model toy --pretrained toy --device cpu --epochs 1 --workers 0 --log-every 4"
    search = f"--resume {MAPPER} --images {photos} --cache {made}/store --device cpu"
    return {
        name: words.split()
        for name, words in {
            "train --help": "src/main.py --help",
            "evaluate --help": "src/eval_retrieval.py --help",
            "search --help": "src/demo.py --help",
            "evaluate": f"src/eval_retrieval.py {evaluation}",
            "search": f"src/demo.py {search} --prompts blue --output {made}/page.html",
            "train": f"src/main.py {toy} --batch-size 256 --logs {made}/logs --name run",
        }.items()
    }


def run(tree: Path, name: str, world: Path) -> dict[str, float]:
    """Seconds of one command in a process of its own, and its images per second if it trains."""
    with tempfile.TemporaryDirectory() as made:
        words = commands(world.resolve(), Path(made))[name]
        words += ["--methods", ROWS] if name == "evaluate" and tree == HERE else []
        done = python(words, tree)
        found = {"seconds": done.seconds, "cpu": done.cpu}
        metrics = Path(made) / "logs/run/metrics.jsonl"
        if metrics.exists():
            steps = [row for row in map(json.loads, metrics.read_text().splitlines()) if "images_per_second" in row]
            found["images_per_second"] = statistics.median(row["images_per_second"] for row in steps)
        return found


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse(BeforeOptions, argv, prog="python scripts/measure/before.py", description=__doc__.splitlines()[0])
    known = tuple(commands(asked.data_root, Path()))
    names = asked.only or known
    if unknown := {*names} - {*known}:
        raise UserError(f"--only {', '.join(unknown)}: the commands are {', '.join(known)}")
    trees = {"before": asked.before.resolve(), "now": HERE}
    report: dict[str, dict[str, dict[str, float]]] = {}
    for name in names:
        ways = {tree: partial(run, folder, name, asked.data_root) for tree, folder in trees.items()}
        found = {tree: medians(runs[1:]) for tree, runs in in_turn(ways, asked.rounds + 1).items()}
        found["now ÷ before"] = {key: found["now"][key] / found["before"][key] for key in found["now"]}
        report[name] = {tree: {key: round(value, 3) for key, value in row.items()} for tree, row in found.items()}
        print(f"{name}: {report[name]}", file=sys.stderr, flush=True)
    print(json.dumps(report, ensure_ascii=False))


if __name__ == "__main__":
    main()
