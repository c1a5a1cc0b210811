"""Measures the weights of all methods of a query on one set, draws the curves, chooses, and writes what was chosen.

Toy world, its dev set (never the test set that is reported on):
    python scripts/sweep.py --output sweep
A checkpoint on real data, then its choice applied to another set, which prints where it comes from:
    python scripts/sweep.py --resume CKPT --data-root data --benchmarks cirr --output sweep
    python src/eval_retrieval.py --resume CKPT --eval-mode circo --methods sweep/methods.json

evaluation/sweep.py states the rule and the weights tried.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from context_i2w.benchmarks.options import BENCHMARKS
from context_i2w.command_line import Options, option, parse
from context_i2w.errors import UserError, exit_on_user_error

if TYPE_CHECKING:
    from context_i2w.evaluation.sweep import Scores


@dataclass(frozen=True)
class SweepOptions(Options):
    resume: tuple[str, ...] = option((), "mappers; left out: the shipped toy ones", metavar="CKPT")
    model: str | None = option(None, "CLIP model; left out: the one the checkpoint belongs to", metavar="NAME")
    pretrained: str | None = option(None, "open_clip tag or local file of CLIP's weights", metavar="TAG|FILE")
    data_root: str | None = option(None, "folder of the benchmarks; left out: data, or data/toy/dev", metavar="DIR")
    benchmarks: tuple[str, ...] = option(("imgnet", "coco", "cirr", "fashion"), "which", choices=tuple(BENCHMARKS))
    output: Path = option(None, "methods.json and curves.png", metavar="DIR", required=True)
    device: str | None = option(None, "cpu or cuda; left out: a GPU if there is one")
    batch_size: int = option(64, "images per vision pass", at_least=1)


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse(SweepOptions, argv, prog="python scripts/sweep.py", description=__doc__)
    from context_i2w.checkpoints.find import shipped_checkpoints  # imports torch, which --help does without
    from context_i2w.distributed import device_named
    from context_i2w.evaluation.features import EncodingOptions
    from context_i2w.evaluation.report import versions, write_json
    from context_i2w.evaluation.setup import TOY_ROOT, choose_data_root, load_models
    from context_i2w.evaluation.sweep import choice, measure, measure_all
    from context_i2w.files import check_writable
    from context_i2w.model.clip_weights import TOY_MODEL

    check_writable(asked.output / "methods.json", "--output")
    if "cirr_test" in asked.benchmarks:
        raise UserError("--benchmarks cirr_test: has no answers to choose by; take cirr")
    sources = [Path(source) for source in asked.resume or shipped_checkpoints(published=True)]
    models = load_models(sources, asked.model, asked.pretrained, device_named(asked.device))
    root = TOY_ROOT / "dev" if models.clip.name == TOY_MODEL and not asked.data_root else None
    chosen_root = choose_data_root(asked.data_root, models.clip)  # draws the toy world if it is not there
    root = root or chosen_root
    benchmarks = {task: BENCHMARKS[task].load(root, BENCHMARKS[task].options()) for task in asked.benchmarks}
    scores = measure_all(benchmarks, models.clip, models.mappers, EncodingOptions(asked.batch_size))
    on = {"data_root": str(root), "measures": {task: measure(task) for task in benchmarks}, **models.about}
    found = choice(scores, on) | {"command": shlex.join(["python", *sys.argv]), "versions": versions()}
    write_json(found, asked.output / "methods.json")
    draw(scores, found, asked.output / "curves.png")
    print(table(found))


def table(found: Mapping[str, Any]) -> str:
    """The plain methods and the best of each family."""
    from context_i2w.evaluation.report import markdown_table
    from context_i2w.evaluation.sweep import PLAIN

    measures = found["chosen_on"]["measures"]
    rows = [["method", *(f"{task} {name}" for task, name in measures.items()), "mean"]]
    for method in [*PLAIN, *(family["single"] for family in found["families"].values())]:
        rows.append([method, *(f"{value:.1f}" for value in found["scores"][method].values())])
    best = [["best on", *measures]]
    best += [[family, *choice["by_benchmark"].values()] for family, choice in found["families"].items()]
    return f"{markdown_table(rows)}\n\nbest single method: {found['single']}\n\n{markdown_table(best)}"


def draw(scores: Scores, found: Mapping[str, Any], path: Path) -> None:
    """For each benchmark, each family over its first weight, the others being those of its best single method."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from context_i2w.evaluation.sweep import FAMILIES, measure

    tasks = list(found["chosen_on"]["measures"])
    figure, axes = plt.subplots(1, len(tasks), figsize=(4.2 * len(tasks), 3.6), layout="constrained", squeeze=False)
    for task, plot in zip(tasks, axes[0]):
        for family, methods in FAMILIES.items():
            _, _, *others = found["families"][family]["single"].split(":")
            shown = [method for method in methods if method.split(":")[2:] == others]
            weights = [float(method.split(":")[1]) for method in shown]
            label = ":".join([shown[0].split(":")[0], "w", *others])
            plot.plot(weights, [scores[method][task] for method in shown], marker=".", linewidth=1, label=label)
        for method, style in (("composed", "--"), ("image+text", ":")):
            plot.axhline(scores[method][task], color="#555555", linestyle=style, linewidth=1, label=method)
        plot.set(xlabel="w", title=f"{task} {measure(task)}")
        plot.grid(alpha=0.3)
    axes[0][0].legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
