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

from context_i2w.errors import naming_dead_readers
from context_i2w.model.images import BrokenImage

T = TypeVar("T")
OVER = "another pass has begun, or the readers were closed"
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
        """Nothing is held until another pass begins."""
        ...


class ReadingProcesses:
    """Whole batches, read by so many processes, which stay from one whole pass to the next.

    They are forked where that works: in a process that was spawned itself they would be spawned too by default, and
    import torch first, for seconds. Ctrl-C and the scheduler's signals reach them too, but they go on until `close`, or
    until a pass is left: it is for the training process to decide. A pass raises UserError if one of them dies.
    """

    def __init__(self, rows: Dataset, workers: int, sampler: Iterable):
        self._rows, self._workers, self._sampler = rows, workers, sampler
        self._running: list[tuple[Any, DataLoader]] = []
        self._end = weakref.finalize(self, _end, self._running)
        self._passes = 0

    def __iter__(self) -> Iterator[Any]:
        self._passes += 1
        number = self._passes
        with naming_dead_readers():
            try:
                for item in self._begun():
                    assert number == self._passes, OVER
                    yield item
                assert number == self._passes, OVER  # else it would be short without a word
            except GeneratorExit:
                if number == self._passes:  # else the readers are another pass's by now
                    self.close()
                raise
            except BaseException:
                self.close()  # some are still reading for this pass
                raise

    def close(self) -> None:
        """Ends the processes, whatever they do; another pass would begin with new ones."""
        self._passes += 1
        _end(self._running)
        atexit.unregister(self._end)

    def _begun(self) -> Iterator[Any]:
        """A pass. Signals wait until the processes that it starts have decided on them, else they die of one."""
        if self._running:
            return iter(self._running[0][1])
        ending, loader = self._loader()
        blocked = SIGNALS if self._workers and sys.platform != "win32" else set()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked) if blocked else None
        try:
            begun = iter(loader)
        finally:
            if before is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._running.append((ending, loader))
        atexit.register(self._end)  # runs before what DataLoader has registered, which waits seconds for each process
        return begun

    def _loader(self) -> tuple[Any, DataLoader]:
        """With the event that tells its processes that their work is over."""
        forked = "fork" if self._workers and sys.platform == "linux" else None
        ending = multiprocessing.get_context(forked).Event() if self._workers else None
        return ending, DataLoader(
            self._rows,
            batch_size=None,
            sampler=self._sampler,
            num_workers=self._workers,
            multiprocessing_context=forked,
            persistent_workers=self._workers > 0,
            worker_init_fn=functools.partial(_decide_on_signals, ending) if ending else None,
        )


def _end(running: list[tuple[Any, DataLoader]]) -> None:
    while running:
        ending, loader = running.pop()
        if ending:
            ending.set()
        if loader._iterator is not None:  # else it would wait until nobody holds the loader, a traceback for example
            loader._iterator._shutdown_workers()  # type: ignore[attr-defined]  # of the one kind that is kept


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
