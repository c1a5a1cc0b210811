"""Pairs per second of whole training steps, optimiser included, from what they are read from.

    python scripts/measure/throughput.py --device cuda --workers 14 --batch-size 128 --output throughput.json
    python scripts/measure/throughput.py --model ViT-B-32 --images 64 --batch-size 16 --workers 2

*memory* trains on one batch over and over, which costs no reading: what the device can do. *list* and *shards* read
made-up JPEGs of 500 x 375 pixels, *cache* features on disk. A way's first pass is not counted. CLIP has random weights:
speed does not depend on them.
"""

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarking.options import MeasureOptions
from context_i2w.command_line import option, parse
from context_i2w.errors import exit_on_user_error


@dataclass(frozen=True)
class ThroughputOptions(MeasureOptions):
    model: str = option("ViT-L-14", "open_clip's model, with random weights")
    images: int = option(2048, "made-up pairs", at_least=1)
    batch_size: int = option(128, "pairs of a step", at_least=1)
    workers: int = option(2, "reading processes, or threads where features are cached", at_least=0)
    precision: str | None = option(None, "amp on a GPU, fp32 on the CPU if left out", choices=("fp32", "amp", "bf16"))
    passes: int = option(2, "timed passes over the pairs", at_least=1)


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse(ThroughputOptions, argv, prog="python scripts/measure/throughput.py", description=__doc__)
    from benchmarking.timing import machine, start  # imports torch; --help does without
    from context_i2w.evaluation.report import write_json
    from context_i2w.model.clip_weights import load_clip
    from context_i2w.training.options import usual_precision

    device = start(asked)
    asked = replace(asked, precision=asked.precision or usual_precision(device.type == "cuda"))
    clip = load_clip(asked.model, None, device)
    keys = ("model", "images", "batch_size", "workers", "precision")
    report: dict[str, Any] = {"machine": machine(device)} | {key: getattr(asked, key) for key in keys}
    with tempfile.TemporaryDirectory(prefix="measure-throughput-") as made:
        report["pairs_per_second"] = dict(rates(asked, clip, Path(made)))
    print(json.dumps(report, indent=1))
    if asked.output:
        write_json(report, asked.output)


def rates(asked: ThroughputOptions, clip: Any, folder: Path) -> Iterator[tuple[str, float]]:
    """Name and pairs per second of every way."""
    from benchmarking.input_ways import make_pairs, write_shards
    from benchmarking.made_cache import random_cache
    from context_i2w.data.augmentation import TrainPreparation
    from context_i2w.data.batches import ListSource
    from context_i2w.data.pairs import ImagePairs
    from context_i2w.data.shards import ShardSource
    from context_i2w.distributed import Process
    from context_i2w.model.fast_images import FastPreparation
    from context_i2w.model.prompts import Tokenizer

    process, length = Process(device=clip.device), clip.sizes.context_length
    common = (asked.batch_size, 0, process, asked.workers)
    pairs, fast = make_pairs(folder, asked.images), FastPreparation(*clip.transform)
    write_shards(folder / "shards", pairs)
    listed = ListSource(ImagePairs(pairs, fast, True, 0, length), len(pairs), *common)
    prepare, tokenizer = TrainPreparation(fast, True), Tokenizer(length)
    sharded = ShardSource(str(folder / "shards"), "masked_title", prepare, tokenizer, *common)
    sources: dict[str, Any] = {"list": listed, "shards": sharded}
    for kept in ("fp16", "int8"):
        cache = random_cache(folder / kept, clip.sizes, asked.images, kept)
        sources[f"cache, {kept}"] = ListSource(cache, asked.images, *common)
    for name, source in sources.items():
        if name != "shards":
            yield f"memory, {name.replace('list', 'images')}", rate(asked, clip, Held(source))
        yield name, rate(asked, clip, source)
        source.close()


class Held:
    """The first batch of a source, as many times as it has batches."""

    def __init__(self, source: Any):
        self.batch = next(source.epoch(0))
        self.batch_size, self.batches, self.order = source.batch_size, source.batches, "one batch"

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        return iter([self.batch] * self.batches)


def rate(asked: ThroughputOptions, clip: Any, source: Any) -> float:
    """Pairs per second of the passes after the first."""
    import torch

    from benchmarking.timing import synchronise
    from context_i2w.distributed import Process
    from context_i2w.model.mappers import ContextI2W
    from context_i2w.training.options import OptimOptions, TrainOptions
    from context_i2w.training.trainer import Trainer

    torch.manual_seed(0)
    mapper, process = ContextI2W(clip.sizes).to(clip.device), Process(device=clip.device)
    options = TrainOptions(batch_size=asked.batch_size, precision=asked.precision)
    trainer = Trainer(clip, mapper, source, options, OptimOptions(), process)
    begun = 0.0
    for epoch in range(asked.passes + 1):
        for batch in source.epoch(epoch):
            trainer.step(batch)
        synchronise(clip.device)
        begun = begun or time.perf_counter()
    return asked.passes * source.batches * asked.batch_size / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
