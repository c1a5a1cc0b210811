"""WebDataset shards as a source of training batches, in an order that no number of processes or workers changes.

What it costs in reading: each process, and in it each worker, decodes only the rows of the global batch that are its
own, and reads the lanes (data/shard_plan.py) that they lie in. With at most 64 workers in all every shard is read once
an epoch, but for those at a lane's end, which are read twice; with more workers a lane is read by several of them.
Resuming reads up to one block of each lane again. A stream is read over up to its place, a local file skips there.
"""

import collections
import contextlib
import functools
import itertools
import json
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from context_i2w.data.augmentation import TrainPreparation
from context_i2w.data.batch import Batch, Encoded, make_batch, room_for
from context_i2w.data.broken import BrokenPair, check_caption
from context_i2w.data.options import ShardOptions
from context_i2w.data.reading import pinned
from context_i2w.data.room import Room, joined
from context_i2w.data.shard_files import BrokenShard, Sample, expand_shards, is_local, read_samples, shard_sizes
from context_i2w.data.shard_plan import Piece, ShardPlan
from context_i2w.distributed import Process
from context_i2w.errors import UserError
from context_i2w.files import list_some
from context_i2w.model.prompts import Tokenizer

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "image", "img")


class ShardSource:
    """Batches of shards, as PairSource.

    A sample that is broken, or missing although the sizes promise it, leaves its batch smaller and is listed in it.
    Raises UserError for missing shards or sizes, too few samples, or a masked caption that samples do not have.
    """

    def __init__(
        self,
        data: str,
        masked: str,
        prepare: TrainPreparation,
        tokenizer: Tokenizer,
        batch_size: int,
        seed: int,
        process: Process,
        workers: int = 0,
        options: ShardOptions | None = None,
    ):
        options = options or ShardOptions()
        shards = expand_shards(data)
        check_masked(shards[0], masked)
        sizes = shard_sizes(shards, options.samples, process.is_first)
        plan = ShardPlan(tuple(sizes), batch_size * process.world, seed, options.shuffle)
        self.batch_size, self.batches = batch_size, plan.batches
        workers = min(workers, batch_size)
        self.order = f"{len(sizes)} shards of {sum(sizes)} samples, shuffled by {options.shuffle}"
        self.pin = process.device.type == "cuda"
        if plan.batches == 0:
            raise UserError(f"{sum(sizes)} samples in {data} do not fill one batch of {plan.global_batch}")
        own = range(process.rank * batch_size, (process.rank + 1) * batch_size)
        rows = ShardRows(shards, masked, prepare, tokenizer, plan, own)
        self.parts, self.numbers = max(workers, 1), _Numbers(plan.batches)  # a part of each worker in turn
        self.reading = Room(room_for(prepare, batch_size), rows, workers, self.numbers, self.parts)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        self.numbers.epoch, self.numbers.start = epoch, start
        for parts in zip(*[iter(self.reading)] * self.parts):
            yield pinned(_joined(parts)) if self.pin else _joined(parts)

    def close(self) -> None:
        self.reading.close()


class _Numbers:
    """(epoch, number) of an epoch's batches from `start` on."""

    def __init__(self, batches: int):
        self.batches, self.epoch, self.start = batches, 0, 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, batch) for batch in range(self.start, self.batches))


class ShardRows:
    """Rows of each global batch. Whoever asks for the same ones of batch after batch finds its streams open."""

    def __init__(
        self,
        shards: list[str],
        masked: str,
        prepare: TrainPreparation,
        tokenizer: Tokenizer,
        plan: ShardPlan,
        rows: range,
    ):
        self.shards, self.masked, self.prepare, self.tokenizer = shards, masked, prepare, tokenizer
        self.plan, self.rows = plan, rows
        self.streams: list[Iterator[Sample | BrokenPair | None]] = []
        self.next: tuple | None = None

    def fill(self, key: tuple[int, int], own: slice, place: np.ndarray) -> Batch:
        epoch, batch = key
        rows, per_lane = self.rows[own], self.plan.rows
        if self.next != (epoch, batch, own):
            lanes = range(rows.start // per_lane, (rows.stop - 1) // per_lane + 1)
            wanted = {lane: [row in rows for row in _rows_of(lane, per_lane)] for lane in lanes}
            self.streams = [self._slots(epoch, batch, *one) for one in wanted.items()]
        self.next = None
        slots = itertools.chain.from_iterable(itertools.islice(stream, per_lane) for stream in self.streams)
        samples = (slot for slot in slots if slot is not None)
        made = make_batch(functools.partial(self._encoded, epoch), samples, self.prepare, self.tokenizer, place)
        self.next = (epoch, batch + 1, own)
        if batch + 1 == self.plan.batches:
            self.streams = []
        return made

    def _slots(self, epoch: int, start: int, lane: int, wanted: list[bool]) -> Iterator[Sample | BrokenPair | None]:
        """The lane's samples in the order of the epoch from batch `start` on; None in rows that are not `wanted`."""
        plan, reader = self.plan, _Reader(self.shards)
        first, skip = divmod(start * plan.rows, plan.block)
        for number, block in enumerate(plan.blocks(epoch, lane, first), first):
            slots = enumerate(block.order, number * plan.block)
            needed = {int(place) for slot, place in slots if wanted[slot % plan.rows]}
            samples = itertools.chain.from_iterable(map(reader.read, block.pieces))
            held = {place: sample for place, sample in enumerate(samples) if place in needed}
            yield from (held.pop(int(place), None) for place in block.order[skip:])
            skip = 0

    def _encoded(self, epoch: int, sample: Sample | BrokenPair) -> Encoded:
        if isinstance(sample, BrokenPair):
            raise sample
        caption = check_caption(sample.name, masked_caption(sample, self.masked))
        content = next((c for ending, c in sample.members.items() if ending.split(".")[-1] in IMAGE_ENDINGS), None)
        if content is None:
            raise BrokenPair(sample.name, "no image in the sample")
        return Encoded(sample.name, content, caption, f"{self.plan.seed}-{epoch}-{sample.name}")


class _Reader:
    """One lane's place in the shards."""

    def __init__(self, shards: list[str]):
        self.shards, self.place = shards, (-1, 0)

    def read(self, piece: Piece) -> Iterator[Sample | BrokenPair]:
        """As many samples as the piece has; a BrokenPair for each that is not there."""
        if self.place != (piece.shard, piece.begin):
            self.samples, self.fault = read_samples(self.shards[piece.shard], piece.begin), "missing from its shard"
        self.place = (piece.shard, piece.end)
        for number in range(piece.begin, piece.end):
            try:
                sample = next(self.samples, None)
            except BrokenShard:
                sample, self.fault = None, "shard can't be read"
            yield sample or BrokenPair(f"{self.shards[piece.shard]}, sample {number}", self.fault)


def masked_caption(sample: Sample, name: str) -> str:
    """The masked caption: a text member with the ending `name` or `name.txt`, else the JSON's field `name`.

    Bytes that are not UTF-8 become U+FFFD. Raises BrokenPair if there is none, or the JSON can't be read.
    """
    text = sample.members.get(name.lower(), sample.members.get(f"{name.lower()}.txt"))
    if text is not None:
        return text.decode("utf-8", errors="replace")
    fields = json_fields(sample)
    if fields is None:
        raise BrokenPair(sample.name, "JSON can't be read")
    caption = fields.get(name)
    if not isinstance(caption, str):
        raise BrokenPair(sample.name, "no masked caption")
    return caption


def json_fields(sample: Sample) -> dict | None:
    """What the sample's JSON holds; None if it can't be read."""
    try:
        fields = json.loads(sample.members.get("json", b"{}").decode("utf-8-sig", errors="replace"))
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else {}


def check_masked(shard: str, name: str) -> None:
    """Raises UserError, naming what the samples do hold, if none of a shard's first has the masked caption."""
    found: dict[str, None] = {}
    try:
        for sample in itertools.islice(read_samples(shard), 20):
            with contextlib.suppress(BrokenPair):
                masked_caption(sample, name)
                return
            found |= dict.fromkeys([f".{ending}" for ending in sample.members])
            found |= dict.fromkeys(json_fields(sample) or ())
        if is_local(shard):
            collections.deque(read_samples(shard, 1 << 60), maxlen=0)  # are its files sorted by kind?
    except BrokenShard as error:
        raise UserError(f"{error}; give --train-data shards that can be read") from None
    raise UserError(
        f"{shard}: no member or JSON field {name!r}; found {list_some([*found], 20) or 'no samples'}; add it with "
        f"`python scripts/mask_captions.py` or name it with --masked-column"
    )


def _rows_of(lane: int, per_lane: int) -> range:
    return range(lane * per_lane, (lane + 1) * per_lane)


def _joined(parts: Sequence[Batch]) -> Batch:
    """One batch from the workers' shares, in the order of rows."""
    broken = tuple(itertools.chain.from_iterable(part.broken for part in parts))
    ids = torch.cat([part.condition_ids for part in parts])
    images, targets = (joined([getattr(part, name) for part in parts]) for name in ("images", "targets"))
    return Batch(ids, images=images, broken=broken, targets=targets)
