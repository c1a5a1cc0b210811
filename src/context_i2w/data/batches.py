"""Batches of an epoch for one process, whatever the pairs come from."""

from collections.abc import Callable, Iterator
from typing import Protocol

from torch.utils.data import Dataset

from context_i2w.data.pairs import Batch, EpochBatches, Order
from context_i2w.data.reading import read
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


class ListSource:
    """Batches of a list's rows, from images (ImagePairs) or from cached features (FeatureCache).

    order: of an epoch's rows, with what a resumed run is told that it must have too; at random if left out. reading:
    by processes (`read`) or, where rows lie in memory, by threads.
    """

    def __init__(
        self,
        rows: Dataset,
        count: int,
        batch_size: int,
        seed: int,
        process: Process,
        workers: int = 0,
        order: tuple[str, Order | None] | None = None,
        reading: Callable[..., Iterator[Batch]] = read,
    ):
        self.rows, self.batch_size, self.workers, self.reading = rows, batch_size, workers, reading
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
