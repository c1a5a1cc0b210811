"""ImageNet-R's lists as published: `imgnet/imagenet-r/n04086273/toy_3.jpg 2002`, the label being 1000 x domain + class.

The query photos are in both lists, with the class alone as queries and as domain 6 among the targets. Imports no torch.
"""

from collections.abc import Mapping
from pathlib import Path

from context_i2w.files import is_hidden, write_text

DOMAINS = ("cartoon", "origami", "toy", "sculpture")
REAL = 6  # domain number of the query photos
PER_DOMAIN = 1000
QUERY_LIST, TARGET_LIST = "imgnet_real_query.txt", "imgnet_targets.txt"


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder by name; none where it is not there."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(file for file in found if file.suffix.lower() in (".jpg", ".jpeg", ".png") and not is_hidden(file))


def label_of(domain: str, number: int) -> int:
    """Of the class of that number in one of DOMAINS, or ("real") among the query photos."""
    return PER_DOMAIN * (REAL if domain == "real" else DOMAINS.index(domain)) + number


def write_lists(folder: Path, targets: Mapping[str, tuple[str, int]], queries: Mapping[str, int]) -> None:
    """targets: name -> domain and class; queries: name -> class. Names begin with `imgnet/`."""
    labels = {name: label_of(*target) for name, target in targets.items()}
    labels |= {name: label_of("real", number) for name, number in queries.items()}
    for file, lines in ((TARGET_LIST, labels), (QUERY_LIST, queries)):
        write_text(folder / file, "".join(f"{name} {number}\n" for name, number in lines.items()))
