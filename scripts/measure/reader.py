"""What the fast image reader changes, beside the exact one: cosines of CLIP's features, and the toy world's tables.

    python scripts/measure/reader.py                                 # the toy test set, redrawn as JPEGs of 375 pixels
    python scripts/measure/reader.py --images my_photos/ --model ViT-B/32 --openai-pretrained

The toy world's pictures are small PNGs, which both readers read alike: they are enlarged and written as JPEGs first.
Prints one JSON object: the cosines of the two readers' features, picture by picture, and (without --images) each
task's table under both for the recommended query and for `composed`.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from context_i2w.command_line import Options, option, parse
from context_i2w.errors import UserError, exit_on_user_error

if TYPE_CHECKING:
    from context_i2w.evaluation.setup import Models

TASKS = {"imgnet": "R@10", "cirr": "R@1", "fashion": "R@10"}  # COCO's boxes are in pixels of the small pictures
TOY = "checkpoints/toy/context-i2w"


@dataclass(frozen=True)
class ReaderOptions(Options):
    images: Path | None = option(None, "JPEGs of your own; left out: the toy world's", metavar="DIR")
    data_root: str | None = option(None, "a toy test set; left out: data/toy/test, drawn if absent", metavar="DIR")
    side: int = option(375, "pixels of the toy world's pictures as JPEGs", at_least=1)
    model: str | None = option(None, "of CLIP; left out: the toy world's", metavar="NAME")
    pretrained: str | None = option(None, "its weights, as for evaluation", metavar="TAG")
    openai_pretrained: bool = option(False, "OpenAI's weights")


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse(ReaderOptions, argv, prog="python scripts/measure/reader.py", description=__doc__)
    import torch  # --help does without

    from context_i2w.evaluation.setup import choose_data_root, load_models

    with tempfile.TemporaryDirectory() as made:
        weights = "openai" if asked.openai_pretrained else asked.pretrained
        toy = [] if asked.images and (asked.model or weights) else [Path(TOY)]
        models = load_models(toy, asked.model, weights, torch.device("cpu"))
        folder = asked.images
        if not folder:
            folder = as_jpegs(choose_data_root(asked.data_root, models.clip), Path(made) / "test", asked.side)
        endings = (".jpg", ".jpeg") if asked.images else (".png",)
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings)
        if not files:
            raise UserError(f"{folder}: no JPEGs; name a folder of them with --images")
        found: dict[str, object] = {"pictures": len(files), "cosine": cosines(files, models)}
        print(json.dumps(found if asked.images else found | {"tables": tables(folder, models)}))


def as_jpegs(source: Path, folder: Path, side: int) -> Path:
    """The data root again, its pictures enlarged JPEGs under their old names: readers go by content."""
    from PIL import Image
    from tqdm import tqdm

    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.png"))
    for path in tqdm([*source.rglob("*.png")], desc="writing JPEGs", unit="img", dynamic_ncols=True):
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            size = (side, round(side * image.height / image.width))
            image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(target, "JPEG", quality=90)
    return folder


def cosines(files: list[Path], models: Models) -> dict[str, float]:
    import torch
    from torch.nn.functional import cosine_similarity
    from tqdm import tqdm

    from context_i2w.data.reading import batched
    from context_i2w.model.fast_images import PREPARATIONS
    from context_i2w.model.images import ImageSource

    readers = [kind(*models.clip.transform) for kind in PREPARATIONS.values()]
    found: list[float] = []
    for batch in tqdm(batched(files, 64), desc="features", unit="batch", dynamic_ncols=True):
        with torch.inference_mode():
            seen = [torch.stack([reader.pixels(ImageSource(str(file))) for file in batch]) for reader in readers]
            one, other = (models.clip.encode_image(pixels).embedding for pixels in seen)
            found += cosine_similarity(one.double(), other.double()).tolist()
    return {"least": min(found), "median": statistics.median(found), "mean": statistics.mean(found)}


def tables(folder: Path, models: Models) -> dict[str, dict[str, dict[str, float]]]:
    """Task -> row -> reader -> its recall, percent."""
    from context_i2w.benchmarks import find_benchmark
    from context_i2w.evaluation import features
    from context_i2w.evaluation.evaluate import evaluate
    from context_i2w.model.fast_images import PREPARATIONS
    from context_i2w.model.queries import RECOMMENDED

    rows = ("composed", RECOMMENDED)
    recalls: dict[str, dict[str, dict[str, float]]] = {task: {row: {} for row in rows} for task in TASKS}
    for reader, kind in PREPARATIONS.items():
        features.Preparation = kind  # evaluation has no such option: its numbers are the exact reader's
        for task, metric in TASKS.items():
            metrics = evaluate(find_benchmark(task).load(folder, None), models.clip, models.mappers, None, rows).metrics
            whole = metrics["mean"] if "mean" in metrics else next(iter(metrics.values()))
            for row in rows:
                recalls[task][row][reader] = whole[row][metric]
    return recalls


if __name__ == "__main__":
    main()
