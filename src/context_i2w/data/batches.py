"""Batches of an epoch for one process, whatever the pairs come from."""

import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, Protocol

from torch.utils.data import DataLoader, Dataset

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


class ListSource:
    """Batches of a list's rows, from images (ImagePairs) or from cached features (FeatureCache).

    order: of an epoch's rows, with what a resumed run is told that it must have too; at random if left out.
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
    ):
        self.rows, self.batch_size, self.workers = rows, batch_size, workers
        self.sampler = EpochBatches(count, batch_size, seed, process.rank, process.world, order and order[1])
        self.batches = self.sampler.batches
        self.order = f"{count} pairs{f', {order[0]}' if order else ''}"
        self.pin = process.device.type == "cuda"
        if self.batches == 0:
            whole = batch_size * process.world
            raise UserError(f"{count} training pairs do not fill one batch of {whole}; lower --batch-size")

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        self.sampler.epoch, self.sampler.start = epoch, start
        return read(self.rows, self.workers, sampler=self.sampler, pin_memory=self.pin)


def read(rows: Dataset, workers: int, **options) -> Iterator[Any]:
    """The items of `rows`, which are whole batches; read ahead by so many processes.

    Processes are forked where that works: in a process that was spawned itself they would be spawned too by default,
    and import torch first, for seconds. Ctrl-C and the scheduler's signals reach them too, but they go on until this
    iterator is closed: it is for the training process to decide. Raises UserError if one of them dies.
    """
    forked = "fork" if workers and sys.platform == "linux" else None
    ending = multiprocessing.get_context(forked).Event() if workers else None
    loader = DataLoader(
        rows,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=forked,
        worker_init_fn=functools.partial(_decide_on_signals, ending) if ending else None,
        **options,
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = str(error).splitlines()[0].strip()
        raise UserError(
            f"a reading process died ({reason}); if nobody ended it, memory ran out: lower --workers"
        ) from None
    finally:
        if ending:
            ending.set()


def _decide_on_signals(ending: Any, worker: int) -> None:
    """A reader goes on at signals, unless its work is over: it might wait for a file that never comes."""

    def on_signal(number: int, _: Any) -> None:
        if ending.is_set():
            os._exit(0)

    signal.signal(signal.SIGTERM, on_signal)
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
