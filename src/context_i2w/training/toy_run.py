"""The default of src/main.py: train on the toy world, evaluate its four tasks, write a report with pictures."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from context_i2w.benchmarks import BENCHMARKS
from context_i2w.checkpoints.find import LAST
from context_i2w.command_line import flat, with_values
from context_i2w.distributed import device_named
from context_i2w.errors import as_typed
from context_i2w.evaluation.evaluate import ONLY, Result, evaluate
from context_i2w.evaluation.pictures import loss_curve, top_results
from context_i2w.evaluation.report import as_json, markdown_table, protocol_line, write_json
from context_i2w.evaluation.setup import TOY_ROOT, load_models
from context_i2w.model.clip_weights import load_clip
from context_i2w.model.extensions import find_class
from context_i2w.model.options import MAPPERS
from context_i2w.model.queries import DEFAULT_METHODS, DEFAULTS, RECOMMENDED
from context_i2w.toy_world import make_toy_world
from context_i2w.toy_world.pairs import FOLDER, TRAINING_LIST, VALIDATION_LIST
from context_i2w.training.options import OBJECTIVES, RunSettings
from context_i2w.training.run import train

CC3M_COMMAND = "python src/main.py --train-data cc/Train_GCC-training_output.csv --model ViT-L/14 --openai-pretrained"
TASKS = {
    "imgnet": ("Domain conversion", "ImageNet-R's format", ("P@1", "R@1", "R@10", "R@50")),
    "coco": ("Object composition", "COCO's format", ("R@1", "R@5", "R@10")),
    "cirr": ("Object manipulation", "CIRR's format", ("R@1", "R@5", "R@10", "R_subset@1")),
    "fashion": ("Attribute manipulation", "FashionIQ's format", ("R@1", "R@10", "R@50")),
}
METHODS = (*DEFAULT_METHODS[:3], DEFAULTS["slerp"], *DEFAULT_METHODS[3:])  # what needs no mapper comes first
QUERIES = (
    "The published query is the composed text alone; the recommended one mixes it with the reference image and the "
    "description, by weights chosen on other queries (docs/evidence.md) and without a further pass through CLIP's "
    "vision tower. The rows above them need no training: where one is above the published query, the mapper alone is "
    "not enough."
)
HONESTY = (
    "The toy world is drawn by a program and its CLIP is tiny. These numbers show that the code works from images on "
    "disk to Recall@K; they say nothing about which method is better on real pictures."
)


def is_on_toy_world(settings: RunSettings, world: Path = TOY_ROOT) -> bool:
    return settings.data.train_data in (None, str(world / FOLDER / TRAINING_LIST))


def train_and_report(settings: RunSettings) -> None:
    """Draws the world if it is not there, trains, evaluates, reports."""
    print(f"toy world: small drawn pictures and a tiny CLIP, to see the code work; for CC3M: {as_typed(CC3M_COMMAND)}")
    world = make_toy_world(TOY_ROOT)
    device = settings.machine.device
    folder = train(with_values(toy_settings(settings, world), processes=settings.machine.processes or 1))
    if folder is None:
        sys.exit(130)
    results = evaluate_tasks(folder, world / "test", device)
    print(write_report(folder, results))
    print(f"report: {folder / 'report.md'}")


def toy_settings(settings: RunSettings, world: Path = TOY_ROOT) -> RunSettings:
    """The settings with the toy world's data and CLIP where they leave them open; features are cached beside it."""
    cache, view = settings.data.cache, settings.data.view
    kind = [load_clip("toy").weights_hash[:8], cache.precision]
    kind += [f"{cache.crops}-crops"] if cache.crops and not view.differs else []
    toy = {
        "train_data": str(world / FOLDER / TRAINING_LIST),
        "val_data": str(world / FOLDER / VALIDATION_LIST),
        "model": "toy",
        "pretrained": "toy",
        "feature_cache": str(world / "-".join(["features", *kind])),
    }
    other_clip = settings.model.clip not in (None, "toy")
    if other_clip or not find_class(settings.model.objective, OBJECTIVES, "objective").reads_images:
        del toy["feature_cache"]
    if other_clip or settings.model.openai_pretrained:
        del toy["pretrained"]
    given = flat(settings)
    return with_values(settings, **{key: value for key, value in toy.items() if given[key] is None})


def evaluate_tasks(folder: Path, data_root: Path, device: str | None = None) -> dict[str, Result]:
    """The four tasks with the run's last checkpoint; each result also goes to the run's folder as JSON."""
    chosen = device_named(device)
    models = load_models([folder / "checkpoints" / LAST], None, None, chosen, trust_code=True)
    results = {}
    for task in TASKS:
        benchmark = BENCHMARKS[task].load(data_root)
        results[task] = evaluate(benchmark, models.clip, models.mappers, methods=METHODS)
        setting = {**models.about, "data_root": str(data_root), "device": str(chosen), "precision": "fp32"}
        write_json(as_json(results[task], setting), folder / f"{task}.json")
    return results


def write_report(folder: Path, results: Mapping[str, Result]) -> str:
    """report.md with tables, loss curve and a picture for each task; returns the tables as text."""
    steps, losses, validation = _logged(folder / "metrics.jsonl")
    loss_curve(steps, losses, validation, folder / "loss.png")
    config = json.loads((folder / "config.json").read_text())
    title = getattr(find_class(config["mapper"], MAPPERS, "mapper"), "title", config["mapper"])
    tables = [_task_table(task, result, title) for task, result in results.items()]
    parts = [
        f"# {folder.name}",
        HONESTY,
        QUERIES,
        f"Trained with `{config['command']}`, {steps[-1]} steps, on {config['about']['text']} text.",
    ]
    parts += ["## Loss", f"![training and validation loss](loss.png)\n\nLast step: {losses[-1]:.4f}."]
    for (task, result), table in zip(results.items(), tables, strict=True):
        top_results(result, "composed", folder / f"{task}.png")
        parts += [table, f"Protocol: {protocol_line(result.benchmark.protocol)}."]
        parts += [f"![queries and their top results, hits framed]({task}.png)"]
    (folder / "report.md").write_text("\n\n".join(parts) + "\n")
    return "\n\n".join([*tables, QUERIES])


def _task_table(task: str, result: Result, mapper: str) -> str:
    title, form, names = TASKS[task]
    group = "mean" if "mean" in result.metrics else "all"
    shown = {ONLY: f"{mapper}, published query", RECOMMENDED: f"{mapper}, recommended query ({RECOMMENDED})"}
    rows = [["row", *names]]
    rows += [
        [shown.get(row, row), *(f"{values[name]:.1f}" for name in names)]
        for row, values in result.metrics[group].items()
    ]
    queries = sum(len(group.references) for group in result.benchmark.groups)
    return f"## {title} ({form}, {queries:,} queries)\n\n" + markdown_table(rows)


def _logged(path: Path) -> tuple[list[int], list[float], list[tuple[int, float]]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    train = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    validation = [(line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line]
    return [step for step, _ in train], [loss for _, loss in train], validation
