"""Reading ahead by other processes or threads: whole batches of whatever kind, and images for the vision tower."""

import atexit
import collections
import functools
import multiprocessing
import os
import signal
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from context_i2w.errors import UserError
from context_i2w.model.images import BrokenImage

T = TypeVar("T")
SIGNALS = {signal.SIGTERM, signal.SIGINT} | ({signal.SIGUSR1} if sys.platform != "win32" else set())


class Images(NamedTuple):
    """Images for one vision pass: those that can be read, by number, and why the others can't."""

    numbers: list[int]  # n of them
    pixels: Tensor  # [n, 3, S, S], as FrozenCLIP.encode_image takes them
    broken: dict[int, BrokenImage]


def read_images(prepare: Callable[[int], Tensor], batches: Iterable[Sequence[int]], workers: int) -> Iterator[Images]:
    """The images of each batch of numbers, in order: all that CLIP sees outside training comes this way.

    prepare: from a number to [3, S, S], bytes; raises BrokenImage. It is sent to the reading processes.
    """
    return read(_Prepared(prepare), workers, sampler=batches)


class _Prepared(Dataset):
    def __init__(self, prepare: Callable[[int], Tensor]):
        self.prepare = prepare

    def __getitem__(self, numbers: Sequence[int]) -> Images:
        pixels, broken = {}, {}
        for number in numbers:
            try:
                pixels[number] = self.prepare(number)
            except BrokenImage as error:
                broken[number] = error
        return Images(list(pixels), torch.stack([*pixels.values()]) if pixels else torch.empty(0), broken)


def batched(items: Iterable[T], size: int) -> list[list[T]]:
    """`size` items a batch, fewer in the last."""
    items = list(items)
    return [items[start : start + size] for start in range(0, len(items), size)]


class Reading(Protocol):
    """Items of some rows by their keys, read ahead; from the sampler's beginning each time that it is iterated.

    One pass at a time; a pass may be left before its end.
    """

    def __iter__(self) -> Iterator[Any]: ...

    def close(self) -> None:
        """No pass will follow."""
        ...


class ReadingProcesses:
    """Whole batches, read by so many processes, which stay from one pass to the next.

    They are forked where that works: in a process that was spawned itself they would be spawned too by default, and
    import torch first, for seconds. Ctrl-C and the scheduler's signals reach them too, but they go on until `close`: it
    is for the training process to decide. A pass raises UserError if one of them dies.
    """

    def __init__(self, rows: Dataset, workers: int, sampler: Iterable):
        forked = "fork" if workers and sys.platform == "linux" else None
        ending = multiprocessing.get_context(forked).Event() if workers else None
        loader: DataLoader = DataLoader(
            rows,
            batch_size=None,
            sampler=sampler,
            num_workers=workers,
            multiprocessing_context=forked,
            persistent_workers=workers > 0,
            worker_init_fn=functools.partial(_decide_on_signals, ending) if ending else None,
        )
        self._loaders = [loader]
        self._end = weakref.finalize(self, _end, ending, self._loaders)

    def __iter__(self) -> Iterator[Any]:
        (loader,) = self._loaders
        try:
            begun = _begun(loader)
            atexit.unregister(self._end)
            atexit.register(self._end)  # before what DataLoader has registered, which waits seconds for each process
            yield from begun
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            died = f"a reading process died ({str(error).splitlines()[0].strip()})"
            raise UserError(f"{died}; if nobody ended it, memory ran out: lower --workers") from None

    def close(self) -> None:
        """Ends the processes, whatever they do."""
        self._end()
        atexit.unregister(self._end)


def read(rows: Dataset, workers: int, sampler: Iterable) -> Iterator[Any]:
    """One pass of ReadingProcesses."""
    reading = ReadingProcesses(rows, workers, sampler)
    try:
        yield from reading
    finally:
        reading.close()


class ReadingThreads:
    """For items that are copied from memory rather than computed: threads need not send them.

    So many items are on their way at a time; each is a (named) tuple of tensors, pinned by the thread that read it.
    """

    def __init__(self, rows: Any, workers: int, sampler: Iterable, pin_memory: bool = False):
        self.rows, self.workers, self.sampler, self.pin = rows, workers, sampler, pin_memory

    def __iter__(self) -> Iterator[Any]:
        if not self.workers:
            yield from map(self._item, self.sampler)
            return
        with ThreadPoolExecutor(self.workers) as threads:
            coming: collections.deque[Future] = collections.deque()
            try:
                for key in self.sampler:
                    coming.append(threads.submit(self._item, key))
                    if len(coming) > self.workers:
                        yield coming.popleft().result()
                while coming:
                    yield coming.popleft().result()
            finally:
                threads.shutdown(cancel_futures=True)

    def close(self) -> None:
        pass

    def _item(self, key: Any) -> Any:
        return pinned(self.rows[key]) if self.pin else self.rows[key]


class Pinned:
    """A Reading's items, copied into memory that a GPU reads by itself, where that is wanted."""

    def __init__(self, reading: Reading, wanted: bool):
        self.reading, self.wanted = reading, wanted

    def __iter__(self) -> Iterator[Any]:
        return map(pinned, self.reading) if self.wanted else iter(self.reading)

    def close(self) -> None:
        self.reading.close()


def pinned(item: Any) -> Any:
    """An item's tensors copied to memory that a GPU reads by itself, by NumPy.

    torch would start threads of its own in each reading thread.
    """
    if isinstance(item, tuple):
        parts = map(pinned, item)
        return type(item)(*parts) if hasattr(item, "_fields") else tuple(parts)
    if not isinstance(item, Tensor):
        return item
    copy = torch.empty_like(item, pin_memory=True)
    np.copyto(copy.numpy(), item.numpy())
    return copy


def _end(ending: Any, loaders: list[DataLoader]) -> None:
    if ending:
        ending.set()
    loaders.clear()  # the last reference: DataLoader waits for its processes, and ends those that are stuck


def _begun(loader: DataLoader) -> Iterator[Any]:
    """Its iterator; signals wait until the processes that it starts have decided on them, else they die of one."""
    if not loader.num_workers or sys.platform == "win32":
        return iter(loader)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _decide_on_signals(ending: Any, worker: int) -> None:
    """A reader goes on at signals, unless its work is over: it might wait for a file that never comes."""

    def on_signal(number: int, _: Any) -> None:
        if ending.is_set():
            os._exit(0)

    signal.signal(signal.SIGTERM, on_signal)
    for number in SIGNALS - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
