"""Batches of an epoch for one process, whatever the pairs come from."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from context_i2w.data.pairs import Batch, EpochBatches, Order
from context_i2w.distributed import Process
from context_i2w.errors import UserError


class PairSource(Protocol):
    """What the training loop asks of its data."""

    batch_size: int  # of this process
    batches: int  # of one epoch
    order: str  # all that the order of pairs depends on but seed and global batch; a resumed run must have the same

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on, the same in every run with the same seed."""
        ...


class Rows(Protocol):
    """What a list's rows give: batches, by (epoch, row numbers)."""

    def __getitem__(self, key: tuple[int, Sequence[int]]) -> Batch: ...

    def reading(self, batch_size: int) -> Callable[..., Iterator[Batch]]:
        """How batches of that size are read ahead: as `reading.read`."""
        ...


class ListSource:
    """Batches of a list's rows, from images (ImagePairs) or from cached features (FeatureCache).

    order: of an epoch's rows, with what a resumed run is told that it must have too; at random if left out.
    """

    def __init__(
        self,
        rows: Rows,
        count: int,
        batch_size: int,
        seed: int,
        process: Process,
        workers: int = 0,
        order: tuple[str, Order | None] | None = None,
    ):
        self.rows, self.batch_size, self.workers = rows, batch_size, workers
        self.reading = rows.reading(batch_size)
        self.sampler = EpochBatches(count, batch_size, seed, process.rank, process.world, order and order[1])
        self.batches = self.sampler.batches
        self.order = f"{count} pairs{f', {order[0]}' if order else ''}"
        self.pin = process.device.type == "cuda"
        if self.batches == 0:
            whole = batch_size * process.world
            raise UserError(f"{count} training pairs do not fill one batch of {whole}; lower --batch-size")

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        self.sampler.epoch, self.sampler.start = epoch, start
        return self.reading(self.rows, self.workers, sampler=self.sampler, pin_memory=self.pin)
