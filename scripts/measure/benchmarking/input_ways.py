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
from context_i2w.data.batches import ListSource, PairSource
from context_i2w.data.packed_strings import Strings
from context_i2w.data.pairs import ImagePairs, PairList
from context_i2w.data.reading import ReadingProcesses, batched
from context_i2w.data.shards import ShardSource
from context_i2w.distributed import Process
from context_i2w.model.fast_images import FastPreparation
from context_i2w.model.identity import clip_transform
from context_i2w.model.images import Preparation, open_image
from context_i2w.model.prompts import Tokenizer

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
    tokenizer, transform = Tokenizer(), clip_transform(args.image_size)
    fast, exact = FastPreparation(*transform), Preparation(*transform)
    common = (args.batch_size, 0, Process(), args.workers)  # batch size, seed, process, workers

    def listed(preparation: Preparation) -> ListSource:
        return ListSource(ImagePairs(pairs, preparation, True, 0, tokenizer.context_length), len(pairs), *common)

    def counted(source: PairSource) -> Callable[[int], int]:
        return lambda epoch: sum(batch.size for batch in source.epoch(epoch))

    sharded = ShardSource(str(shards), "masked_title", TrainPreparation(fast, True), tokenizer, *common)
    plain = ReadingProcesses(PlainDecoding(pairs.images), args.workers, batched(range(len(pairs)), args.batch_size))
    return {
        "plain": lambda _: sum(plain),
        "list": counted(listed(fast)),
        "shards": counted(sharded),
        "list_exact": counted(listed(exact)),
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
