"""Batches of an epoch for one process, whatever the pairs come from."""

from collections.abc import Iterator
from typing import Protocol

from context_i2w.data.batch import Batch
from context_i2w.data.pairs import EpochBatches, Order
from context_i2w.data.reading import Reading
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

    def close(self) -> None:
        """Ends the processes that read; another epoch would begin with new ones."""
        ...


class Rows(Protocol):
    """Rows of a list."""

    def reading(self, sampler: EpochBatches, workers: int, pin_memory: bool) -> Reading:
        """Batches by the sampler's (epoch, row numbers), read ahead in the best way for them."""
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
        self.batch_size = batch_size
        self.sampler = EpochBatches(count, batch_size, seed, process.rank, process.world, order and order[1])
        self.batches = self.sampler.batches
        self.order = f"{count} pairs{f', {order[0]}' if order else ''}"
        if self.batches == 0:
            whole = batch_size * process.world
            raise UserError(f"{count} training pairs do not fill one batch of {whole}; lower --batch-size")
        self.reading = rows.reading(self.sampler, workers, process.device.type == "cuda")

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        self.sampler.epoch, self.sampler.start = epoch, start
        return iter(self.reading)

    def close(self) -> None:
        self.reading.close()
