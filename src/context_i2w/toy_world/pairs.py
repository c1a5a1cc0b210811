"""Training pairs of the mapper: images, captions and masked captions, in the list format of Conceptual Captions."""

import csv
from pathlib import Path

from context_i2w.toy_world.captions import make_masked_pair
from context_i2w.toy_world.scenes import random_scene, stream_key
from context_i2w.toy_world.sizes import Sizes
from context_i2w.toy_world.writing import Drawing, write_drawings

FOLDER = "cc"
TRAINING_LIST = "Train_GCC-training_output.csv"
VALIDATION_LIST = "Validation_GCC-1.1.0-Validation_output.csv"
COLUMNS = ("filepath", "title", "masked_title")


def write_pairs(root: Path, seed: int, sizes: Sizes, workers: int | None = None) -> None:
    """Writes `cc/` under `root`: both lists, tab-separated with a header, and the images beside them.

    Image paths in the lists are relative to the list's folder.
    """
    folder = root / FOLDER
    _write_list(folder, TRAINING_LIST, "train", sizes.training_pairs, seed, workers)
    _write_list(folder, VALIDATION_LIST, "val", sizes.validation_pairs, seed, workers)


def _write_list(folder: Path, name: str, split: str, count: int, seed: int, workers: int | None) -> None:
    scenes = [random_scene(stream_key(seed, f"pairs/{split}"), number) for number in range(count)]
    files = [f"{split}/{number:06d}.png" for number in range(count)]
    drawings = [Drawing(str(folder / file), scene) for file, scene in zip(files, scenes)]
    write_drawings(drawings, workers, f"pairs, {split}")
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((path, *make_masked_pair(scene)) for path, scene in zip(files, scenes))
