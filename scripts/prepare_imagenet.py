"""Makes the domain-conversion benchmark (ImageNet -> ImageNet-R) from the two downloads.

    python scripts/prepare_imagenet.py --imagenet-val /disk/ILSVRC2012/val
    python scripts/prepare_imagenet.py --imagenet-val CLS-LOC/val --val-classes LOC_val_solution.csv
    python scripts/prepare_imagenet.py --imagenet-val val --val-classes bbox/val --imagenet-r in-r --copy

Writes imgnet/real/<wnid>/ (links to the 10,000 query images, or copies), imgnet/imgnet_real_query.txt and
imgnet/imgnet_targets.txt under the data root. Stopped, it goes on where it was.

--val-classes is needed when the validation images lie in one folder: LOC_val_solution.csv, the folder of
validation bounding boxes (XML), a list of 50,000 wnids, or val.txt with LOC_synset_mapping.txt beside it.
"""

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from context_i2w.benchmarks.imagenet_lists import QUERY_LIST, TARGET_LIST
from context_i2w.command_line import Options, option, parse
from context_i2w.errors import UserError
from context_i2w.preparation import imagenet
from context_i2w.preparation.script import resumable


@dataclass(frozen=True)
class ImageNetPreparation(Options):
    imagenet_val: Path = option(None, "ImageNet's validation images", metavar="DIR", required=True)
    val_classes: Path | None = option(None, "their classes, when they are not in class folders", metavar="FILE|DIR")
    imagenet_r: Path | None = option(None, "ImageNet-R; left out: imgnet/imagenet-r of the data root", metavar="DIR")
    data_root: Path = option(Path("data"), "folder of the benchmarks", metavar="DIR")
    copy: bool = option(False, "copy the query images instead of linking them")
    overwrite: bool = option(False, "replace lists that are there")


def place_imagenet_r(root: Path, given: Path | None) -> Path:
    """root/imagenet-r, linked to the given folder if it lies elsewhere."""
    place = root / "imagenet-r"
    if given is not None and not (place.exists() and place.samefile(given)):
        if place.exists():
            raise UserError(f"{place} exists and is not {given}; leave --imagenet-r out or move it away")
        if not given.is_dir():
            raise UserError(f"--imagenet-r {given} is no folder")
        root.mkdir(parents=True, exist_ok=True)
        place.symlink_to(given.resolve())
    return place


@resumable
def main() -> None:
    arguments = parse(ImageNetPreparation, None, prog="python scripts/prepare_imagenet.py", description=__doc__)
    root = arguments.data_root / "imgnet"
    for name in (QUERY_LIST, TARGET_LIST):
        if (root / name).exists() and not arguments.overwrite:
            raise UserError(f"{root / name} exists; it stays unless you add --overwrite")
    targets = imagenet.find_targets(place_imagenet_r(root, arguments.imagenet_r))
    wnids = sorted({target.wnid for target in targets})
    queries = imagenet.find_queries(arguments.imagenet_val, wnids, arguments.val_classes)
    counts = imagenet.prepare(
        root, targets, queries, arguments.copy, lambda items: tqdm(items, unit="image", desc="real")
    )
    for domain, published in imagenet.PUBLISHED_COUNTS.items():
        found = counts.get(domain, 0)
        remark = "as published" if found == published else f"published: {published:,}"
        print(f"{domain:<10} {found:>6,} images ({remark})")
    print(f"{root / QUERY_LIST} and {root / TARGET_LIST} written")


if __name__ == "__main__":
    main()
