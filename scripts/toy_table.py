"""Trains mappers on the toy world with several seeds and prints the four tasks' table, mean and spread over seeds.

The table of the README (test set), about 15 minutes on two cores:
    python scripts/toy_table.py --output docs/toy_table.json
Every training text, for comparison:
    python scripts/toy_table.py --training-text published caption mixed --output docs/toy_training_texts.json
Choosing a recipe (dev set only; options of src/main.py after `--`):
    python scripts/toy_table.py --split dev --seeds 1 -- --lr 3e-4 --epochs 12

Runs already trained under --logs with the same options are taken as they are, so an interrupted command goes on.
"""

import hashlib
import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path

from context_i2w.benchmarks import BENCHMARKS
from context_i2w.checkpoints import read_checkpoint
from context_i2w.command_line import Parser
from context_i2w.errors import UserError, exit_on_user_error
from context_i2w.evaluation import evaluate
from context_i2w.report import markdown_table, versions, write_json
from context_i2w.run_folder import LAST
from context_i2w.settings import parse
from context_i2w.toy_run import TASKS, TOY_ROOT, toy_settings
from context_i2w.toy_world import make_toy_world
from context_i2w.train_run import train
from context_i2w.training import TRAINING_TEXTS
from context_i2w.weights import load_clip

MAPPER_ARGUMENTS = {
    "Context-I2W": ["--mapper", "context-i2w"],
    "Context-I2W, no context": ["--mapper", "context-i2w", "--mapper-option", "condition=False"],
    "Pic2Word": ["--mapper", "pic2word"],
}


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python scripts/toy_table.py", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="runs of each mapper")
    parser.add_argument("--mappers", nargs="+", default=list(MAPPER_ARGUMENTS), choices=MAPPER_ARGUMENTS, help="rows")
    parser.add_argument("--training-text", nargs="+", default=["published"], choices=TRAINING_TEXTS)
    parser.add_argument("--split", choices=("dev", "test"), default="test", help="choose recipes on dev only")
    parser.add_argument("--logs", default="logs/toy_table", metavar="DIR", help="where the runs are kept")
    parser.add_argument("--output", metavar="FILE.json", help="every number")
    parser.add_argument("main", nargs="*", metavar="-- OPTION", help="options of src/main.py")
    args = parser.parse_args(argv)
    world = make_toy_world(TOY_ROOT)
    runs = {}
    for name, text, seed in itertools.product(args.mappers, args.training_text, range(args.seeds)):
        row = name if args.training_text == ["published"] else f"{name}, {text}"
        options = [*MAPPER_ARGUMENTS[name], "--training-text", text, "--seed", str(seed), *args.main]
        runs[f"{row} #{seed}"] = trained(options, Path(args.logs), world)
    table = task_table(runs, world / args.split)
    print(as_markdown(table))
    if args.output:
        content = {
            "split": args.split,
            "seeds": args.seeds,
            "options": args.main,
            "versions": versions(),
            "results": table,
        }
        write_json(content, Path(args.output))


def trained(options: Sequence[str], logs: Path, world: Path) -> Path:
    """The last checkpoint of the run with these options, trained if it is not there."""
    name = hashlib.sha256(" ".join(options).encode()).hexdigest()[:12]
    path = logs / name / "checkpoints" / LAST
    arguments = [*options, "--logs", str(logs), "--name", name, "--save-frequency", "1000"]
    done = path.is_file() and "training" in (content := read_checkpoint(path).content)
    if not done or content["training"]["step"] < content["training"]["total_steps"]:
        if path.is_file():
            arguments += ["--resume", str(path)]
        print(f"training {' '.join(options)}")
        if train(toy_settings(parse(arguments), world)) is None:
            raise UserError("stopped; the same command goes on from here")
    return path


def task_table(runs: dict[str, Path], data_root: Path) -> dict[str, dict[str, dict[str, list[float]]]]:
    """task -> row -> metric -> the values of the row's seeds; each image is encoded once for all runs."""
    clip = load_clip("toy")
    mappers = {name: read_checkpoint(path).build_mapper(clip.sizes) for name, path in runs.items()}
    table = {}
    for task, (_, _, names) in TASKS.items():
        result = evaluate(BENCHMARKS[task].load(data_root, BENCHMARKS[task].options()), clip, mappers)
        metrics = result.metrics["mean" if "mean" in result.metrics else "all"]
        rows = table.setdefault(task, {})
        for row, values in metrics.items():
            for name in names:
                rows.setdefault(row.split(" #")[0], {}).setdefault(name, []).append(values[name])
    return table


def as_markdown(table: dict[str, dict[str, dict[str, list[float]]]]) -> str:
    """One table, a column for each task and metric: mean ± standard deviation over seeds."""
    header = ["row", *(f"{task} {name}" for task in table for name in TASKS[task][2])]
    rows = [header]
    for row in next(iter(table.values())):
        rows.append([row, *(_cell(table[task][row][name]) for task in table for name in TASKS[task][2])])
    return markdown_table(rows)


def _cell(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


if __name__ == "__main__":
    main()
