"""Ways of reading training images, and JPEGs to read where there is no list."""

import io
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm
from webdataset import TarWriter

from context_i2w.data.augmentation import TrainPreparation
from context_i2w.data.batches import ListSource
from context_i2w.data.packed_strings import Strings
from context_i2w.data.pairs import ImagePairs, PairList
from context_i2w.data.reading import batched, read
from context_i2w.data.shards import ShardSource
from context_i2w.distributed import Process
from context_i2w.model.fast_images import FastPreparation
from context_i2w.model.images import Preparation, open_image
from context_i2w.model.prompts import Tokenizer

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SHARD = 500  # samples


class PlainDecoding(Dataset):
    """Decodes files and drops them; indexed by lists of rows."""

    def __init__(self, files: Strings):
        self.files = files

    def __getitem__(self, rows: Sequence[int]) -> int:
        for row in rows:
            open_image(self.files[row]).convert("RGB")
        return len(rows)


def make_ways(pairs: PairList, shards: Path, args) -> dict[str, Callable[[int], int]]:
    """Each way as a function of the round's number that reads everything once and returns how many images it read."""
    tokenizer = Tokenizer()
    fast, exact = (kind(args.image_size, CLIP_MEAN, CLIP_STD) for kind in (FastPreparation, Preparation))
    from_list, from_list_exactly = (
        ListSource(
            ImagePairs(pairs, preparation, True, 0, tokenizer.context_length),
            len(pairs),
            args.batch_size,
            0,
            Process(),
            args.workers,
        )
        for preparation in (fast, exact)
    )
    prepare = TrainPreparation(fast, True)
    from_shards = ShardSource(
        str(shards), "masked_title", prepare, tokenizer, args.batch_size, 0, Process(), args.workers
    )
    batches = batched(range(len(pairs)), args.batch_size)
    return {
        "plain": lambda _: sum(read(PlainDecoding(pairs.images), args.workers, sampler=batches)),
        "list": lambda epoch: sum(batch.size for batch in from_list.epoch(epoch)),
        "shards": lambda epoch: sum(batch.size for batch in from_shards.epoch(epoch)),
        "list_exact": lambda epoch: sum(batch.size for batch in from_list_exactly.epoch(epoch)),
    }


def measure(ways: dict[str, Callable[[int], int]], rounds: int) -> dict[str, list[float]]:
    """Images per second of each way in each round; the ways take turns, after a round that is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in tqdm(range(rounds + 1), desc="measuring", unit="round", dynamic_ncols=True):
        for name, way in ways.items():
            begin = time.perf_counter()
            images = way(number)
            if number:
                rates[name].append(images / (time.perf_counter() - begin))
    return rates


def report(rates: dict[str, list[float]], count: int, args, size: int) -> dict:
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "images": count,
        "workers": args.workers,
        "rounds": args.rounds,
        "mean_file_bytes": size // count,
        "images_per_second": {name: round(value, 1) for name, value in medians.items()},
        "range": {name: [round(min(values), 1), round(max(values), 1)] for name, values in rates.items()},
        "share_of_plain": {name: round(value / medians["plain"], 3) for name, value in medians.items()},
        "times_exact": {name: round(value / medians["list_exact"], 3) for name, value in medians.items()},
    }


def first(count: int, pairs: PairList) -> PairList:
    kept = range(min(count, len(pairs)))
    return PairList(pairs.source, *(Strings(map(c.__getitem__, kept)) for c in (pairs.images, pairs.masked)))


def make_pairs(folder: Path, count: int) -> PairList:
    """JPEGs of 500 x 375 pixels with smooth shapes and noise, about 50 kB each, of which 50 differ."""
    random = np.random.default_rng(0)
    contents = []
    for _ in range(min(count, 50)):
        coarse = Image.fromarray(random.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize((500, 375), 3)
        noisy = np.asarray(coarse, np.int16) + random.integers(-12, 12, (375, 500, 3), dtype=np.int16)
        file = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        contents.append(file.getvalue())
    (folder / "images").mkdir()
    files = [folder / "images" / f"{number:06d}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        file.write_bytes(contents[number % len(contents)])
    return PairList(folder, Strings(map(str, files)), Strings(["a photo of <|replace|> on the beach"] * count))


def write_shards(folder: Path, pairs: PairList) -> None:
    folder.mkdir()
    for shard, rows in enumerate(batched(range(len(pairs)), SHARD)):
        with TarWriter(str(folder / f"{shard:05d}.tar")) as archive:
            for row in rows:
                content = {"jpg": Path(pairs.images[row]).read_bytes(), "json": {"masked_title": pairs.masked[row]}}
                archive.write({"__key__": f"{row:09d}", **content})
