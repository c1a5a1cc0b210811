"""What processes that share the images gain: an evaluation like CIRR's, and an index, by one process and by several.

    python scripts/measure/processes.py                                       # ViT-B/32, minutes
    python scripts/measure/processes.py --scale 300 --images 20 --rounds 1    # something small

Every process has one thread. The ways take turns; a way's seconds are those of its slowest process, from the moment
that all have loaded the models to the end of the result. What several processes find is compared to the bit with
what one finds. Prints one JSON object: medians of the seconds, and how many times faster several are.
"""

import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarking.commands import in_turn
from context_i2w.command_line import Options, option, parse
from context_i2w.errors import exit_on_user_error


@dataclass(frozen=True)
class ProcessesOptions(Options):
    processes: int = option(2, "that share the work", at_least=2)
    rounds: int = option(3, "times that each way runs", at_least=1)
    scale: int = option(20, "the evaluation has 1 : SCALE of CIRR's images and queries", at_least=1)
    images: int = option(200, "made-up JPEGs of 500 x 375 pixels in the index", at_least=1)
    model: str = option("ViT-B-32", "open_clip's model, with random weights")


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    description = __doc__.splitlines()[0]
    asked = parse(ProcessesOptions, argv, prog="python scripts/measure/processes.py", description=description)
    from benchmarking.input_ways import make_pairs
    from context_i2w.distributed import launch

    report: dict[str, Any] = {"model": asked.model, "processes": asked.processes, "rounds": asked.rounds}
    with tempfile.TemporaryDirectory(prefix="measure-processes-") as folder:
        make_pairs(Path(folder), asked.images)
        for name, work in (("evaluation", evaluation), ("index", index)):
            ways = {str(count): partial(launch, work, count, asked, folder) for count in (1, asked.processes)}
            runs = in_turn(ways, asked.rounds)
            assert len({digest for run in runs.values() for _, digest in run}) == 1, f"{name}: not equal to the bit"
            medians = {count: statistics.median(took for took, _ in run) for count, run in runs.items()}
            report[name] = {
                "seconds": {count: round(seconds, 2) for count, seconds in medians.items()},
                "times_faster": round(medians["1"] / medians[str(asked.processes)], 3),
            }
    print(json.dumps(report))


def evaluation(asked: ProcessesOptions, folder: str) -> tuple[float, str]:
    """Of one process: seconds, and a digest of what the first one finds."""
    from benchmarking.evaluation import made_up
    from context_i2w.distributed import joined
    from context_i2w.evaluation.evaluate import evaluate
    from context_i2w.evaluation.features import EncodingOptions
    from context_i2w.model.mappers import ContextI2W

    clip = random_clip(asked.model)
    pictures = Path(folder) / "evaluation"
    with joined("cpu") as process:
        mapper = ContextI2W(clip.sizes).eval()
        process.by_first(lambda: pictures.mkdir(exist_ok=True))
        benchmark = made_up("cirr", asked.scale, pictures)
        process.everyone(None)  # has loaded
        started = time.perf_counter()
        result = evaluate(benchmark, clip, {"composed": mapper}, EncodingOptions(16, 0, process=process))
        took = max(process.everyone(time.perf_counter() - started))
    rows = {row: {name: float(value) for name, value in of.items()} for row, of in result.metrics.get("0", {}).items()}
    found = rows, {key: top.tolist() for key, top in result.tops.items()}
    return took, hashlib.sha256(repr(found).encode()).hexdigest()


def index(asked: ProcessesOptions, folder: str) -> tuple[float, str]:
    """Of one process: seconds, and a digest of the index."""
    from context_i2w import Retriever
    from context_i2w.distributed import joined
    from context_i2w.evaluation.features import EncodingOptions

    retriever = Retriever(random_clip(asked.model), None)
    with joined("cpu") as process:
        cache = process.by_first(lambda: tempfile.mkdtemp(dir=folder))
        process.everyone(None)  # has loaded
        started = time.perf_counter()
        made = retriever.index(Path(folder) / "images", cache, EncodingOptions(16, 0, process=process))
        took = max(process.everyone(time.perf_counter() - started))
    return took, hashlib.sha256(repr((made.names, made.features.tobytes())).encode()).hexdigest()


def random_clip(model: str) -> Any:
    import torch

    from context_i2w.model.clip_weights import load_clip

    torch.set_num_threads(1)
    torch.manual_seed(0)
    return load_clip(model, None)


if __name__ == "__main__":
    main()
