"""Makes the COCO composition benchmark from the original download.

    python scripts/prepare_coco.py                         # data/coco, seed 0, the published area filter
    python scripts/prepare_coco.py --area intended         # instances of at least 5 % of the image
    python scripts/prepare_coco.py --coco /disk/coco --seed 1 --overwrite

Reads annotations/instances_val2017.json and val2017/ of the folder, writes coco_eval.csv and
val2017_masked/ into it (5,000 images, a few minutes), and coco_eval.json with the options. Stopped, it
goes on where it was.
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from context_i2w.preparation import coco
from context_i2w.preparation.script import resumable


@resumable
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", type=Path, default=Path("data/coco"), help="COCO's folder (default: data/coco)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (default: 0)")
    parser.add_argument("--area", choices=coco.AREA_FILTERS, default="published", help="which instances qualify")
    parser.add_argument("--overwrite", action="store_true", help="replace a list made otherwise")
    arguments = parser.parse_args()

    options = coco.CocoOptions(seed=arguments.seed, area=arguments.area)
    content = coco.read_annotations(arguments.coco / "annotations" / "instances_val2017.json")
    queries = coco.draw_queries(content, options)
    coco.begin(arguments.coco, content, options, arguments.overwrite)
    written = coco.prepare(arguments.coco, queries, lambda todo: tqdm(todo, unit="image", desc="cut out"))
    print(
        f"{arguments.coco / coco.LIST_NAME}: {len(queries)} queries of {len(content['images'])} images "
        f"(seed {options.seed}, area filter {options.area}); {written} cut-outs written, "
        f"{len(queries) - written} were there"
    )


if __name__ == "__main__":
    main()
