"""Batches of an epoch for one process, whatever the pairs come from."""

import signal
from collections.abc import Iterator
from typing import Protocol

from torch.utils.data import DataLoader, Dataset

from context_i2w.data.pairs import Batch, EpochBatches
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
    """Batches of a list's rows, from images (ImagePairs) or from cached features (FeatureCache)."""

    def __init__(self, rows: Dataset, count: int, batch_size: int, seed: int, process: Process, workers: int = 0):
        self.rows, self.batch_size, self.workers = rows, batch_size, workers
        self.sampler = EpochBatches(count, batch_size, seed, process.rank, process.world)
        self.batches = self.sampler.batches
        self.order = f"{count} pairs"
        self.pin = process.device.type == "cuda"
        if self.batches == 0:
            whole = batch_size * process.world
            raise UserError(f"{count} training pairs do not fill one batch of {whole}; lower --batch-size")

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        self.sampler.epoch, self.sampler.start = epoch, start
        loader = DataLoader(
            self.rows,
            sampler=self.sampler,
            batch_size=None,
            num_workers=self.workers,
            pin_memory=self.pin,
            worker_init_fn=ignore_stop_signals,
        )
        return iter(loader)


def ignore_stop_signals(worker: int) -> None:
    """For reading processes: Ctrl-C and the scheduler's signals reach them too, but the training process decides."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
