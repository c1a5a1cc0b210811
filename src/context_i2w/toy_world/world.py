"""Makes the toy world: under the root `cc/` with the training pairs, and `test/` and `dev/`, copies of the benchmarks.

Each copy is a data root of its own. Recipes are chosen on dev; the figures that are reported come from test.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from context_i2w.errors import UserError
from context_i2w.files import atomic_folder, note
from context_i2w.toy_world.pairs import write_pairs
from context_i2w.toy_world.sizes import Sizes
from context_i2w.toy_world.tasks.cirr import write_cirr
from context_i2w.toy_world.tasks.coco import write_coco
from context_i2w.toy_world.tasks.fashioniq import write_fashioniq
from context_i2w.toy_world.tasks.imagenet import write_imagenet

VERSION = 4  # raise it with every change of what is drawn or written
STAMP = "toy_world.json"
COPIES = ("test", "dev")


def make_toy_world(
    root: str | Path = "data/toy", seed: int = 0, sizes: Sizes | None = None, workers: int | None = None
) -> Path:
    """The folder of the toy world, drawn first if it is not there yet; the same seed gives the same bytes.

    workers: processes, all cores by default. An interrupted call leaves nothing behind under `root`. A world of
    another version, seed or size is replaced. Raises UserError if `root` holds something else.
    """
    root, sizes = Path(root), sizes or Sizes()
    stamp = {"version": VERSION, "seed": seed, **asdict(sizes)}
    if _stamp_of(root) == stamp:
        return root
    if root.exists() and any(root.iterdir()) and not (root / STAMP).is_file():
        raise UserError(f"{root}: not empty and no toy world; move it away or choose another folder")
    note(f"drawing the toy world in {root}, once")
    with atomic_folder(root) as drawn:
        write_pairs(drawn, seed, sizes, workers)
        for copy in COPIES:
            for write in (write_cirr, write_fashioniq, write_imagenet, write_coco):
                write(drawn / copy, copy, seed, sizes, workers)
        (drawn / STAMP).write_text(json.dumps(stamp, indent=1) + "\n")
        if _stamp_of(root) == stamp:
            shutil.rmtree(drawn)  # another process was faster; its world is the same
    return root


def is_toy_world(folder: Path) -> bool:
    """Whether a folder is in a toy world, or the root of one."""
    folder = folder.resolve()
    return any((parent / STAMP).is_file() for parent in (folder, *folder.parents))


def _stamp_of(root: Path) -> dict | None:
    try:
        return json.loads((root / STAMP).read_text())
    except (OSError, ValueError):
        return None
