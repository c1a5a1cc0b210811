"""Makes the COCO composition benchmark from the original download.

    python scripts/prepare_coco.py                         # data/coco, seed 0, the published area filter
    python scripts/prepare_coco.py --area intended         # instances of at least 5 % of the image
    python scripts/prepare_coco.py --coco /disk/coco --seed 1 --overwrite

Reads annotations/instances_val2017.json and val2017/ of the folder, writes coco_eval.csv and
val2017_masked/ into it (5,000 images, a few minutes), and coco_eval.json with the options. Stopped, it
goes on where it was.
"""

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from context_i2w.command_line import Options, nested, option, parse
from context_i2w.preparation import coco
from context_i2w.preparation.script import resumable


@dataclass(frozen=True)
class CocoPreparation(Options):
    folder: Path = option(Path("data/coco"), "COCO's folder", flag="coco", metavar="DIR")
    drawing: coco.CocoOptions = nested(coco.CocoOptions)
    overwrite: bool = option(False, "replace a list made otherwise")


@resumable
def main() -> None:
    asked = parse(CocoPreparation, None, prog="python scripts/prepare_coco.py", description=__doc__)
    options = asked.drawing
    content = coco.read_annotations(asked.folder / "annotations" / "instances_val2017.json")
    queries = coco.draw_queries(content, options)
    coco.begin(asked.folder, content, options, asked.overwrite)
    written = coco.prepare(asked.folder, queries, lambda todo: tqdm(todo, unit="image", desc="cut out"))
    print(
        f"{asked.folder / coco.LIST_NAME}: {len(queries)} queries of {len(content['images'])} images "
        f"(seed {options.seed}, area filter {options.area}); {written} cut-outs written, "
        f"{len(queries) - written} were there"
    )


if __name__ == "__main__":
    main()
