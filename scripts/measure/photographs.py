"""Indexing and showing photographs of 12 megapixels: this tree against an earlier one, and how near the features stay.

The figures of docs/demo.md (200 photographs are made up first; the earlier tree is a git worktree):
    git worktree add /tmp/before daa38b1
    python scripts/measure/photographs.py --before /tmp/before/src --output docs/photographs.json
A quick look, this tree alone:
    python scripts/measure/photographs.py --photographs 20 --repeats 1

Each repeat indexes all photographs by the one tree and then by the other, each in a fresh process with a fresh cache,
so that whatever else the machine does falls on both; seconds of the processor (without reading processes) do not depend
on it. The CLIP is the shipped toy one: reading is what is measured.
"""

import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarking.commands import HERE, in_turn, python
from context_i2w.command_line import Options, option, parse
from context_i2w.errors import exit_on_user_error

SIZE = (4000, 3000)
TOY = HERE / "checkpoints" / "toy" / "context-i2w"
# Run by both trees: indexes, prints seconds, those of the processor, and milliseconds for the pictures of an answer.
INDEXING = """
import json, sys, time
from context_i2w import Retriever
EncodingOptions = sys.modules[Retriever.__module__].EncodingOptions  # wherever the tree keeps it
retriever = Retriever.load(sys.argv[1], device="cpu")
options = EncodingOptions(workers=int(sys.argv[4]))
started, cpu = time.perf_counter(), time.process_time()
index = retriever.index(sys.argv[2], sys.argv[3], options)
indexed, cpu = time.perf_counter() - started, time.process_time() - cpu
try:
    thumbnail = index.thumbnail
except AttributeError:  # the earlier tree
    from context_i2w.demo.gallery import hit_picture
    thumbnail = lambda name: hit_picture(index.path(name))
shown = time.perf_counter()
for name in index.names[:12]:
    thumbnail(name)
shown = 1000 * (time.perf_counter() - shown)
print(json.dumps({"index_s": indexed, "processor_s": cpu, "thumbnails_ms": shown}))
"""


@dataclass(frozen=True)
class PhotographOptions(Options):
    before: Path | None = option(None, "the src folder of an earlier tree", metavar="SRC")
    folder: Path = option(Path(tempfile.gettempdir()) / "photographs", "made there", metavar="DIR")
    photographs: int = option(200, "how many are made", at_least=1)
    repeats: int = option(3, "how often each tree indexes them", at_least=1)
    workers: int = option(0, "processes that read", at_least=0)
    output: Path | None = option(None, "every number", metavar="FILE.json")


def make_photographs(folder: Path, count: int) -> None:
    """Smooth shapes, finer texture and grain, as a camera's JPEG of some 3 MB; each in four mirror images."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    turns = [None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.ROTATE_180]
    for number in range(len(list(folder.glob("*.jpg"))) // 4 * 4, count, 4):
        rng = np.random.default_rng(number)
        layers = [
            Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
            for shape in ((9, 12), (190, 250), (750, 1000))
        ]
        image = Image.blend(Image.blend(layers[0], layers[1], 0.35), layers[2], 0.15)
        for place, turn in enumerate(turns[: count - number]):
            turned = image if turn is None else image.transpose(turn)
            turned.save(folder / f"{number + place:04}.jpg", quality=90)


def index_once(source: Path, folder: Path, workers: int) -> dict[str, float]:
    """Seconds for the index, the process's own of them, milliseconds for 12 thumbnails, by the tree at `source`."""
    with tempfile.TemporaryDirectory() as cache:
        words = ["-c", INDEXING, str(TOY), str(folder.resolve()), cache, str(workers)]
        return json.loads(python(words, source=str(source.resolve())).printed.splitlines()[-1])


def nearness(folder: Path) -> dict[str, float]:
    """Prepared for CLIPs of two sizes, and the toy CLIP's features: large JPEGs at a smaller scale against whole."""
    from context_i2w import Retriever
    from context_i2w.model.images import ImageSource, Preparation
    from context_i2w.search.pictures import PicturePreparation

    clip = Retriever.load(TOY, device="cpu").clip
    paths = sorted(folder.glob("*.jpg"))[:24]
    found: dict[str, float] = {}
    for size in (clip.sizes.image_size, 224):
        made = [Preparation(size, (0, 0, 0), (1, 1, 1))(ImageSource(str(path))) for path in paths]
        ours = [PicturePreparation(size, (0, 0, 0), (1, 1, 1))(path) for path in paths]
        differences = [255 * float((a - b).abs().mean()) for a, b in zip(made, ours)]
        found[f"mean difference of 255 at {size} pixels"] = statistics.mean(differences)
    sides = [Kind(clip.sizes.image_size, clip.image_mean, clip.image_std) for Kind in (Preparation, PicturePreparation)]
    cosines = []
    for path in paths:
        exact, scaled = sides[0](ImageSource(str(path))), sides[1](path)
        one, other = clip.encode_image(exact[None]).embedding[0], clip.encode_image(scaled[None]).embedding[0]
        cosines.append(float(one @ other / one.norm() / other.norm()))
    return {**found, "least cosine of features": min(cosines), "mean cosine of features": statistics.mean(cosines)}


def measure(chosen: PhotographOptions) -> dict[str, Any]:
    trees = {"before": chosen.before, "now": HERE / "src"} if chosen.before else {"now": HERE / "src"}
    ways = {name: partial(index_once, source, chosen.folder, chosen.workers) for name, source in trees.items()}
    runs = in_turn(ways, chosen.repeats)
    result: dict[str, Any] = {"photographs": chosen.photographs, "workers": chosen.workers}
    result |= {name: {key: [run[key] for run in found] for key in found[0]} for name, found in runs.items()}
    for kind in ("index_s", "processor_s") if chosen.before else ():
        ratios = [before[kind] / now[kind] for before, now in zip(runs["before"], runs["now"])]
        result[f"times as fast, {kind}"] = {"each": ratios, "median": statistics.median(ratios)}
    return {**result, **nearness(chosen.folder)}


@exit_on_user_error
def main(argv: list[str] | None = None) -> None:
    chosen = parse(PhotographOptions, argv, prog="python scripts/measure/photographs.py", description=__doc__)
    started = time.perf_counter()
    make_photographs(chosen.folder, chosen.photographs)
    print(f"{chosen.photographs} photographs in {chosen.folder} ({time.perf_counter() - started:.0f} s)", flush=True)
    found = measure(chosen)
    print(json.dumps(found, indent=1))
    if chosen.output:
        from context_i2w.evaluation.report import write_json

        write_json(found, chosen.output)


if __name__ == "__main__":
    main()
