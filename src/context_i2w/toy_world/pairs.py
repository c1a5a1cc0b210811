"""Training pairs of the mapper: images, captions and masked captions, in the list format of Conceptual Captions.

Beside the masked caption that training reads by default there are columns for ablations (`--masked-column`): the same
caption masked by each policy, and a masked caption that names one thing only.
"""

from pathlib import Path

from context_i2w.data.tables import Table, write_table
from context_i2w.preparation.cc3m import LIST_FILES
from context_i2w.preparation.masking.rule_parser import RuleParser
from context_i2w.preparation.masking.rules import POLICIES, mask_captions
from context_i2w.toy_world.captions import make_masked_pair
from context_i2w.toy_world.scenes import random_scene, stream_key
from context_i2w.toy_world.sizes import Sizes
from context_i2w.toy_world.writing import Drawing, write_drawings

FOLDER = "cc"
TRAINING_LIST, VALIDATION_LIST = LIST_FILES.values()
BY_POLICY = {f"masked_{policy.replace('-', '_')}": policy for policy in POLICIES}


def write_pairs(root: Path, seed: int, sizes: Sizes, workers: int | None = None) -> None:
    """Writes `cc/` under `root`: both lists, tab-separated with a header, and the images beside them.

    Image paths in the lists are relative to the list's folder.
    """
    for split, count in (("train", sizes.training_pairs), ("val", sizes.validation_pairs)):
        _write_list(root / FOLDER, split, count, seed, workers)


def _write_list(folder: Path, split: str, count: int, seed: int, workers: int | None) -> None:
    scenes = [random_scene(stream_key(seed, f"pairs/{split}"), number) for number in range(count)]
    files = [f"{split}/{number:06d}.png" for number in range(count)]
    drawings = [Drawing(str(folder / file), scene) for file, scene in zip(files, scenes)]
    write_drawings(drawings, workers, f"pairs, {split}")
    titles, masked = map(list, zip(*map(make_masked_pair, scenes)))
    columns = {"filepath": files, "title": titles, "masked_title": masked}
    for column, policy in BY_POLICY.items():
        columns[column] = [found.caption for found in mask_captions(titles, RuleParser(), policy)]
    columns["masked_one"] = [make_masked_pair(scene, alone=True)[1] for scene in scenes]
    path = folder / LIST_FILES[split]
    write_table(Table(path, columns, "\t"), path)
